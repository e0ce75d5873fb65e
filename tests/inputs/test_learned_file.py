"""The file of learned images: what marks it, and that nobody takes it for pictures of the user's."""

import dataclasses

import msgspec
import numpy as np
import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.batches import input_batch
from dfmpc_onnx.inputs.files import read_images
from dfmpc_onnx.inputs.learned_file import LearnedRecord, learned_bytes, learned_record, refuse_learned
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.samples import described_images
from dfmpc_onnx.inputs.spec import resolve
from tests.graphs import Net

RECORD = LearnedRecord("dsg", "imagenet", "given", "0" * 64, 100, 0.05, 7, "1.0")
X = np.random.default_rng(0).standard_normal((12, 3, 8, 8)).astype(np.float32)
LABELS = np.arange(12)


@pytest.fixture
def learned(tmp_path):
    path = tmp_path / "learned.npz"
    path.write_bytes(learned_bytes(X, LABELS, RECORD))
    return path


def test_images_and_record_come_back_as_they_were(learned):
    found = read_images(learned, (1, 3, 8, 8), Preprocess.parse("raw"))
    assert np.array_equal(found.x, X) and np.array_equal(found.y, LABELS)
    assert learned_record(learned) == RECORD


def test_the_same_images_make_the_same_bytes():
    assert learned_bytes(X, None, RECORD) == learned_bytes(X, None, RECORD)


def test_what_is_not_marked_was_not_learned(tmp_path):
    np.savez(tmp_path / "own.npz", x=X)
    (tmp_path / "text.npz").write_text("hello")
    for path in (tmp_path / "own.npz", tmp_path / "text.npz", tmp_path / "none.npz", tmp_path, None):
        assert learned_record(path) is None
        refuse_learned(path)


@pytest.mark.parametrize("mark", [np.array("{}"), np.array([1, 2]), np.array("no JSON"), np.array(b"{}")])
def test_a_mark_that_does_not_say_how_is_refused(tmp_path, mark):
    np.savez(tmp_path / "odd.npz", x=X, learned=mark)
    with pytest.raises(OptionError, match=r"odd\.npz: its images are marked as learned, but not how; learn them again"):
        learned_record(tmp_path / "odd.npz")


def test_learned_images_are_refused_where_they_would_show_how_good_a_network_is(learned):
    with pytest.raises(OptionError, match=r"holds learned images, .* give pictures of your own"):
        refuse_learned(learned)


def test_none_of_them_is_held_back_and_none_is_the_users(learned):
    net = Net((1, 3, 8, 8))
    model = net.model(net.tail(net.block("x", 8)))
    inputs = resolve(model, {}, Preprocess.parse("imagenet"), str(learned))
    assert inputs.learned == RECORD and inputs.own_images is None and not inputs.holds_back
    free = dataclasses.replace(inputs, batch_is_free=True)
    assert np.array_equal(input_batch(free, 0, free=True).feeds["x"], X)
    assert described_images(free) == "12 images of learned.npz, learned (dsg) and none of yours"


def test_pictures_of_the_users_are_still_held_back(tmp_path):
    np.savez(tmp_path / "own.npz", x=X)
    net = Net((1, 3, 8, 8))
    model = net.model(net.tail(net.block("x", 8)))
    inputs = resolve(model, {}, Preprocess.parse("imagenet"), str(tmp_path / "own.npz"))
    assert inputs.learned is None and inputs.own_images == inputs.images and inputs.holds_back
    assert len(input_batch(dataclasses.replace(inputs, batch_is_free=True), 0, free=True).feeds["x"]) == 9


def test_a_record_is_json_that_people_can_read(learned):
    with np.load(learned) as arrays:
        assert msgspec.json.decode(str(arrays["learned"]))["objective"] == "dsg"


def test_a_file_that_does_not_say_what_was_moved_is_of_procedural_images(tmp_path):
    text = msgspec.json.encode({k: v for k, v in msgspec.to_builtins(RECORD).items() if k != "start"}).decode()
    np.savez(tmp_path / "old.npz", x=X, learned=np.array(text))
    assert learned_record(tmp_path / "old.npz").start == "procedural"
