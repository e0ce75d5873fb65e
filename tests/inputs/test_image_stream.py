"""The user's images, a few at a time: the same as all at once, and no more of them held however many there are."""

import gc
import weakref

import numpy as np
import pytest
from PIL import Image

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.evaluation.fidelity import compare
from dfmpc_onnx.inputs import image_stream
from dfmpc_onnx.inputs.files import read_images, unseen
from dfmpc_onnx.inputs.image_stream import ImageStream, stream_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.runtime.session import Session
from tests import graphs

SHAPE, UNIT = (1, 3, 8, 8), Preprocess.parse("unit")
PIXELS = np.random.default_rng(0).integers(0, 256, (23, 8, 8, 3), np.uint8)


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(image_stream, "IMAGES_AT_ONCE", 5)


def sources(tmp_path):
    np.savez(tmp_path / "pixels.npz", x=PIXELS, y=np.arange(23) % 5)
    floats = PIXELS.transpose(0, 3, 1, 2).astype(np.float32)
    np.savez_compressed(tmp_path / "floats.npz", x=floats)
    np.savez(tmp_path / "columns.npz", x=np.asfortranarray(floats))
    (tmp_path / "folder").mkdir()
    for index, image in enumerate(PIXELS):
        Image.fromarray(image).save(tmp_path / "folder" / f"{index:02}.png")
    rows = "".join(f"{index:02}.png,{index % 5}\n" for index in range(23))
    (tmp_path / "folder" / "labels.csv").write_text(f"file,label\n{rows}")
    return [tmp_path / name for name in ("pixels.npz", "floats.npz", "columns.npz", "folder")]


def test_they_are_those_that_are_read_at_once(tmp_path, at_once):
    for source in sources(tmp_path):
        whole, found = read_images(source, SHAPE, UNIT), stream_images(source, SHAPE, UNIT)
        chunks = list(found.chunks())
        assert [len(chunk.x) for chunk in chunks] == [5, 5, 5, 5, 3] and found.count == 23
        assert np.array_equal(np.concatenate([chunk.x for chunk in chunks]), whole.x)
        assert found.origin == whole.origin and (found.labels is None) == (whole.y is None)
        if whole.y is not None:
            assert np.concatenate([chunk.y for chunk in chunks]).tolist() == whole.y.tolist()


def test_some_of_them_are_spread_over_all(tmp_path, at_once):
    source, *_ = sources(tmp_path)
    some = stream_images(source, SHAPE, UNIT).spread(4)
    whole = read_images(source, SHAPE, UNIT)
    assert some.count == 4 and some.origin == "4 of 23 images of pixels.npz"
    assert np.array_equal(np.concatenate([chunk.x for chunk in some.chunks()]), whole.x[[0, 5, 11, 17]])
    assert some.labels.tolist() == whole.y[[0, 5, 11, 17]].tolist()


def test_no_more_than_a_few_are_alive_while_networks_are_compared():
    """`verify` held every image in float32: 600 KB each at 224x224."""
    net = graphs.Net(("n", 4))
    session = Session(net.model(net.node("MatMul", "x", net.weight("w", np.eye(4, dtype=np.float32)))))
    alive, most = weakref.WeakSet(), []

    class Held(np.ndarray):
        """An array that can be watched."""

    def read():
        for _ in range(40):
            x = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32).view(Held)
            alive.add(_Watched(x))
            gc.collect()
            most.append(sum(watched.array() is not None for watched in list(WATCHED)))
            yield x

    found = compare(session, session, ImageStream(200, None, "", (), read))
    assert found.images == found.rows == 200 and max(most) <= 3


WATCHED = []


class _Watched:
    def __init__(self, array):
        self.array = weakref.ref(array)
        WATCHED.append(self)


@pytest.mark.parametrize(("x", "said"), [(np.float32(1), "x is a single number"), (PIXELS[:0], "holds no images")])
def test_what_holds_no_images_is_refused_before_anything_is_run(tmp_path, x, said):
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(OptionError, match=said):
        stream_images(tmp_path / "x.npz", SHAPE, UNIT)


@pytest.mark.parametrize(("size", "warned"), [((256, 256), True), ((9, 8), False), ((2, 2), True)])
def test_what_they_are_resized_from_is_stated(tmp_path, size, warned):
    """256-pixel images went into a 32-pixel network without a word."""
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(tmp_path / "a.png")
    found = stream_images(tmp_path, SHAPE, UNIT)
    assert found.origin.endswith(f"({size[0]}x{size[1]}, resized to 8x8)")
    assert bool(found.warnings) == warned


@pytest.mark.parametrize(
    ("count", "read", "kept"),
    [(7, 64, []), (8, 64, [3, 7]), (16, 64, [3, 7, 11, 15]), (16, 10, [3, 7, 11, 13, 14, 15])],
)
def test_unseen_are_every_fourth_and_those_that_statistics_do_not_reach(count, read, kept):
    assert unseen(count, 1, read).tolist() == kept
