"""A small file cannot ask for more memory than there is: it is refused in one line before anything is computed."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from dfmpc_onnx import memory
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.model.resource_limits import check_claims
from dfmpc_onnx.model.source import load
from tests.commands import assert_refused, dfmpc, environment, held

MANY = 1 << 40


def network(text: str, inputs: str = "float[1, 3, 8, 8] x", constants: str = "") -> onnx.ModelProto:
    """A Conv, whose output is c, and behind it what the text says, whose output is y."""
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17]> net ({inputs}) => (float y)
        <float[4, 3, 1, 1] w = {{ 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3 }} {constants}>
        {{ c = Conv (x, w) {text} }}"""
    )


GIANTS = {
    "ConstantOfShape": network("t = ConstantOfShape (k) y = ReduceMax (t)", constants=f", int64[1] k = {{{MANY}}}"),
    "Expand": network("t = Expand (c, k) y = ReduceMax (t)", constants=f", int64[4] k = {{{MANY}, 4, 8, 8}}"),
    "Tile": network("t = Tile (c, k) y = ReduceMax (t)", constants=f", int64[4] k = {{{MANY}, 1, 1, 1}}"),
    "Pad": network("t = Pad (c, k) y = ReduceMax (t)", constants=f", int64[8] k = {{0, 0, 0, 0, 0, 0, 0, {MANY}}}"),
    "Resize": network(
        'e = Constant <value = float[0] {}> () t = Resize <mode = "nearest"> (c, e, k) y = ReduceMax (t)',
        constants=", float[4] k = {1, 1, 1000000, 1000000}",
    ),
    "Range": network(
        "t = Range (a, k, b) y = ReduceMax (t)", constants=f", int64 a = {{0}}, int64 k = {{{MANY}}}, int64 b = {{1}}"
    ),
    "ConvTranspose": network(
        "t = ConvTranspose <strides = [900000, 900000]> (c, v) y = ReduceMax (t)",
        constants=", float[4, 1, 1, 1] v = {1, 2, 3, 4}",
    ),
    "a product of two": network(
        "a = ConstantOfShape (k) b = ConstantOfShape (l) t = MatMul (a, b) y = ReduceMax (t)",
        constants=f", int64[2] k = {{{1 << 20}, 1}}, int64[2] l = {{1, {1 << 20}}}",
    ),
    "a shape that is computed": network(
        "s = Shape (c) n = Mul (s, k) t = Expand (c, n) y = ReduceMax (t)",
        constants=f", int64[4] k = {{{MANY}, 1, 1, 1}}",
    ),
    "the input itself": network("y = ReduceMax (c)", inputs=f"float[1, 3, {1 << 20}, {1 << 20}] x"),
    "inside an If": network(
        """t = If (o) <then_branch = then () => (float p) { q = ConstantOfShape (k) p = ReduceMax (q) },
                       else_branch = else () => (float r) { r = ReduceMax (c) }> y = Identity (t)""",
        constants=f", bool o = {{1}}, int64[1] k = {{{MANY}}}",
    ),
    "many that live at once": network(
        " ".join(f"t{i} = ConstantOfShape (k)" for i in range(200))
        + f" t = Sum ({', '.join(f't{i}' for i in range(200))}) y = ReduceMax (t)",
        constants=f", int64[1] k = {{{1 << 31}}}",
    ),
}


@pytest.mark.parametrize("case", GIANTS)
def test_a_model_that_no_memory_has_room_for_is_refused(tmp_path, case):
    source = tmp_path / "model.onnx"
    onnx.save(GIANTS[case], source)
    before = held(tmp_path)
    for recipe in ("per-channel", "int8"):
        result = dfmpc("quantize", source, "-o", tmp_path / "out.onnx", "--recipe", recipe)
        assert_refused(result, "model.onnx: running it takes ", "GB or more", "this machine has")
    assert_refused(dfmpc("verify", source, source), "model.onnx: running it takes ")
    assert dfmpc("inspect", source).exit_code == 0
    if "input" not in case:
        assert_refused(dfmpc("expand", source, "-o", tmp_path / "out.onnx"), "model.onnx: running it takes ")
    assert held(tmp_path) == before


def test_a_model_with_room_passes_and_one_byte_less_is_refused(monkeypatch):
    model = network("t = Relu (c) u = Relu (t) y = ReduceMax (u)")
    # At any time two of the maps of 1 x 4 x 8 x 8 live, beside the weight; or the input and the first.
    wanted = 4 * 12 + 4 * (4 * 64 + 4 * 64)
    monkeypatch.setattr("dfmpc_onnx.model.resource_limits.machine_memory", lambda: wanted)
    check_claims(model, {"x": (1, 3, 8, 8)}, "model")
    monkeypatch.setattr("dfmpc_onnx.model.resource_limits.machine_memory", lambda: wanted - 1)
    with pytest.raises(ModelError, match=r"model: running it takes 2\.1e-06 GB or more, 'c' of shape \[1, 4, 8, 8\]"):
        check_claims(model, {"x": (1, 3, 8, 8)}, "model")


def test_an_open_dimension_is_what_the_user_says(monkeypatch):
    model = network("y = ReduceMax (c)", inputs="float[N, 3, H, W] x")
    monkeypatch.setattr("dfmpc_onnx.model.resource_limits.machine_memory", lambda: 1_000_000)
    check_claims(model, {"x": (1, 3, 100, 100)}, "model")
    with pytest.raises(ModelError, match="give a smaller --input-shape"):
        check_claims(model, {"x": (1, 3, 300, 300)}, "model")


@pytest.mark.parametrize("pads", [[0, 0, 0, 1 << 20], [1 << 20, 0, 0, 0]])
def test_a_conv_that_reads_a_million_columns_of_its_own_padding_is_refused(tmp_path, pads):
    """Of one case that the fuzzers drew: 0.3 kB, a few maps of 0.1 GB, and minutes for each recipe."""
    source = tmp_path / "model.onnx"
    onnx.save(network(f"y = Conv <pads = {pads}> (c, v)", constants=", float[1, 4, 1, 1] v = {1, 2, 3, 4}"), source)
    result = dfmpc("quantize", source, "-o", tmp_path / "out.onnx", "--recipe", "per-channel")
    assert_refused(result, "pads its input by 1048575 positions more than its window has", "the model is damaged")


def test_a_causal_conv_may_pad_as_widely_as_its_window_reaches():
    wide = network(
        "y = Conv <pads = [0, 100000, 0, 0], dilations = [1, 100000]> (c, v)",
        constants=", float[1, 4, 1, 2] v = {1, 2, 3, 4, 5, 6, 7, 8}",
    )
    check_claims(wide, {"x": (1, 3, 8, 8)}, "model")


def sparse(dims: list[int]) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0]), "i"), dims)


def test_a_tensor_that_claims_what_its_bytes_do_not_hold_is_refused(tmp_path):
    plain = network("y = ReduceMax (c)")
    wrong = {}
    for name, tensor in {
        "raw": TensorProto(name="t", data_type=1, dims=[1 << 20, 1 << 20], raw_data=b"1234"),
        "overflow": TensorProto(name="t", data_type=1, dims=[1 << 62, 1 << 62, 1 << 62], raw_data=b"1234"),
        "packed": TensorProto(name="t", data_type=TensorProto.INT4, dims=[1 << 45], raw_data=b"1"),
        "none of many": TensorProto(name="t", data_type=1, dims=[1 << 50, 0], raw_data=b""),
    }.items():
        wrong[name] = onnx.ModelProto()
        wrong[name].CopyFrom(plain)
        wrong[name].graph.initializer.append(tensor)
    wrong["sparse"] = onnx.ModelProto()
    wrong["sparse"].CopyFrom(plain)
    wrong["sparse"].graph.sparse_initializer.append(sparse([1 << 20, 1 << 30]))
    wrong["sparse constant"] = onnx.ModelProto()
    wrong["sparse constant"].CopyFrom(plain)
    wrong["sparse constant"].graph.node.append(
        helper.make_node("Constant", [], ["z"], sparse_value=sparse([1 << 20, 1 << 30]))
    )
    for name, model in wrong.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
        for command in (["inspect"], ["quantize", "-o", tmp_path / "out.onnx"]):
            assert_refused(dfmpc(*command, tmp_path / f"{name}.onnx"), "would take ", "this machine has")


def calling(depth: int, last: str) -> onnx.ModelProto:
    """Functions of which each calls the next twice."""
    head = '<domain: "own", opset_import: ["": 17, "own": 1]>'
    functions = " ".join(
        f"{head} f{i} (a) => (c) {{ b = own.f{i + 1} (a) c = own.f{i + 1} (b) }}" for i in range(depth)
    )
    return onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["": 17, "own": 1]> net (float[1, 3, 8, 8] x) => (float y)
        <float[1, 3, 1, 1] w = {{1, 2, 3}}> {{ c = Conv (x, w) y = own.f0 (c) }}
        {functions} {head} f{depth} (a) => (c) {{ {last} }}"""
    )


def test_functions_that_double_at_every_step_are_refused(tmp_path):
    for name, model, said in (
        ("many", calling(60, "c = Relu (a)"), "its functions unfold to more than 50,000 nodes"),
        ("circle", calling(2, "c = own.f0 (a)"), "calls itself; no runtime can run that"),
        ("itself", calling(0, "c = own.f0 (a)"), "its function 'f0' calls itself"),
        ("long", calling(3000, "c = Relu (a)"), "its functions unfold to more than 60,030 nodes"),
    ):
        onnx.save(model, tmp_path / f"{name}.onnx")
        for command in (["inspect"], ["quantize", "-o", tmp_path / "out.onnx"]):
            assert_refused(dfmpc(*command, tmp_path / f"{name}.onnx"), said)


def test_functions_that_end_are_counted_and_taken(tmp_path):
    onnx.save(calling(3, "c = Relu (a)"), tmp_path / "model.onnx")
    assert dfmpc("inspect", tmp_path / "model.onnx").exit_code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs files with holes")
def test_a_file_that_no_protobuf_can_be_is_not_read(tmp_path):
    with (tmp_path / "model.onnx").open("wb") as stream:
        stream.truncate(1 << 42)
    assert_refused(dfmpc("inspect", tmp_path / "model.onnx"), "no ONNX file is larger than 2 GiB")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a bound on a process's data")
def test_within_the_bound_an_allocation_fails_and_the_process_lives():
    program = (
        "import numpy as np\n"
        "from dfmpc_onnx import memory\n"
        "memory.free_memory = lambda: 1 << 29\n"
        "with memory.limit_memory():\n"
        "    try:\n"
        "        np.ones(1 << 28)\n"
        "    except MemoryError:\n"
        "        print('refused')\n"
        "print(np.ones(1 << 10).size)\n"
        "import resource\n"
        "print(resource.getrlimit(resource.RLIMIT_DATA)[0])\n"
    )
    import resource

    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=environment(OMP_NUM_THREADS="1"),
    )
    assert ended.stdout.split() == ["refused", "1024", str(resource.getrlimit(resource.RLIMIT_DATA)[0])]


def test_the_machine_tells_how_much_memory_it_has():
    assert 2**28 < memory.machine_memory() < 2**50
    assert 2**28 < memory.free_memory() < 2**50


def test_what_may_be_held_is_what_is_free_and_what_is_held_already(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   1000 kB\nSwapFree: 20 kB\n")
    (tmp_path / "status").write_text("Name:\tpython\nVmData:\t     3 kB\n")
    monkeypatch.setattr(memory, "CGROUPS", ())
    monkeypatch.setattr(memory, "MEMINFO", str(tmp_path / "meminfo"))
    monkeypatch.setattr(memory, "STATUS", str(tmp_path / "status"))
    assert memory.free_memory() == 1023 * 1024


def test_where_the_system_tells_nothing_there_is_a_guess(monkeypatch):
    monkeypatch.setattr(memory, "CGROUPS", ())
    monkeypatch.setattr(memory, "MEMINFO", "/nowhere")
    monkeypatch.setattr("os.sysconf", lambda name: (_ for _ in ()).throw(ValueError(name)))
    assert memory.machine_memory() == memory.free_memory() == memory.UNKNOWN


def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1048576\n")
    (tmp_path / "unlimited").write_text("max\n")
    monkeypatch.setattr(memory, "CGROUPS", (str(tmp_path / "memory.max"), str(tmp_path / "unlimited")))
    assert memory.machine_memory() == memory.free_memory() == 1 << 20


def test_functions_are_counted_and_not_written_out(tmp_path, monkeypatch):
    """Seventeen doublings: few bytes, 131,072 nodes."""
    monkeypatch.setattr("onnx.inliner.inline_local_functions", lambda *args: pytest.fail("they were written out"))
    onnx.save(calling(17, "c = Relu (a)"), tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").stat().st_size < 5000
    assert_refused(dfmpc("inspect", tmp_path / "model.onnx"), "its functions unfold to more than 50,000 nodes")


def test_constants_in_functions_are_counted_too():
    model = calling(10, "k = Constant <value = float[1] {1}> () c = Add (a, k)")
    last = model.functions[-1].node[0].attribute[0].t
    last.CopyFrom(numpy_helper.from_array(np.zeros(2**20, np.float32)))
    with pytest.raises(ModelError, match="its functions unfold to more than 512 MiB"):
        load(model)


def nested_bodies(depth: int) -> onnx.ModelProto:
    text = "y = Relu (c)"
    for level in range(depth):
        then = f"then{level} () => (float t{level}) {{ {text.replace('y =', f't{level} =')} }}"
        other = f"else{level} () => (float e{level}) {{ e{level} = Relu (c) }}"
        text = f"y = If (o) <then_branch = {then}, else_branch = {other}>"
    return network(text, constants=", bool o = {1}")


def test_bodies_that_stand_too_deep_in_each_other_are_refused(tmp_path):
    onnx.save(nested_bodies(5), tmp_path / "few.onnx")
    onnx.save(nested_bodies(25), tmp_path / "many.onnx")
    assert dfmpc("inspect", tmp_path / "few.onnx").exit_code == 0
    assert_refused(dfmpc("inspect", tmp_path / "many.onnx"), "stand more than 20 deep in each other")


def test_what_protobuf_does_not_read_is_not_called_damaged(tmp_path):
    field = b""
    for _ in range(50):
        for key in (0x32, 0x2A, 0x0A):  # a graph in an attribute in a node in a graph
            field = message(key, field)
    (tmp_path / "model.onnx").write_bytes(message(0x3A, field))
    assert_refused(dfmpc("inspect", tmp_path / "model.onnx"), "nested more deeply than protobuf reads")


def message(key: int, content: bytes) -> bytes:
    """A field of a message that holds another one."""
    length, size = bytearray(), len(content)
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([key, *length, size]) + content


def test_a_type_of_many_sequences_is_refused():
    model = network("y = ReduceMax (c)")
    kind = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
    for _ in range(12):
        kind = helper.make_sequence_type_proto(kind)
    model.graph.value_info.append(helper.make_value_info("s", kind))
    with pytest.raises(ModelError, match="a type is nested more than 8 deep"):
        load(model)


def test_how_much_memory_there_is_is_asked_for_what_is_large_alone(monkeypatch):
    asked = []
    monkeypatch.setattr("dfmpc_onnx.model.tensor_checks.machine_memory", lambda: asked.append(1) or 2**21)
    many = [numpy_helper.from_array(np.zeros(8, np.float32), f"b{i}") for i in range(1000)]
    model = network("y = ReduceMax (c)")
    model.graph.initializer.extend(many)
    load(model)
    assert not asked
    model.graph.initializer.append(TensorProto(name="none", data_type=TensorProto.FLOAT, dims=[0, 2**30]))
    with pytest.raises(ModelError, match=r"'none' of shape \[0, 1073741824\] would take 4.29 GB"):
        load(model)
    assert asked
