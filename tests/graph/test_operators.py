"""What an operator means: by domain, name and version, as passes ask and as packages may say."""

from __future__ import annotations

import ast
import copy
import pathlib
import threading
from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs
import pytest

import dfmpc_onnx
import dfmpc_passes
from dfmpc_onnx.errors import Unknown
from dfmpc_onnx.graph import operators
from dfmpc_onnx.graph.operator_table import STANDARD, always
from dfmpc_onnx.graph.operators import NOTHING_KNOWN, Meaning, find, meaning_of, op_of, register
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.numerics.moments import ChannelMoments
from dfmpc_onnx.statistics.independent_moments import propagate
from dfmpc_onnx.statistics.noise_gains import noise_gains
from tests import graphs

TWICE = Meaning(function=lambda node: lambda x: 2 * x)
SQUARE = Meaning(function=lambda node: np.square, bounds=(0.0, np.inf))


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(operators, "_registry", dict(operators._registry))


def node(op: str, domain: str | None = None, **attributes: object) -> gs.Node:
    return gs.Node(op, "n", attributes, [gs.Variable("x")], [gs.Variable("y")], domain)


# -- names


@pytest.mark.parametrize("domain", [None, "", "ai.onnx"])
def test_the_standard_domain_by_any_of_its_names(domain: str | None) -> None:
    assert op_of(node("Relu", domain)) == "Relu"
    assert operators.is_standard(node("Relu", domain)) and operators.is_clip(node("Relu", domain))


def test_another_domain_has_operators_of_its_own() -> None:
    for name in STANDARD:
        other = node(name, "my.ops")
        assert op_of(other) == f"my.ops::{name}" and meaning_of(other) is NOTHING_KNOWN
        assert not operators.is_known(other)


@pytest.mark.parametrize("domain", [None, "com.microsoft"])
def test_onnxruntime_has_quantizers_of_its_own_that_do_the_same(domain: str | None) -> None:
    assert operators.quantizes(node("QuantizeLinear", domain))
    assert operators.dequantizes(node("DequantizeLinear", domain))
    assert not operators.dequantizes(node("DequantizeLinear", "my.ops"))


# -- the questions, of standard operators


def test_weighted_are_the_four_layers() -> None:
    assert {name for name in STANDARD if operators.is_weighted(node(name))} == {
        "Conv",
        "ConvTranspose",
        "Gemm",
        "MatMul",
    }


@pytest.mark.parametrize("name", [name for name, (_, meaning) in STANDARD.items() if meaning.function])
def test_bounds_hold_and_are_met(name: str) -> None:
    function = operators.elementwise(node(name))
    assert function is not None
    values = function(np.linspace(-40, 40, 10_001))
    low, high = STANDARD[name][1].bounds
    assert values.min() >= low and values.max() <= high
    assert low == -np.inf or values.min() < low + 0.01
    assert high == np.inf or values.max() > high - 0.01


@pytest.mark.parametrize("name", ["Relu", "LeakyRelu"])
def test_homogeneous_functions_take_a_factor_out(name: str) -> None:
    assert meaning_of(node(name)).homogeneous
    function, x = operators.activation(node(name)), np.linspace(-3, 3, 7)
    assert function is not None
    np.testing.assert_allclose(function(2.5 * x), 2.5 * function(x))


def test_a_function_that_attributes_change_is_not_known() -> None:
    assert operators.elementwise(node("Elu", alpha=0.5)) is None
    slope = operators.elementwise(node("LeakyRelu", alpha=0.25))
    assert slope is not None and slope(np.array([-4.0])).tolist() == [-1.0]


def test_what_does_not_clip_has_no_bounds() -> None:
    assert operators.clip_bounds(node("Relu")) == (0.0, np.inf)
    with pytest.raises(Unknown):
        operators.clip_bounds(node("Sigmoid"))
    with pytest.raises(Unknown):
        operators.clip_bounds(node("Relu", "my.ops"))


def test_what_moves_keeps_its_scale_and_a_pad_of_zeros_alone() -> None:
    assert operators.keeps_scale(node("Reshape")) and not operators.keeps_scale(node("Relu"))
    assert operators.keeps_scale(node("Pad")) and not operators.keeps_scale(node("Pad", mode="reflect"))


def test_a_resize_keeps_its_scale_where_it_does_not_overshoot_or_fill() -> None:
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize"}
    assert operators.keeps_scale(node("Resize", mode="linear")) and operators.keeps_scale(node("Resize", **crop))
    assert not operators.keeps_scale(node("Resize", mode="cubic"))
    assert not operators.keeps_scale(node("Resize", extrapolation_value=9.0, **crop))


def test_pools_choose_or_average() -> None:
    assert {name for name in STANDARD if operators.pools(node(name))} == {
        "MaxPool",
        "GlobalMaxPool",
        "AveragePool",
        "GlobalAveragePool",
    }
    assert {name for name in STANDARD if operators.averages(node(name))} == {"AveragePool", "GlobalAveragePool"}


def test_scores_are_squeezed_by_these() -> None:
    squeezed = {name for name in STANDARD if operators.squashes(node(name))}
    assert squeezed == {"Sigmoid", "HardSigmoid", "Softmax", "LogSoftmax", "Tanh"}


# -- the registry


def test_the_entry_counts_from_its_opset_on_until_the_next() -> None:
    register("my.ops", "Act", 2, TWICE)
    register("my.ops", "Act", 5, SQUARE)
    found = [find("my.ops", "Act", opset) for opset in (1, 2, 4, 5, 9, None)]
    assert found == [NOTHING_KNOWN, TWICE, TWICE, SQUARE, SQUARE, SQUARE]
    assert find("", "Clip", 6) is NOTHING_KNOWN and find("ai.onnx", "Clip", 11).clip is not None


def test_a_node_knows_the_opset_of_its_domain_also_after_a_copy() -> None:
    register("my.ops", "Act", 1, TWICE)
    register("my.ops", "Act", 5, SQUARE)
    for opset, meaning in ((1, TWICE), (4, TWICE), (5, SQUARE)):
        net = graphs.Net()
        model = net.model(net.node("Act", net.conv("x", 4), domain="my.ops"))
        next(item for item in model.opset_import if item.domain == "my.ops").version = opset
        graph = graphs.workspace(model).graph
        assert [meaning_of(g.nodes[1]) for g in (graph, graph.copy())] == [meaning, meaning]
    assert meaning_of(node("Act", "my.ops")) is SQUARE  # made by a pass: the newest


def test_saying_the_same_again_changes_nothing_and_another_thing_is_an_error() -> None:
    register("my.ops", "Act", 1, TWICE)
    register("my.ops", "Act", 1, TWICE)
    with pytest.raises(ValueError, match=r"my\.ops::Act has another meaning from opset 1 on already"):
        register("my.ops", "Act", 1, SQUARE)
    with pytest.raises(ValueError, match="Relu has another meaning from opset 6 on already"):
        register("ai.onnx", "Relu", 6, SQUARE)
    assert find("my.ops", "Act") is TWICE and find("", "Relu") is STANDARD["Relu"][1]


def test_refused_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="opsets count from 1"):
        register("my.ops", "Act", 0, TWICE)
    with pytest.raises(ValueError, match="only operators of the standard domain can have weights"):
        register("my.ops", "Conv", 1, Meaning(weight=1))


def test_threads_may_register_at_once() -> None:
    def work(number: int) -> None:
        for opset in range(1, 200):
            register("my.ops", f"Act{number % 2}", opset, TWICE)
            assert find("my.ops", f"Act{number % 2}", opset) is TWICE

    failed: list[BaseException] = []
    threads = [threading.Thread(target=lambda n=n: _caught(work, n, failed)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert all(find("my.ops", f"Act{n}", opset) is TWICE for n in (0, 1) for opset in range(1, 200))


def _caught(work: object, number: int, failed: list[BaseException]) -> None:
    try:
        work(number)
    except BaseException as error:
        failed.append(error)


# -- what a package registers is what passes see


def with_operator(**attributes: object) -> gs.Graph:
    net = graphs.Net()
    x = net.node("Act", net.norm(net.conv("x", 4)), domain="my.ops", **attributes)
    net.channels[x] = 4
    return graphs.workspace(net.model(net.relu(net.conv(x, 4)))).graph


def moments(graph: gs.Graph) -> tuple[dict[str, ChannelMoments], dict[str, str]]:
    return propagate(graph, resolve(graph, {}, Preprocess.parse("unit")))


def test_moments_follow_a_registered_function() -> None:
    known, unknown = moments(with_operator())
    assert unknown["act1"] == "my.ops::Act: no rule for this operator"
    register("my.ops", "Act", 1, SQUARE)
    known, unknown = moments(with_operator())
    norm, act = known["norm1"], known["act1"]
    np.testing.assert_allclose(act.mean, norm.variance + norm.mean**2, rtol=1e-6)
    assert "act1" not in unknown and act.low.min() == 0.0


def test_moments_and_noise_follow_a_registered_clip() -> None:
    register("my.ops", "Act", 1, Meaning(clip=lambda node: (0.0, float(node.attrs["top"])), rectifies=True))
    graph = with_operator(top=1.5)
    known, _ = moments(graph)
    assert (known["act1"].low >= 0).all() and (known["act1"].high <= 1.5).all()
    gains = noise_gains(graph, known)
    assert (gains["norm1"] < gains["act1"]).all()  # what is cut off is noise that nobody sees


def test_a_registered_move_keeps_the_scale() -> None:
    register("my.ops", "Act", 1, Meaning(moves=always))
    assert operators.keeps_scale(with_operator().nodes[2])


# -- the source


def raw_comparisons(path: pathlib.Path) -> Iterator[str]:
    """Where a source asks ``x.op`` or ``x.op_type`` for an operator by name; a `Layer`'s is a standard one."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    of_nodes = {
        (number, argument.arg)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for argument in function.args.args
        if argument.annotation is not None and "Node" in ast.unparse(argument.annotation)
        for number in range(function.lineno, (function.end_lineno or function.lineno) + 1)
    }
    for outer in ast.walk(tree):
        asked: list[ast.expr] = []
        if isinstance(outer, ast.Compare):
            asked = [outer.left, *outer.comparators]
        elif isinstance(outer, ast.Subscript):
            asked = [outer.slice]
        elif isinstance(outer, ast.Call) and isinstance(outer.func, ast.Attribute):
            asked = [*outer.args, outer.func.value] if outer.func.attr in ("get", "startswith") else []
        for part in asked:
            if isinstance(part, ast.Attribute) and part.attr in ("op", "op_type"):
                base = ast.unparse(part.value)
                fact = base in ("layer", "self") and (part.lineno, base) not in of_nodes
                if not fact:
                    yield f"{path.name}:{part.lineno}: {ast.unparse(outer)}"


def test_the_search_finds_what_it_looks_for(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "m.py"
    source.write_text('if node.op == "Relu": pass\nRULES.get(node.op_type)\nif layer.op == "Conv": pass\n')
    assert len(list(raw_comparisons(source))) == 2
    source.write_text('def f(layer: gs.Node):\n    return layer.op in ("Conv",)\n')
    assert len(list(raw_comparisons(source))) == 1


def test_nobody_compares_the_bare_name_of_an_operator() -> None:
    owners = {"operators.py", "protos.py"}
    files = [path for at in (dfmpc_onnx, dfmpc_passes) for path in pathlib.Path(at.__path__[0]).rglob("*.py")]
    found = [line for path in files if path.name not in owners for line in raw_comparisons(path)]
    assert len(files) > 100 and not found


def test_an_old_opset_has_the_meanings_of_its_time() -> None:
    clip = graphs.workspace(graphs.ALL["old"]()).graph.nodes[2]
    assert clip.op == "Clip" and not operators.is_clip(clip)  # its bounds are attributes, of which nothing is known
    register("", "Relu", 99, Meaning())
    assert operators.is_clip(node("Relu"))  # no runtime has that opset


def test_a_node_of_another_domain_can_be_copied() -> None:
    copied = copy.deepcopy(operators.Domain("my.ops", 2))
    assert (str(copied), copied.opset) == ("my.ops", 2)


def test_an_entry_can_be_replaced_and_forgotten() -> None:
    register("my.ops", "Act", 1, Meaning(function=lambda node: np.tanh))
    with pytest.raises(ValueError, match="another meaning"):
        register("my.ops", "Act", 1, Meaning(function=lambda node: np.tanh))
    register("my.ops", "Act", 1, Meaning(function=lambda node: np.tanh), replace=True)
    operators.unregister("my.ops", "Act")
    operators.unregister("", "Relu")  # the standard ones stay
    assert operators.find("my.ops", "Act") is operators.NOTHING_KNOWN and operators.is_clip(node("Relu"))
