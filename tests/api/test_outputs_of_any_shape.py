"""Outputs whose size depends on values, lists, maps and texts do not stop a conversion, and what can be is compared."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError
from tests import graphs

RECIPES = ["mixed", "int8", "closed-form", "per-channel"]


class Detector:
    """A stem and two heads: boxes [1, 256, 4] and scores [1, 1, 256]. Then what is put behind them."""

    def __init__(self, opset=13):
        random = np.random.default_rng(0)
        self.opset, self.nodes, self.outputs, self.domains = opset, [], [], []
        self.weights = {
            "w1": random.standard_normal((8, 3, 3, 3)) / 3,
            "wb": random.standard_normal((4, 8, 1, 1)) / 3,
            "ws": random.standard_normal((1, 8, 1, 1)),
            "wh": random.standard_normal((6, 8, 3, 3)) / 9,
            "fc": random.standard_normal((5, 6)),
            "sb": np.array([1, -1, 4]),
            "ss": np.array([1, 1, -1]),
            "most": np.array([64]),
            "zero": np.array(0),
            "one": np.array([1]),
            "two": np.array([2]),
            "axis": np.array([0]),
            "iou": np.float32([0.5]),
            "top": np.float32(1e9),
        }
        self("Conv", "x w1", "c", strides=[2, 2], pads=[1] * 4)
        self("Relu", "c", "f")
        self("Conv", "f wb", "b")
        self("Transpose", "b", "bt", perm=[0, 2, 3, 1])
        self("Reshape", "bt sb", "boxes")
        self("Conv", "f ws", "s")
        self("Reshape", "s ss", "scores")

    def __call__(self, op, inputs, outputs, domain="", **attributes):
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs.split(), outputs.split(), name=name, domain=domain, **attributes))

    def chosen(self, least):
        self.weights["least"] = np.float32([least])
        self("NonMaxSuppression", "boxes scores most iou least", "chosen", center_point_box=1)

    def heads(self, least):
        """A head on regions, as two-stage detectors have it."""
        self.chosen(least)
        self("Gather", "chosen two", "rows2", axis=1)
        self("Squeeze", "rows2 one", "rows")
        self("Gather", "chosen zero", "batch", axis=1)
        self("Squeeze", "boxes axis", "flat")
        self("Gather", "flat rows", "rois", axis=0)
        self("RoiAlign", "f rois batch", "r", output_height=5, output_width=5, spatial_scale=0.5)
        self("Conv", "r wh", "h", pads=[1] * 4)
        self("Relu", "h", "hr")
        self("GlobalAveragePool", "hr", "p")
        self("Flatten", "p", "pf")
        self("Gemm", "pf fc", "classes", transB=1)
        self.output("classes", ["k", 5])

    def output(self, name, shape, kind=TensorProto.FLOAT):
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def model(self):
        weights = [
            numpy_helper.from_array(v.astype(np.float32) if v.dtype == np.float64 else np.asarray(v), k)
            for k, v in self.weights.items()
        ]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])
        graph = helper.make_graph(self.nodes, "net", [x], self.outputs, weights)
        imports = [helper.make_opsetid("", self.opset), *self.domains]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        onnx.checker.check_model(model)
        return model


def suppressed(net):
    net.chosen(0.0)
    net("Gather", "chosen two", "rows", axis=1)
    net("Gather", "boxes rows", "found", axis=1)
    net.output("found", [1, "a", "b", 4])


def where_high(net):
    net("Relu", "scores", "y")
    net("NonZero", "y", "found")
    net.output("found", [3, "k"], TensorProto.INT64)


def as_many_as_high(net):
    """TopK with a computed k."""
    net("Greater", "scores zerof", "high")
    net("Cast", "high", "counted", to=TensorProto.INT64)
    net("ReduceSum", "counted", "k1", keepdims=1)
    net("Reshape", "k1 one", "k")
    net("TopK", "scores k", "found order", axis=2)
    net.weights["zerof"] = np.float32(0.1)
    net.output("found", [1, 1, "k"])


def made_by_a_loop(net):
    """As many rows as the highest score says."""
    net("ReduceMax", "scores", "highest", keepdims=0)
    net("Cast", "highest", "rounds", to=TensorProto.INT64)
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["boxes"], ["row"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, [])],
        [value("d", TensorProto.BOOL, []), value("row", TensorProto.FLOAT, None)],
    )
    net.nodes.append(helper.make_node("Loop", ["rounds", ""], ["found"], name="loop", body=body))
    net.output("found", ["k", 1, 256, 4])


def a_list(net):
    net("SequenceConstruct", "boxes scores", "found")
    net.outputs.append(helper.make_tensor_sequence_value_info("found", TensorProto.FLOAT, None))


def a_list_of_none(net):
    net("SequenceEmpty", "", "none")
    net("SequenceInsert", "none boxes", "found")
    net.outputs.append(helper.make_tensor_sequence_value_info("found", TensorProto.FLOAT, None))


def a_label(net):
    net("ArgMax", "boxes", "found", axis=2, keepdims=0)
    net.output("found", [1, 256], TensorProto.INT64)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "tail",
    [suppressed, where_high, as_many_as_high, made_by_a_loop, a_list, a_list_of_none, a_label],
    ids=lambda tail: tail.__name__,
)
def test_detectors_whose_outputs_are_chosen_are_quantized(tail, recipe):
    net = Detector()
    tail(net)
    made = dfmpc_onnx.quantize(net.model(), recipe=recipe, preprocess="imagenet")
    assert all(layer.refused is None for layer in made.report.layers)
    graphs.run(made.model, np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32))
    if recipe == "int8":
        notes = [note for p in made.report.passes for note in p.result.notes]
        assert "chosen by values, or no tensor, so what lies in front is compared: 'found'" in notes
        assert any("8-bit activations cost" in note for note in notes)
    if made.report.fidelity is None:
        assert any(w.startswith("not compared: ") and "'found'" in w for w in made.report.warnings)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("least", [1e9, 0.0])
def test_a_head_on_regions_is_quantized_whether_there_are_any_or_not(least, recipe):
    net = Detector()
    net.heads(least)
    made = dfmpc_onnx.quantize(net.model(), recipe=recipe, preprocess="imagenet")
    assert all(layer.refused is None for layer in made.report.layers)
    unseen = {r.site for r in made.report.refusals if "nothing reaches it" in r.reason}
    assert len(unseen) == (2 if least and recipe in ("mixed", "int8") else 0)
    assert {r.code for r in made.report.refusals if r.site in unseen} >= ({"rounded-to-nearest"} if unseen else set())


def zipmap(listed, keys):
    net = Detector()
    net.domains = [helper.make_opsetid("ai.onnx.ml", 3)]
    net("GlobalAveragePool", "b", "g")
    net("Flatten", "g", "z")
    net("Softmax", "z", "p", axis=1)
    net("ZipMap", "p", "found", domain="ai.onnx.ml", **keys)
    entry = helper.make_map_type_proto(
        TensorProto.STRING if "classlabels_strings" in keys else TensorProto.INT64,
        helper.make_tensor_type_proto(TensorProto.FLOAT, []),
    )
    if listed:
        net.output("p", [1, 4])
    net.outputs.append(helper.make_value_info("found", helper.make_sequence_type_proto(entry)))
    return net.model()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize(
    "keys", [{"classlabels_strings": ["a", "d", "b", "c"]}, {"classlabels_int64s": [3, 1, 2, 9]}], ids=["texts", "ints"]
)
def test_a_classifier_behind_a_zipmap_is_quantized_and_its_maps_are_compared(keys, listed, recipe, tmp_path):
    model = zipmap(listed, keys)
    made = dfmpc_onnx.quantize(model, tmp_path / "q.onnx", recipe=recipe, preprocess="imagenet")
    assert made.model.graph.output[-1] == model.graph.output[-1]
    assert made.report.fidelity is not None, made.report.warnings
    assert {o.name: o.sqnr_db is not None for o in made.report.fidelity.outputs}["found"]
    (*_, maps) = onnxruntime.InferenceSession(tmp_path / "q.onnx").run(None, {"x": np.ones((1, 3, 32, 32), "f4")})
    assert set(maps[0]) == set(next(iter(keys.values())))
    row = dfmpc_onnx.verify(model, tmp_path / "q.onnx").providers[0]
    assert row.fidelity.sqnr_db > 15


def test_verify_names_what_it_leaves_out_and_refuses_what_has_nothing_in_common(tmp_path):
    net = Detector()
    suppressed(net)
    net.output("scores", [1, 1, 256])
    model = net.model()
    made = dfmpc_onnx.quantize(model, tmp_path / "q.onnx", recipe="int8", weights="4", preprocess="imagenet")
    found = dfmpc_onnx.verify(model, tmp_path / "q.onnx")
    left_out = [w for w in found.warnings if w.startswith("not compared: output 'found': its size depends on values")]
    assert len(left_out) == 1 and left_out[0] in made.report.warnings
    assert {o.name: o.sqnr_db is None for o in found.providers[0].fidelity.outputs} == {"found": True, "scores": False}
    other = Detector()
    other("GlobalAveragePool", "b", "found")
    other.output("found", [1, 4, 1, 1])
    other.output("scores", [1, 1, 256])
    with pytest.raises(ModelError, match="other shapes"):
        dfmpc_onnx.verify(model, other.model())
