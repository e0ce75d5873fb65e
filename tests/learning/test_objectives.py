"""What learned images are asked for; none of it needs PyTorch."""

import numpy as np
import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.learning.objectives import OBJECTIVES, balanced_labels, enhancement, find_objective


def test_with_as_many_images_as_layers_the_weights_are_the_published_identity_plus_ones():
    assert np.array_equal(enhancement(4, 4, enhanced=True), np.eye(4) + 1)


def test_each_image_enhances_one_layer_and_layers_take_turns():
    weights = enhancement(7, 3, enhanced=True)
    assert np.array_equal(weights.sum(axis=1), np.full(7, 4.0))
    assert np.array_equal(weights.argmax(axis=1), [0, 1, 2, 0, 1, 2, 0])


def test_without_enhancement_all_layers_weigh_the_same():
    assert np.array_equal(enhancement(5, 3, enhanced=False), np.ones((5, 3)))


def test_labels_name_every_class_before_any_class_comes_again():
    labels = balanced_labels(25, 10, seed=3)
    assert sorted(labels[:10]) == sorted(labels[10:20]) == list(range(10))
    assert len(labels) == 25 and labels.dtype == np.int64
    assert np.array_equal(labels, balanced_labels(25, 10, seed=3))
    assert not np.array_equal(labels, balanced_labels(25, 10, seed=4))


def test_the_objectives_differ_as_their_papers_say():
    zeroq, dsg, labelled = (OBJECTIVES[name] for name in ("zeroq", "dsg", "labelled"))
    assert (zeroq.slack, zeroq.enhanced, zeroq.labels, zeroq.each_image) == (None, False, False, False)
    assert (dsg.slack, dsg.enhanced, dsg.labels, dsg.each_image) == (0.9, True, False, True)
    assert (labelled.slack, labelled.enhanced, labelled.labels, labelled.each_image) == (None, False, True, False)


def test_a_name_that_is_none_is_one_clear_line():
    assert find_objective(" ZeroQ ").name == "zeroq"
    with pytest.raises(
        OptionError, match=r"learn 'zerok': no such objective \(did you mean zeroq\?\); give zeroq, dsg, dsg-labelled"
    ):
        find_objective("zerok")
