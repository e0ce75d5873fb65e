import numpy as np
import pytest

from dfmpc_onnx.numerics.proportions import Z95, samples_for, wilson_interval


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (5, 10), (10, 10), (31, 32), (380, 400)])
def test_at_both_ends_the_count_is_two_deviations_away(hits, count):
    """The definition: ends where ``|hits / n - p| = z sqrt(p (1 - p) / n)``, found by trying every p."""
    p = np.linspace(0, 1, 1_000_001)
    near = np.abs(hits / count - p) <= Z95 * np.sqrt(p * (1 - p) / count) + 1e-12
    assert wilson_interval(hits, count) == pytest.approx((p[near].min(), p[near].max()), abs=2e-6)


def test_no_sample_tells_nothing():
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_so_many_hits_put_the_lower_end_at_the_share(share):
    count = samples_for(share)
    assert wilson_interval(count, count)[0] >= share > wilson_interval(count - 1, count - 1)[0]
