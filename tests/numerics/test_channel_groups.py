"""Which channels are of one scale, found without labels."""

import numpy as np
import pytest

from dfmpc_onnx.numerics import channel_groups
from dfmpc_onnx.numerics.channel_groups import array_groups, channel_axes
from dfmpc_onnx.numerics.output_loss import output_loss

RNG = np.random.default_rng(0)


def detections(images=2, classes=20, anchors=300):
    """Boxes in pixels and scores of 0 to 1, ``[images, 4 + classes, anchors]``."""
    boxes = RNG.uniform(0, 640, (images, 4, anchors))
    scores = RNG.beta(0.5, 3, (images, classes, anchors))
    return np.concatenate([boxes, scores], axis=1).astype(np.float32)


def channels_of(plain):
    found = array_groups(plain)
    return None if found is None else [group.tolist() for group in found.groups]


BOXES_AND_SCORES = [list(range(4)), list(range(4, 24))]


@pytest.mark.parametrize(
    ("arranged", "axis"),
    [(lambda x: x, 1), (lambda x: x.transpose(0, 2, 1), 2), (lambda x: x.transpose(0, 2, 1).reshape(-1, 24), 1),
     (lambda x: x.reshape(2, 24, 15, 20), 1), (lambda x: x.reshape(2, 24, 3, 10, 10).transpose(0, 2, 3, 4, 1), 4)],
)  # fmt: skip
def test_boxes_and_scores_are_two_groups_however_they_lie(arranged, axis):
    plain = arranged(detections())
    found = array_groups(plain)
    assert found.axis == axis and channels_of(plain) == BOXES_AND_SCORES


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_one_weak_logit_of_a_few_is_no_group(channels):
    scales = np.array([10.0] * (channels - 1) + [0.5])
    assert array_groups(RNG.standard_normal((64, channels)) * scales) is None
    boxes_and_score = RNG.standard_normal((2, 5, 300)) * np.array([300.0] * 4 + [1.0]).reshape(5, 1)
    assert channels_of(boxes_and_score) == [[0, 1, 2, 3], [4]]


def test_groups_need_not_be_neighbours():
    plain = detections()[:, [4, 0, 5, 1, 6, 7]]
    assert channels_of(plain) == [[1, 3], [0, 2, 4, 5]]


@pytest.mark.parametrize(
    "plain",
    [
        RNG.standard_normal((16, 1000)) * 3 + RNG.standard_normal(1000) * 4,  # logits
        np.maximum(RNG.standard_normal((16, 512)) - RNG.uniform(0, 2, 512), 0),  # an embedding behind a Relu
        RNG.dirichlet(np.full(10, 0.05), 16),  # probabilities, most of them near 0
        1 / (1 + np.exp(RNG.standard_normal((2, 80, 400)) + RNG.uniform(0, 20, (80, 1)))),  # scores of rare classes
        RNG.standard_normal((4, 21, 16, 16)),  # a map
        RNG.standard_normal((1, 10)) * 10.0 ** np.arange(10),  # one value says nothing of a channel
        np.zeros((4, 5)), np.ones((3, 4, 5)), np.zeros((0, 5)), np.array(3.0), np.arange(7.0),
        np.full((4, 3), 1e200) * np.array([1.0, 1e-90, 1e100]),
    ],
)  # fmt: skip
def test_ordinary_outputs_are_one_group(plain):
    with np.errstate(over="ignore"):
        assert array_groups(plain) is None


def test_what_is_constant_goes_with_the_largest_and_a_lone_small_channel_with_the_next():
    plain = detections()
    plain[:, 7], plain[:, 9] = 0, 1e-6
    assert channels_of(plain) == [[0, 1, 2, 3, 7, 9], [4, 5, 6, 8, *range(10, 24)]]
    plain[:, 11] *= 1e-5
    assert channels_of(plain)[1] == [4, 5, 6, 8, *range(10, 24)]


def test_two_axes_with_groups_the_one_that_is_farther_apart_counts():
    plain = RNG.standard_normal((2, 3, 8, 8, 6)) * np.array([10, 1, 1]).reshape(3, 1, 1, 1)
    assert array_groups(plain).axis == 1
    assert array_groups(plain * np.array([500, 500, 1, 1, 1, 1])).axis == 4


def test_of_three_dimensions_the_shorter_holds_the_channels():
    assert channel_axes((1, 84, 8400)) == (1,) and channel_axes((1, 8400, 85)) == (2,)
    assert channel_axes((1, 84, 20)) == (2, 1)  # both are short
    assert channel_axes((4, 7, 1)) == (1,) and channel_axes((4, 1)) == channel_axes((4,)) == ()


def test_a_few_rows_are_summed_at_a_time(monkeypatch):
    plain = detections(5)
    whole = array_groups(plain)
    monkeypatch.setattr(channel_groups, "VALUES_SUMMED_AT_ONCE", 1)
    parts = array_groups(plain)
    assert whole.floor == pytest.approx(parts.floor) and parts.axis == whole.axis


@pytest.mark.parametrize(("damaged", "kept"), [(slice(0, 4), slice(4, 24)), (slice(4, 24), slice(0, 4))])
def test_the_loss_is_that_of_the_worst_group(damaged, kept):
    """Four boxes that are lost beside twenty exact scores cost a sixth where all channels are averaged."""
    plain = detections()
    hat = plain.copy()
    hat[:, damaged] = plain[:, damaged].mean()
    loss = output_loss(plain, hat)
    assert loss.share_of_variance == loss.share_between_images > 0.8
    assert output_loss(plain, hat, array_groups(plain)) == loss


def test_a_vector_of_unlike_scales_loses_what_its_worst_group_loses():
    plain = np.concatenate([100 * RNG.standard_normal((8, 4)), RNG.standard_normal((8, 6))], axis=1)
    hat = plain + np.concatenate([np.zeros((8, 4)), 0.3 * RNG.standard_normal((8, 6))], axis=1)
    loss, alone = output_loss(plain, hat), output_loss(plain[:, 4:], hat[:, 4:])
    assert loss.vector and loss.share_of_variance > 0.03
    assert loss.share_of_variance == pytest.approx(alone.share_of_variance)
    assert loss.share_between_images == pytest.approx(alone.share_between_images)


def test_what_is_fainter_than_float32_resolves_beside_the_largest_is_not_judged_by_its_own_scale():
    plain = detections()
    plain[:, 4:] *= 1e-9
    hat = plain.copy()
    hat[:, 4:] += 1e-9 * RNG.standard_normal(hat[:, 4:].shape).astype(np.float32)
    assert output_loss(plain, hat).share_of_variance < 1e-3
    hat[:, 4:] += 1
    assert output_loss(plain, hat).share_of_variance == 1
