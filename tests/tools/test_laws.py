"""The laws that written files obey, and that each of them notices when it is broken."""

import pathlib

import msgspec
import numpy as np
import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import UserError
from dfmpc_onnx.report.schema import LayerReport
from tests.graphs import ALL, Net, chain
from tools.fuzz import laws
from tools.fuzz.laws import LAWS, Written, check


def written(folder: pathlib.Path, model: onnx.ModelProto, recipe: str = "int8", **options: object) -> Written:
    source, target = folder / "model.onnx", folder / "out.onnx"
    onnx.save(model, source)
    made = dfmpc_onnx.quantize(source, target, recipe, **options)  # type: ignore[arg-type]
    return Written(source, target, made.report)


@pytest.mark.parametrize("recipe", ["int8", "mixed", "per-channel"])
@pytest.mark.parametrize("name", sorted(ALL)[:6])
def test_files_of_ordinary_networks_obey_all_laws(tmp_path, name, recipe):
    found = written(tmp_path, ALL[name](), recipe)
    assert check(found.source, found.target, found.report) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "out.onnx"]


def detector() -> onnx.ModelProto:
    """Boxes in pixels beside scores in one output, ``[1, 12, 256]``."""
    net = Net((1, 3, 16, 16))
    x = net.node("Relu", net.conv("x", 8))
    boxes = net.node("Mul", net.node("Relu", net.conv(x, 4)), net.weight("pixels", np.float32(300)))
    both = net.node("Concat", boxes, net.node("Sigmoid", net.conv(x, 8)), axis=1)
    return net.model(net.node("Reshape", both, net.weight("shape", np.array([1, 12, -1]))))


@pytest.mark.parametrize("recipe", ["int8", "per-channel"])
def test_a_detector_obeys_them_group_by_group(tmp_path, recipe):
    found = written(tmp_path, detector(), recipe)
    (output,) = found.report.fidelity.outputs
    assert [group.channels for group in output.groups] == [((0, 3),), ((4, 11),)]
    assert check(found.source, found.target, found.report) is None


def changed(found: Written, **fields: object) -> Written:
    return Written(found.source, found.target, msgspec.structs.replace(found.report, **fields))


def with_layer(found: Written, **fields: object) -> Written:
    first, *rest = found.report.layers
    assert isinstance(first, LayerReport)
    return changed(found, layers=(msgspec.structs.replace(first, **fields), *rest))


def test_each_law_notices_what_breaks_it(tmp_path):
    found = written(tmp_path, chain())
    worse = msgspec.structs.replace(found.report.fidelity, sqnr_db=found.report.fidelity.sqnr_db + 1)
    assert "bytes" in (laws.sizes_agree(changed(found, bytes=7)) or "")
    assert "float model" in (laws.sizes_agree(changed(found, float_bytes=7)) or "")
    assert "bits stored" in (laws.layers_agree(with_layer(found, stored_bits=4.0)) or "")
    assert "integers" in (laws.layers_agree(with_layer(found, integer=False)) or "")
    assert "no such layer" in (laws.layers_agree(with_layer(found, name="other")) or "")
    assert "codes" in (laws.layers_agree(with_layer(found, bits=32)) or "")
    assert "mean bits" in (laws.layers_agree(changed(found, mean_weight_bits=30.0)) or "")
    assert "closing check" in (laws.verify_agrees(changed(found, fidelity=worse)) or "")
    assert all(law(found) is None for law in LAWS)


def test_a_comparison_by_hand_notices_a_verify_that_is_wrong(tmp_path, monkeypatch):
    found = written(tmp_path, chain())
    monkeypatch.setattr("dfmpc_onnx.evaluation.output_differences.decibels", lambda signal, noise: 33.0)
    assert "33.0 dB by verify" in (laws.verify_is_right(found) or "")


def test_an_expanded_file_that_computes_something_else_is_noticed(tmp_path, monkeypatch):
    found = written(tmp_path, chain(), "mixed")
    assert laws.expanded_is_equal(found) is None
    monkeypatch.setattr(dfmpc_onnx, "expand", lambda target, path: onnx.save(other, path))
    other = chain()
    bias = next(tensor for tensor in other.graph.initializer if tensor.name == "gemm1.b")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 10, bias.name))
    assert "differs" in (laws.expanded_is_equal(found) or "")


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("tensorrt", {"activations": "none", "weights": "4"}),  # float16 at an opset whose Q/DQ take float32 alone
        ("tensorrt", {"recipe": "mixed", "weights": "ternary/6"}),
        ("qonnx", {"recipe": "mixed", "weights": "ternary/6"}),
        ("qonnx", {"activations": "3"}),
    ],
)
@pytest.mark.parametrize("name", ["chain", "depthwise"])
def test_files_for_other_targets_obey_all_laws(tmp_path, name, target, options):
    found = written(tmp_path, ALL[name](), target=target, **options)
    assert check(found.source, found.target, found.report) is None


def test_an_expanded_file_in_float16_that_computes_something_else_is_noticed(tmp_path, monkeypatch):
    found = written(tmp_path, chain(), "mixed", target="tensorrt")
    expand = dfmpc_onnx.expand

    def with_another_bias(target, path):
        expand(target, path)
        other = onnx.load(path)
        bias = next(tensor for tensor in other.graph.initializer if tensor.name.startswith("gemm1.b"))
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 10, bias.name))
        onnx.save(other, path)

    monkeypatch.setattr(dfmpc_onnx, "expand", with_another_bias)
    assert "differs" in (laws.expanded_is_equal(found) or "")


@pytest.mark.parametrize(("moved", "said"), [(1e-3, None), (10, "output 'conv2' of the expanded file differs")])
def test_what_is_chosen_in_float16_is_compared_by_what_it_is_chosen_from(tmp_path, monkeypatch, moved, said):
    net = Net(opset=20)
    x = net.conv(net.block("x", 8), 8, weight=np.zeros((8, 8, 3, 3), np.float32), bias=True)
    net.weights["conv2.b"][:] = 0.5  # the first is chosen
    found = written(tmp_path, net.model(net.node("ArgMax", x, axis=1)), "mixed", target="tensorrt", check=False)
    expand = dfmpc_onnx.expand

    def with_another_bias(target, path):
        expand(target, path)
        other = onnx.load(path)
        bias = next(tensor for tensor in other.graph.initializer if tensor.name.startswith("conv2.b"))
        values = onnx.numpy_helper.to_array(bias)
        values = values + moved * np.arange(8).astype(values.dtype)  # and here the last
        bias.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), bias.name))
        onnx.save(other, path)

    monkeypatch.setattr(dfmpc_onnx, "expand", with_another_bias)
    assert laws.expanded_is_equal(found) == said


def test_an_expanded_file_of_a_network_that_amplifies_rounding_is_compared_without_optimizations(tmp_path):
    """The last bit of a sum, which optimizations change, moved the outputs of the float model by as much."""
    net = Net((2, 3, 8, 8))
    x = net.norm(net.conv(net.relu(net.norm(net.conv("x", 16))), 16))
    steep = net.node("Sin", net.node("Mul", x, net.weight("steep", np.float32(3e4))))
    found = written(tmp_path, net.model(steep), "closed-form", weights="4", activations="none", layers=["*=4"])
    assert laws.expanded_is_equal(found) is None


def test_a_result_that_is_larger_needs_a_line_that_gives_the_size(tmp_path):
    found = written(tmp_path, chain())
    assert laws.not_larger(found) is None
    swapped = Written(found.target, found.source, msgspec.structs.replace(found.report, warnings=()))
    assert "no warning says so" in (laws.not_larger(swapped) or "")
    line = f"the file takes {found.source.stat().st_size} bytes, more than the float model"
    assert laws.not_larger(changed(swapped, warnings=(line,))) is None


def test_a_verify_without_the_images_of_a_check_may_refuse(tmp_path, monkeypatch):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8))
    found = written(tmp_path, chain(), images=tmp_path / "x.npz", preprocess="unit")

    def refuse(*arguments: object, **options: object) -> None:
        raise UserError("the network does not run on what is made up")

    monkeypatch.setattr(dfmpc_onnx, "verify", refuse)
    assert laws.verify_agrees(found) is None


def test_a_verify_that_refuses_is_wrong_unless_the_networks_choose_other_rows_or_none(tmp_path, monkeypatch):
    found = written(tmp_path, chain())

    def refuse(*arguments: object, **options: object) -> None:
        raise UserError("no output can be compared")

    monkeypatch.setattr(dfmpc_onnx, "verify", refuse)
    assert "no output" in (laws.verify_is_right(found) or "")
    rows = iter([0, 0, 3, 5])
    monkeypatch.setattr(laws, "_by_hand", lambda session, images, batch: iter([[np.zeros((next(rows), 4))]]))
    assert laws.verify_is_right(found) is None  # none in both
    assert laws.verify_is_right(found) is None  # 3 and 5


def test_a_target_may_fix_a_batch_that_the_float_model_leaves_open(tmp_path):
    net = Net(("n", 3, 8, 8))
    found = written(tmp_path, net.model(net.conv(net.node("Relu", net.conv("x", 8)), 4)), target="qnn")
    assert found.session.get_inputs()[0].shape[0] == 1
    assert check(found.source, found.target, found.report) is None
