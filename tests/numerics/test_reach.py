import numpy as np

from dfmpc_onnx.numerics.reach import Reach, pushed_reach


def test_moments_reach_eight_deviations_to_both_sides():
    reach = Reach.of_moments(np.array([1.0, -2.0]), np.array([0.25, 0.0]))
    np.testing.assert_allclose([reach.low, reach.high], [[-3.0, -2.0], [5.0, -2.0]])
    assert reach.bounds == (-3.0, 5.0)


def test_entries_are_pushed_along_the_signs_of_the_weights():
    rows = np.array([[[2.0, -1.0]]], np.float32)
    entries = Reach(np.array([[1.0, 1.0]]), np.array([[0.0, -2.0]]), np.array([[4.0, 5.0]]))
    reach = pushed_reach(rows, entries, np.array([10.0]))
    assert reach.mean == 10 + 2 - 1
    np.testing.assert_allclose(reach.high, 11 + np.hypot(2 * 3, 1 * 3), rtol=1e-6)  # up the first, down the second
    np.testing.assert_allclose(reach.low, 11 - np.hypot(2 * 1, 1 * 4), rtol=1e-6)


def test_groups_are_pushed_each_by_its_own_entries():
    rows = np.array([[[1.0]], [[-3.0]]], np.float32)
    entries = Reach(np.zeros((2, 1)), np.array([[-1.0], [0.0]]), np.array([[2.0], [5.0]]))
    reach = pushed_reach(rows, entries)
    np.testing.assert_allclose([reach.low, reach.high], [[-1, -15], [2, 0]])


def test_what_is_seldom_active_goes_as_far_as_it_may_and_other_channels_stay():
    measured = Reach.of_moments(np.zeros(2), np.array([0.0, 1.0]))
    roused = measured.roused(Reach(np.zeros(2), np.zeros(2), np.array([6.0, 12.0])))
    np.testing.assert_allclose(roused.high, [6, 8])
    np.testing.assert_allclose(roused.low, [0, -8])


def test_the_variance_that_a_sample_did_not_show_is_that_of_what_was_roused():
    reach = Reach(np.zeros(2), np.zeros(2), np.array([16.0, 8.0]))
    np.testing.assert_allclose(reach.unseen(np.array([0.01, 1.0])), [4.0, 0.0])
