"""A Loop that never ends does not hang what runs it: the run is stopped, and one line says so."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError, RunTooLong
from dfmpc_onnx.model.unbounded_loops import MOST_EMPTY_TURNS, check_loops, has_loop
from dfmpc_onnx.numerics.codebook import trits
from dfmpc_onnx.runtime import session as runtime
from dfmpc_onnx.runtime.session import Session
from tests import graphs
from tests.commands import assert_refused, dfmpc, held

TURNS = 10**12  # some days
COUNTED = """body (int64 i, bool c, float[1, 4, 6, 6] v) => (bool d, float[1, 4, 6, 6] u)
             { d = Identity (c) u = Relu (v) }"""


def network(loop: str, constants: str = "", more: str = "") -> onnx.ModelProto:
    """A Conv with output a, what the text makes z of, and a Conv behind it. turns, few and yes are constants."""
    kernel = ", ".join(str(n % 5 - 2) for n in range(16))
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17, "mine": 1]> net (float[1, 4, 6, 6] x) => (float[1, 4, 6, 6] y)
        <float[4, 4, 1, 1] w = {{{kernel}}}, int64 turns = {{{TURNS}}}, int64 few = {{3}}, bool yes = {{1}} {constants}>
        {{ a = Conv (x, w) {loop} y = Conv (z, w) }} {more}"""
    )


def endless() -> onnx.ModelProto:
    return network(f"z = Loop (turns, yes, a) <body = {COUNTED}>")


@pytest.mark.parametrize("form", ["proto", "bytes", "path"])
def test_a_run_that_does_not_end_is_stopped_and_named(monkeypatch, tmp_path, form):
    model = endless()
    onnx.save(model, tmp_path / "m.onnx")
    source = {"proto": model, "bytes": model.SerializeToString(), "path": tmp_path / "m.onnx"}[form]
    monkeypatch.setattr(runtime, "LOOP_SECONDS", 0.01)
    with pytest.raises(
        RunTooLong, match=r"^mine: a run did not end within 0.01 s; a Loop in it may never end"
    ) as caught:
        Session(source, label="mine").run({"x": graphs.input_of(model)})
    assert "\n" not in str(caught.value)


def test_a_run_that_ends_is_as_it_was(monkeypatch):
    model = network(f"z = Loop (few, yes, a) <body = {COUNTED}>")
    x = graphs.input_of(model)
    assert all(map(np.array_equal, Session(model).run({"x": x}), graphs.run(model, x)))


def test_a_model_without_a_loop_has_no_limit(monkeypatch):
    monkeypatch.setattr(runtime, "LOOP_SECONDS", 0.0)
    model = graphs.chain()
    assert Session(model).run({"x": graphs.input_of(model)})


@pytest.mark.parametrize("recipe", ["mixed", "int8", "closed-form"])
def test_quantize_says_it_in_one_line_and_leaves_the_folder(monkeypatch, tmp_path, recipe):
    onnx.save(endless(), tmp_path / "m.onnx")
    before = held(tmp_path)
    monkeypatch.setattr(runtime, "LOOP_SECONDS", 0.01)
    result = dfmpc("quantize", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx", "--recipe", recipe)
    assert_refused(result, "did not end within 0.01 s; a Loop in it may never end")
    assert held(tmp_path) == before


def test_verify_says_it_of_either_model(monkeypatch, tmp_path):
    onnx.save(endless(), tmp_path / "endless.onnx")
    onnx.save(network("z = Relu (a)"), tmp_path / "m.onnx")
    monkeypatch.setattr(runtime, "LOOP_SECONDS", 0.01)
    for pair in (("endless.onnx", "m.onnx"), ("m.onnx", "endless.onnx")):
        assert_refused(dfmpc("verify", *(tmp_path / name for name in pair)), "endless.onnx: a run did not end")


# What onnxruntime 1.32 cannot be stopped in, since it looks between operators and there are none.
EMPTY = {
    "nothing": "body (int64 i, bool c, float[1, 4, 6, 6] v) => (bool c, float[1, 4, 6, 6] v) {}",
    "constants": """body (int64 i, bool c, float[1, 4, 6, 6] v) => (bool d, float[1, 4, 6, 6] v)
                    { no = Constant <value = bool {0}> () d = Not (no) }""",
    "an outer constant": """body (int64 i, bool c, float[1, 4, 6, 6] v) => (bool d, float[1, 4, 6, 6] v)
                            { d = Identity (yes) }""",
    "what nobody reads": """body (int64 i, bool c, float[1, 4, 6, 6] v) => (bool c, float[1, 4, 6, 6] v)
                            { n = Neg (v) }""",
    "another such loop": """body (int64 i, bool c, float[1, 4, 6, 6] v) => (bool d, float[1, 4, 6, 6] u)
        { d = Identity (c) u = Loop (turns, yes, v) <body = inner (int64 j, bool e, float[1, 4, 6, 6] p)
                                                     => (bool e, float[1, 4, 6, 6] p) {}> }""",
}


@pytest.mark.parametrize("count", ["turns", ""])
@pytest.mark.parametrize("case", EMPTY)
def test_a_loop_that_could_not_be_stopped_is_refused_before_it_runs(tmp_path, case, count):
    if case == "another such loop" and not count:
        count = "few"  # the outer one ends; the inner does not
    model = network(f"z = Loop ({count}, yes, a) <body = {EMPTY[case]}>")
    onnx.save(model, tmp_path / "m.onnx")
    onnx.save(network("z = Relu (a)"), tmp_path / "other.onnx")
    said = "m.onnx: the body of Loop '", "computes nothing, so it could not be stopped"
    assert_refused(dfmpc("quantize", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx"), *said)
    assert_refused(dfmpc("verify", tmp_path / "other.onnx", tmp_path / "m.onnx"), *said)
    assert dfmpc("inspect", tmp_path / "m.onnx").exit_code == 0


@pytest.mark.parametrize(
    ("loop", "constants"),
    [
        (f"z = Loop (few, yes, a) <body = {EMPTY['nothing']}>", ""),
        (f"k = Constant <value = int64 {{7}}> () z = Loop (k, yes, a) <body = {EMPTY['nothing']}>", ""),
        (f"k = Constant <value_int = 7> () z = Loop (k, yes, a) <body = {EMPTY['nothing']}>", ""),
        (f"s = Shape (a) k = ReduceMax <keepdims = 0> (s) z = Loop (k, yes, a) <body = {EMPTY['nothing']}>", ""),
        (f"z = Loop (turns, yes, a) <body = {COUNTED}>", ""),
        (f"z = Loop (k, yes, a) <body = {EMPTY['nothing']}>", f", int64 k = {{{MOST_EMPTY_TURNS}}}"),
    ],
)
def test_other_loops_are_not(loop, constants):
    check_loops(network(loop, constants), "m")


@pytest.mark.parametrize(
    "loop",
    [
        f"k = Constant <value = int64 {{{TURNS}}}> () z = Loop (k, yes, a) <body = {EMPTY['nothing']}>",
        f"k = Constant <value_int = {TURNS}> () z = Loop (k, yes, a) <body = {EMPTY['nothing']}>",
        f"k = Mul (turns, few) z = Loop (k, yes, a) <body = {EMPTY['nothing']}>",
    ],
)
def test_a_trip_count_is_looked_up_where_the_file_settles_it(loop):
    with pytest.raises(ModelError, match=r"^m: the body of Loop"):
        check_loops(network(loop), "m")


IN_A_FUNCTION = f"""<domain: "mine", opset_import: ["": 17]> forever (a) => (z)
    {{ yes = Constant <value = bool {{1}}> () z = Loop (, yes, a) <body = {EMPTY["nothing"]}> }}"""


def test_loops_are_found_wherever_they_stand():
    inside = network("z = mine.forever (a)", more=IN_A_FUNCTION)
    nested = network(
        f"""z = If (yes) <then_branch = t () => (float[1, 4, 6, 6] p) {{ p = Loop (few, yes, a) <body = {COUNTED}> }},
                        else_branch = e () => (float[1, 4, 6, 6] q) {{ q = Relu (a) }}>"""
    )
    for model in (inside, nested):
        assert has_loop(model) and has_loop(model.SerializeToString())
    assert not has_loop(graphs.chain()) and not has_loop(graphs.chain().SerializeToString())
    assert not has_loop("/no/such/file.onnx")
    with pytest.raises(ModelError, match="computes nothing"):
        check_loops(inside, "m")


def test_expand_does_not_work_out_what_may_never_end():
    """A file that claims to be packed, whose weight comes out of a Loop, is not evaluated."""
    loop = """k = Loop (turns, yes, codes) <body = b (int64 i, bool c, int8[4, 4, 1, 1] v)
                => (bool d, int8[4, 4, 1, 1] u) { d = Identity (c) u = Neg (v) }>
            q = DequantizeLinear (k, scale) z = Conv (a, q)"""
    model = network(loop, ", float scale = {1}")
    codes = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.int8), "codes")
    model.graph.initializer.append(codes)
    helper.set_model_props(model, {"dfmpc_onnx.version": "0.1.0"})
    with pytest.raises(ModelError, match="none of its weights is packed"):
        dfmpc_onnx.expand(model)


def test_expand_says_of_a_damaged_file_that_it_is_damaged():
    chain = """i = Cast <to = 6> (bytes) t = Gather (table, i) k = Reshape (t, shape) n = Cast <to = 1> (k)
            q = Mul (n, scale) z = Conv (a, q)"""
    model = network(chain, ", float scale = {1}, int64[4] shape = {4, 4, 1, 1}")
    beyond = np.array([0, 1, 250, 3], np.uint8)  # five trits fill a byte up to 242
    for name, values in (("bytes", beyond), ("table", trits().table[:, :4])):
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    helper.set_model_props(model, {"dfmpc_onnx.version": "0.1.0"})
    with pytest.raises(ModelError, match=r"cannot be worked out \(.*\); the file is damaged") as caught:
        dfmpc_onnx.expand(model)
    assert "\n" not in str(caught.value)


def test_who_runs_strangers_models_may_allow_a_loop_less_time():
    model = endless()
    with runtime.limit_loops(0.01), pytest.raises(RunTooLong, match=r"did not end within 0\.01 s"):
        Session(model).run({"x": graphs.input_of(model)})
