"""learn_images(), and quantize() with what it wrote."""

import sys

import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.inputs.learned_file import LearnedRecord, learned_bytes, learned_record
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import load
from tests.commands import held
from tests.graphs import ALL, Net, chain, dense

X = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)


def marked(path, preprocess="imagenet", by="given", sha256=""):
    """A file of learned images, without PyTorch."""
    path.write_bytes(learned_bytes(X, None, LearnedRecord("dsg", preprocess, by, sha256, 100, 0.05, 0, "1.0")))
    return path


# -- what needs no PyTorch


def test_without_pytorch_nothing_is_read_or_written(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match="PyTorch is not installed; pip install torch"):
        dfmpc_onnx.learn_images("no such model.onnx", tmp_path / "x.npz")
    assert not held(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "zerok"}, r"learn 'zerok': no such objective \(did you mean zeroq\?\)"),
        ({"count": 0}, "count 0: give 1 to 1024 images"),
        ({"steps": 0}, "steps 0: give at least 1"),
        ({"learning_rate": -1.0}, "learning-rate -1: give a number above 0, such as 0.05"),
        ({"learning_rate": float("nan")}, "learning-rate nan"),
        ({"seed": -1}, "seed -1: not understood; give 0 or more"),
        ({"steps": "many"}, "steps: of type str; give a whole number"),
    ],
)
def test_options_are_checked_before_anything_else(monkeypatch, options, said):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError, match=said):
        dfmpc_onnx.learn_images("no such model.onnx", **options)


def test_a_verdict_rests_on_no_learned_image_and_the_file_says_what_statistics_came_from(tmp_path):
    images = marked(tmp_path / "x.npz")
    made = dfmpc_onnx.quantize(chain(), tmp_path / "out.onnx", images=images, preprocess="imagenet")
    assert made.report.images == "16 images of x.npz, learned (dsg) and none of yours"
    assert made.report.verdict.basis == "generated"
    assert metadata_of(load(tmp_path / "out.onnx").model)["statistics"] == "learned images (dsg)"


def test_images_are_fed_under_the_preprocess_that_was_given_when_they_were_learned(tmp_path):
    images = marked(tmp_path / "x.npz", "raw")
    made = dfmpc_onnx.quantize(chain(), images=images)
    assert made.report.preprocess == "raw"
    with pytest.raises(
        OptionError,
        match=r"learned for preprocess raw, and the network is fed through unit; give",
    ):
        dfmpc_onnx.quantize(chain(), images=images, preprocess="unit")


def test_images_of_another_model_are_warned_of(tmp_path):
    images = marked(tmp_path / "x.npz", sha256="1" * 64)
    onnx.save(chain(), tmp_path / "model.onnx")
    made = dfmpc_onnx.quantize(tmp_path / "model.onnx", images=images)
    assert any("its images were learned from another model than" in text for text in made.report.warnings)


def test_learned_images_show_nothing_of_a_file(tmp_path):
    images = marked(tmp_path / "x.npz")
    made = dfmpc_onnx.quantize(chain(), tmp_path / "out.onnx", preprocess="imagenet")
    for call in (
        lambda: dfmpc_onnx.verify(chain(), made.model, images=images),
        lambda: dfmpc_onnx.diagnose(chain(), made.model, images=images),
        lambda: dfmpc_onnx.plan(chain(), tmp_path / "plan.toml", mean_bits=6, images=images),
    ):
        with pytest.raises(OptionError, match=r"x\.npz: holds learned images, .* give pictures of your own"):
            call()


# -- what needs it


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.usefixtures("torch")
def test_the_file_holds_images_labels_and_how_they_were_learned(tmp_path):
    onnx.save(chain(), tmp_path / "model.onnx")
    said = []
    found = dfmpc_onnx.learn_images(
        tmp_path / "model.onnx",
        tmp_path / "x.npz",
        "labelled",
        count=10,
        steps=5,
        seed=3,
        device="cpu",
        preprocess="imagenet",
        progress=lambda done, total, name: said.append((done, total)),
    )
    with np.load(tmp_path / "x.npz") as arrays:
        assert np.array_equal(arrays["x"], found.x) and np.array_equal(arrays["y"], found.y)
    record = learned_record(tmp_path / "x.npz")
    assert record == found.report.record
    assert (record.objective, record.preprocess, record.preprocess_by) == ("labelled", "imagenet", "given")
    assert (record.steps, record.seed, len(record.model_sha256)) == (5, 3, 64)
    assert found.report.losses[-1] < found.report.losses[0]
    assert [layer.name for layer in found.report.layers] == ["norm1", "norm2", "norm3"]
    assert said[0][0] == 0 and said[-1][0] == said[-1][1]
    assert repr(found).startswith("LearnedImages(10 images, labelled, distance ")
    made = dfmpc_onnx.quantize(tmp_path / "model.onnx", images=tmp_path / "x.npz", weights="2/6")
    assert not any("learned from another model" in text for text in made.report.warnings)


@pytest.mark.usefixtures("torch")
def test_the_same_call_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        dfmpc_onnx.learn_images(chain(), tmp_path / f"{name}.npz", "dsg", count=4, steps=3, device="cpu", threads=1)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.usefixtures("torch")
def test_a_folded_network_has_nothing_to_match(tmp_path):
    with pytest.raises(ModelError, match="holds no BatchNormalization, so there is nothing to match images to; export"):
        dfmpc_onnx.learn_images(ALL["folded"](), tmp_path / "x.npz")
    assert not held(tmp_path)


@pytest.mark.usefixtures("torch")
def test_where_some_are_folded_the_others_are_matched():
    found = dfmpc_onnx.learn_images(dense(), count=4, steps=2)
    assert found.report.layers


@pytest.mark.usefixtures("torch")
def test_a_network_without_classes_takes_no_labels():
    net = Net()
    model = net.model(net.node("Sigmoid", net.tail(net.block("x", 8))))
    with pytest.raises(ModelError, match="no output holds scores of classes to learn labels for; give"):
        dfmpc_onnx.learn_images(model, objective="labelled", count=2, steps=1)


@pytest.mark.usefixtures("torch")
def test_a_fixed_batch_is_kept_to():
    net = Net((4, 3, 8, 8))
    x = net.block("x", 8)
    fixed = net.node("Reshape", x, net.weight("shape", np.array([4, 8, 64], np.int64)))
    model = net.model(net.node("ReduceMean", net.norm(fixed), axes=[2], keepdims=0))
    assert len(dfmpc_onnx.learn_images(model, count=8, steps=1).x) == 8
    with pytest.raises(OptionError, match="count 6: the model takes batches of 4; give a multiple of it"):
        dfmpc_onnx.learn_images(model, count=6, steps=1)


@pytest.mark.usefixtures("torch")
def test_a_file_of_another_kind_is_not_written_over(tmp_path):
    out = tmp_path / "x.npz"
    np.savez(out, x=X)
    before = out.read_bytes()
    with pytest.raises(OptionError, match="is there already, and is no file of learned images"):
        dfmpc_onnx.learn_images(chain(), out, count=2, steps=1)
    assert out.read_bytes() == before
    for force in (True, False):  # the second writes over what the first has written
        dfmpc_onnx.learn_images(chain(), out, count=2, steps=1, force=force)
    with pytest.raises(OptionError, match=r"learned images go to an \.npz"):
        dfmpc_onnx.learn_images(chain(), tmp_path / "x.png", count=2, steps=1)


@pytest.mark.usefixtures("torch")
def test_an_interrupt_leaves_no_file_and_says_so(tmp_path):
    def stop(done, total, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        dfmpc_onnx.learn_images(chain(), tmp_path / "x.npz", count=2, steps=9, progress=stop)
    assert stopped.value.__notes__ == ["no images were written"]
    assert not held(tmp_path)


@pytest.mark.usefixtures("torch")
def test_an_input_of_bytes_has_no_gradient():
    net = Net()
    model = net.model(net.tail(net.block(net.node("Cast", "x", to=1), 8)))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    with pytest.raises(OptionError, match="is type uint8, and a gradient needs floats"):
        dfmpc_onnx.learn_images(model, count=2, steps=1)
