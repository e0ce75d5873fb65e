"""What the laws are tried on: weights with zeros and equal values among them, granularities, factors."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dfmpc_onnx.numerics.granularity import PerAxis, PerTensor

# Far enough from the subnormals that a power of two times a weight is exact.
_magnitudes = st.floats(2.0**-20, 8.0, width=32)
elements = st.one_of(st.just(0.0), _magnitudes, _magnitudes.map(lambda x: -x))
powers_of_two = st.integers(-20, 20).map(lambda k: np.float32(2.0**k))
widths = st.integers(2, 8)
seeds = st.integers(0, 2**32 - 1)


def weights(min_dims=1, max_dims=4):
    shapes = hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=4)
    return hnp.arrays(np.float32, shapes, elements=elements)


@st.composite
def sliced_weights(draw):
    """A weight and one of the granularities that it can have."""
    weight = draw(weights())
    axis = draw(st.none() | st.integers(0, weight.ndim - 1))
    return weight, PerTensor() if axis is None else PerAxis(axis)
