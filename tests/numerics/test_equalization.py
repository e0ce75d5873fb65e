import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dfmpc_onnx.numerics.equalization import gate_codes


def test_codes_are_255ths_of_the_widest_rounded_up_and_no_channel_is_enlarged_more_than_8_times():
    assert gate_codes(np.array([10.0, 5.0, 1.0, 0.01, 0.0])).tolist() == [255, 128, 32, 32, 32]
    assert gate_codes(np.zeros(3)).tolist() == [255, 255, 255]


@given(st.lists(st.floats(0, 1e30), min_size=1))
def test_no_channel_reaches_beyond_the_widest(reach):
    codes = gate_codes(np.array(reach))
    assert ((codes >= 32) & (codes <= 255) & (codes == np.rint(codes))).all() and codes.max() == 255
    assert (np.array(reach) / codes <= max(reach) / 255 * (1 + 1e-12)).all()
