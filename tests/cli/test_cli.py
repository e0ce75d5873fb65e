"""The command line is a contract: what stands on which stream, and which exit status."""

from __future__ import annotations

import hashlib
import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.cli import main
from dfmpc_onnx.graph import exchange
from dfmpc_onnx.pipeline.manager import PassResult
from dfmpc_passes.compensate import Compensate
from tests.commands import assert_refused, dfmpc, environment, held, program
from tests.graphs import Net, chain, dense, folded, nested, run

CLOSED_FORM = ["--recipe", "per-channel", "--weights", "2/6"]

# What a right command does


def test_quantize_prints_what_it_did_to_each_layer_and_the_whole(model_file: pathlib.Path) -> None:
    out = model_file.with_name("out.onnx")
    result = dfmpc("quantize", model_file, "-o", out, *CLOSED_FORM)
    assert (result.exit_code, result.stderr) == (0, "")
    table = result.stdout.partition("\n\n")[0]
    rows = {line.split()[0]: line.split() for line in table.splitlines()}
    assert rows["conv1"][1:] == ["Conv", "8", "8"]
    assert rows["conv2"][1:] == ["Conv", "ternary", "2"]
    assert rows["conv3"][1:] == ["Conv", "6", "8"]
    assert "4: 1 ternary, 1 at 6 bits, 2 at 8\n" in result.stdout
    assert "dB on 64 " in result.stdout
    for label in ("size", "mean bits per weight", "against the float model", "quantizing took"):
        assert label in result.stdout
    onnx.checker.check_model(out, full_check=True)


def test_quantize_json_is_one_object_with_the_promised_figures(model_file: pathlib.Path) -> None:
    out = model_file.with_name("out.onnx")
    result = dfmpc("quantize", model_file, "-o", out, "--json", *CLOSED_FORM)
    figures = json.loads(result.stdout)
    assert {"float_bytes", "bytes", "mean_weight_bits", "layers", "fidelity", "seconds"} <= set(figures)
    assert figures["float_bytes"] == model_file.stat().st_size
    assert figures["bytes"] == out.stat().st_size
    assert [(x["name"], x["op"], x["bits"], x["role"], x["refused"]) for x in figures["layers"]] == [
        ("conv1", "Conv", 8, "8-bit", None),
        ("conv2", "Conv", 2, "low", None),
        ("conv3", "Conv", 6, "high", None),
        ("gemm1", "Gemm", 8, "8-bit", None),
    ]


def test_json_says_what_it_is_of(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out, own = model_file.with_name("out.onnx"), tmp_path / "own.npz"
    np.savez(own, x=np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8))
    result = dfmpc("quantize", model_file, "-o", out, "--json", "--images", own, "--preprocess", "unit")
    figures = json.loads(result.stdout)
    assert (figures["model"], figures["output"]) == (str(model_file), str(out))
    assert figures["images"].startswith("12 images of own.npz")
    assert figures["version"] == dfmpc_onnx.__version__
    losses = [layer["loss"] for layer in figures["layers"]]
    assert all(isinstance(loss, float) and 0 <= loss < 1 for loss in losses)
    found = json.loads(dfmpc("verify", model_file, out, "--json", "--images", own).stdout)
    assert (found["model"], found["quantized"], found["images"]) == (str(model_file), str(out), str(own))
    assert found["version"] == dfmpc_onnx.__version__
    assert json.loads(dfmpc("verify", model_file, out, "--json").stdout)["images"] is None


def test_a_file_that_is_no_model_is_written_over_with_force_alone(model_file: pathlib.Path) -> None:
    out = model_file.with_name("thesis.txt")
    out.write_text("Chapter 1\n")
    for command in (["quantize", model_file], ["expand", model_file]):
        assert_refused(dfmpc(*command, "-o", out), "thesis.txt: is there already, and is no ONNX model", "--force")
        assert out.read_text() == "Chapter 1\n"
    assert dfmpc("quantize", model_file, "-o", out, *CLOSED_FORM, "--force").exit_code == 0
    onnx.checker.check_model(onnx.load(out))
    assert dfmpc("quantize", model_file, "-o", out, *CLOSED_FORM).exit_code == 0  # it is a model now


def test_a_plan_is_written_over_plans_alone(model_file: pathlib.Path) -> None:
    out = model_file.with_name("settings.toml")
    plan = ["plan", model_file, "--max-size", "90%", "-o", out]
    for text in ("[tool]\nname = 'mine'\n", "Chapter 1\n"):
        out.write_text(text)
        assert_refused(dfmpc(*plan), "settings.toml: is there already, and is no plan file", "--force")
        assert out.read_text() == text
    assert dfmpc(*plan, "--force").exit_code == 0
    assert "[plan]" in out.read_text()
    assert dfmpc(*plan).exit_code == 0  # it is a plan now
    assert dfmpc("plan", "--from", out, "--mean-bits", "6", "-o", out).exit_code == 0
    changed = out.read_text() + "# notes of mine\n"
    out.write_text(changed)
    assert_refused(dfmpc(*plan), "is no plan file as `plan` wrote it", "--force")
    assert out.read_text() == changed
    assert dfmpc(*plan, "--force").exit_code == 0


def test_a_sheet_of_images_is_written_over_pictures_alone(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "thesis.png"
    out.write_text("Chapter 1\n")
    images = ["images", "-o", out, "--size", 8, "--count", 1]
    assert_refused(dfmpc(*images), "thesis.png: is there already, and is no PNG file", "--force")
    assert out.read_text() == "Chapter 1\n"
    assert dfmpc(*images, "--force").exit_code == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert dfmpc(*images).exit_code == 0


def test_several_models_in_one_call_are_one_clear_line(model_file: pathlib.Path) -> None:
    for command in ("quantize", "inspect", "plan", "expand"):
        words = [] if command == "inspect" else ["-o", "out.onnx"]
        advice = "use batch for many, as in: dfmpc-onnx batch" if command == "quantize" else "run it once for each"
        said = f"3 models given, and {command} takes one: {model_file}, {model_file}, ...; {advice}"
        assert_refused(dfmpc(command, model_file, model_file, model_file, *words), said)


def test_bits_of_a_layer_behind_the_flag_layers_get_a_tip(model_file: pathlib.Path) -> None:
    result = dfmpc("quantize", model_file, "--layers", "conv*=8")
    assert_refused(result, "2 models given", "for the bits of a layer write --layer 'conv*=8'")


@pytest.mark.parametrize(
    ("words", "guess"),
    [
        (["quantise"], "did you mean 'quantize'?"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--recipee", "int8"], "'--recipe'"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--recipe", "int88"], "did you mean int8?"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--target", "tensort"], "did you mean tensorrt?"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--preprocess", "imagnet"], "did you mean imagenet?"),
        (["passes", "normalise"], "did you mean normalize?"),
    ],
)
def test_a_near_miss_is_suggested(words: list[str], guess: str) -> None:
    assert_refused(dfmpc(*words), guess)


def test_fixed_words_may_be_written_in_any_case(model_file: pathlib.Path) -> None:
    out = model_file.with_name("out.onnx")
    words = ["--recipe", "PAPER", "--target", "CPU", "--preprocess", "Unit", "--activations", "None"]
    assert dfmpc("quantize", model_file, "-o", out, *words).exit_code == 0
    assert dfmpc("passes", "Compensate").exit_code == 0


def test_quiet_leaves_warnings_and_errors_verbose_says_each_step(model_file: pathlib.Path) -> None:
    make = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), *CLOSED_FORM]
    quiet, verbose = dfmpc(*make, "-q"), dfmpc(*make, "-v")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")
    assert "first of a pair" in verbose.stdout and " of " in verbose.stderr.splitlines()[0]
    assert any("pair_convolutions" in line for line in verbose.stderr.splitlines())
    assert_refused(dfmpc(*make, "-q", "-v"), "-v and -q contradict each other; leave one of them out")


def test_errors_and_tips_are_coloured_on_a_terminal_that_wants_it() -> None:
    assert dfmpc("inspect", "none.onnx").stderr == "error: none.onnx: no such file\n"
    runner = CliRunner()
    drawn = runner.invoke(main, ["passes", "normalise"], color=True).stderr
    assert drawn.startswith("\x1b[31m\x1b[1merror:\x1b[0m pass 'normalise'")
    plain = runner.invoke(main, ["passes", "normalise"], color=True, env={"NO_COLOR": "1"}).stderr
    assert plain.startswith("error: pass 'normalise'")


def test_warnings_go_to_stderr_and_leave_the_json_alone(model_file: pathlib.Path) -> None:
    onnx.save(folded(), model_file)
    result = dfmpc(
        "quantize", model_file, "-o", model_file.with_name("out.onnx"), "--json", *CLOSED_FORM, "--preprocess", "unit"
    )
    assert result.exit_code == 0
    assert (
        result.stderr.startswith("warning: no layer can get the few bits of 2/6, all get 6:")
        and "BatchNormalization" in result.stderr
    )
    assert json.loads(result.stdout)["warnings"] == [result.stderr.removeprefix("warning: ").strip()]


def test_progress_is_drawn_on_stderr_of_a_terminal(model_file: pathlib.Path) -> None:
    command = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), *CLOSED_FORM]
    silent, drawn = program(*command), program(*command, FORCE_COLOR="1")
    assert (silent.returncode, drawn.returncode) == (0, 0)
    assert silent.stderr == ""
    assert drawn.stderr.endswith("\x1b[2K")  # the line is taken away at the end
    assert "conv1" in drawn.stdout and "\x1b[2K" not in drawn.stdout


def test_json_is_alone_on_stdout_of_a_terminal_too(model_file: pathlib.Path) -> None:
    command = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--json", *CLOSED_FORM]
    result = program(*command, FORCE_COLOR="1")
    assert (result.returncode, result.stderr) == (0, "")
    json.loads(result.stdout)


def test_a_model_of_several_inputs_is_compared_and_says_on_what(model_file: pathlib.Path) -> None:
    model = chain()
    model.graph.input.append(helper.make_tensor_value_info("n", TensorProto.INT64, [1]))
    model.graph.node.append(helper.make_node("Cast", ["n"], ["n_float"], to=TensorProto.FLOAT))
    model.graph.node.append(helper.make_node("Add", ["gemm1", "n_float"], ["sum"], name="add"))
    model.graph.output[0].name = "sum"
    onnx.save(model, model_file)
    out = model_file.with_name("out.onnx")
    result = dfmpc("quantize", model_file, "-o", out, "--recipe", "int8", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)["fidelity"]
    assert found["origin"] == "64 generated inputs" and found["sqnr_db"] > 20
    assert json.loads(dfmpc("verify", model_file, out, "--json").stdout)["providers"][0]["fidelity"] == found


def test_a_model_with_an_input_of_text_says_why_it_is_not_compared(model_file: pathlib.Path) -> None:
    model = chain()
    model.graph.input.append(helper.make_tensor_value_info("t", TensorProto.STRING, [1]))
    model.graph.node.append(helper.make_node("Identity", ["t"], ["same"], name="same"))
    model.graph.output.append(helper.make_tensor_value_info("same", TensorProto.STRING, [1]))
    onnx.save(model, model_file)
    out = model_file.with_name("out.onnx")
    result = dfmpc("quantize", model_file, "-o", out, *CLOSED_FORM)
    assert result.exit_code == 0
    assert "warning: not compared: nothing can be generated for its input 't' of type object" in result.stderr
    result = dfmpc("verify", model_file, out)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_an_output_of_unknown_shape_is_no_hindrance(model_file: pathlib.Path) -> None:
    net = Net()
    model = net.model(net.node("FastGelu", net.tail(net.block(net.block("x", 8), 8)), domain="com.microsoft"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, model_file)
    result = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), "--json", "--recipe", "int8")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["fidelity"]["sqnr_db"] > 20


def test_what_was_used_stands_in_the_file(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    net = Net(("n", 3, "h", "w"))
    model = net.model(net.tail(net.block(net.block("x", 8), 8)))
    model.graph.node[0].name = "a b c"
    onnx.save(model, model_file)
    out, own = model_file.with_name("out.onnx"), tmp_path / "own.npz"
    np.savez(own, x=np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8))
    options = ["--input-shape", "x:1x3x8x8", "--images", own, "--layer", "a b*=8", "--layer", "conv2=8"]
    assert dfmpc("quantize", model_file, "-o", out, "--recipe", "int8", *options).exit_code == 0
    stated = {p.key.removeprefix("dfmpc_onnx."): p.value for p in onnx.load(out).metadata_props}
    assert json.loads(stated["input_shapes"]) == {"x": [1, 3, 8, 8]}
    assert json.loads(stated["layers"]) == ["a b*=8", "conv2=8"]
    assert stated["images_sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert json.loads(stated["versions"]) == {
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
    }


def test_python_m_is_the_same_program(model_file: pathlib.Path) -> None:
    result = program("inspect", model_file, "--json")
    assert (result.stdout, result.stderr) == (dfmpc("inspect", model_file, "--json").stdout, "")


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        (["--recipe", "closed-form", "--weights", "4"], [8, 4, 4, 8]),
        (["--recipe", "closed-form", "--weights", "3/5"], [8, 3, 5, 8]),
        (["--recipe", "closed-form", "--weights", "ternary/6"], [8, 2, 6, 8]),
        (["--recipe", "paper", "--weights", "4"], [4, 4, 4, 4]),
        (["--recipe", "int8"], [8, 8, 8, 8]),
        (["--recipe", "int8", "--layer", "conv*=7", "--layer", "conv3=float"], [7, 7, 32, 8]),
        (["--recipe", "int8", "--layer", "*=ternary"], [2, 2, 2, 2]),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) and isinstance(v[0], str) else None,
)
def test_options_say_how_many_bits_a_layer_gets(model_file: pathlib.Path, options: list[str], bits: list[int]) -> None:
    result = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), "--json", *options)
    assert [layer["bits"] for layer in json.loads(result.stdout)["layers"]] == bits


@pytest.mark.parametrize(("activations", "integer"), [("8", True), ("none", False)])
def test_activations_say_whether_layers_compute_in_integers(
    model_file: pathlib.Path, activations: str, integer: bool
) -> None:
    out = model_file.with_name("out.onnx")
    result = dfmpc("quantize", model_file, "-o", out, "--json", *CLOSED_FORM, "--activations", activations)
    assert {layer["integer"] for layer in json.loads(result.stdout)["layers"]} == {integer}
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(out).graph.node) is integer


def test_an_existing_output_is_replaced_and_nothing_else_touched(model_file: pathlib.Path) -> None:
    out = model_file.with_name("out.onnx")
    onnx.save(_other_network(), out)
    before = held(model_file.parent)
    assert dfmpc("quantize", model_file, "-o", out).exit_code == 0
    after = held(model_file.parent)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == ["out.onnx"]


def test_external_weights_stay_external(model_file: pathlib.Path) -> None:
    onnx.save_model(chain(), model_file, save_as_external_data=True, location="w.bin", size_threshold=0)
    out = model_file.with_name("out.onnx")
    result = dfmpc("quantize", model_file, "-o", out, "--json", "--recipe", "int8")
    figures = json.loads(result.stdout)
    written = [p for p in model_file.parent.iterdir() if p.name not in ("model.onnx", "w.bin")]
    assert figures["float_bytes"] == model_file.stat().st_size + model_file.with_name("w.bin").stat().st_size
    assert figures["bytes"] == sum(p.stat().st_size for p in written)
    onnx.checker.check_model(out, full_check=True)


def test_dump_writes_the_graph_after_each_pass_and_never_over_the_input(model_file: pathlib.Path) -> None:
    out, folder = model_file.with_name("out.onnx"), model_file.with_name("graphs")
    assert dfmpc("quantize", model_file, "-o", out, *CLOSED_FORM, "--dump", folder).exit_code == 0
    names = sorted(p.name for p in folder.iterdir())
    assert names[:2] == ["01_normalize.onnx", "02_fold_scales.onnx"] and names[-1].endswith("_halve_floats.onnx")
    x = np.ones((1, 3, 8, 8), np.float32)
    assert np.array_equal(run(onnx.load(folder / names[0]), x)[0], run(onnx.load(model_file), x)[0])
    assert onnx.load(folder / names[-1]).graph == onnx.load(out).graph
    before = held(folder)
    result = dfmpc("quantize", folder / names[1], "-o", out, *CLOSED_FORM, "--dump", folder)
    assert_refused(result, f"{names[1]}: is the input itself")
    assert held(folder)[names[1]] == before[names[1]]


def test_inspect_lists_every_layer_with_role_and_every_recipe(model_file: pathlib.Path) -> None:
    found = json.loads(dfmpc("inspect", model_file, "--json").stdout)
    roles = {layer["name"]: layer["role"] for layer in found["layers"]}
    assert roles == {"conv1": "first layer", "conv2": "low", "conv3": "high", "gemm1": "classifier"}
    assert [r["recipe"] for r in found["recipes"]] == sorted(catalog.recipes())
    for forecast in found["recipes"]:
        assert sum(forecast[role] for role in ("low", "high", "eight_bit", "auto", "float")) == len(roles)
    table = dfmpc("inspect", model_file, "-v").stdout
    assert "repaired in conv3" in table
    assert all(name in table for name in (*roles, *catalog.recipes()))


def test_inspect_counts_those_that_repair_a_layer_of_a_dense_net(model_file: pathlib.Path) -> None:
    onnx.save(dense(), model_file)
    found = {layer["name"]: layer for layer in json.loads(dfmpc("inspect", model_file, "--json").stdout)["layers"]}
    assert (found["conv3"]["repaired_in"], found["conv3"]["also_repaired_in"]) == ("conv4", ["gemm1"])
    assert (found["conv5"]["repaired_in"], found["conv5"]["also_repaired_in"]) == ("gemm1", [])
    assert "repaired in conv4 and 1 more" in dfmpc("inspect", model_file, "-v").stdout


def test_layers_where_no_pass_reaches_are_listed_by_inspect_and_quantize(model_file: pathlib.Path) -> None:
    onnx.save(nested(), model_file)
    found = json.loads(dfmpc("inspect", model_file, "--json").stdout)["layers"]
    result = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), "--json", *CLOSED_FORM)
    made = json.loads(result.stdout)
    assert made["fidelity"]["origin"] == "64 generated inputs"
    for layers in (found, made["layers"]):
        assert [layer["name"] for layer in layers[-2:]] == ["choice/then_branch/Conv_0", "choice/else_branch/Conv_1"]
        assert all(layer["role"] == "float" and "not entered" in layer["refused"] for layer in layers[-2:])
    assert "choice/else_branch/Conv_1" in dfmpc("inspect", model_file).stdout


def test_inspect_and_the_catalogue_need_no_onnxruntime(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if not installed: import fails, find_spec is None
    for command in (["inspect", model_file], ["passes"], ["recipes"]):
        assert dfmpc(*command).exit_code == 0


def test_verify_prints_one_row_a_provider(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    result = dfmpc("verify", model_file, quantized, "--provider", "CPU")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines()[1].split()[0] == "CPU" and "on 64 " in result.stdout


def test_verify_takes_the_preprocess_that_the_file_states(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    stated = json.loads(dfmpc("verify", model_file, quantized, "--json").stdout)
    asked = json.loads(dfmpc("verify", model_file, quantized, "--json", "--preprocess", "raw").stdout)
    assert (stated["preprocess"], asked["preprocess"]) == ("unit", "raw")
    assert stated["providers"] != asked["providers"]


def test_verify_tells_of_a_pair_that_is_none(
    model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(_other_network(), other)
    assert dfmpc("verify", model_file, quantized).stderr == ""
    assert "the float model comes first" in dfmpc("verify", quantized, model_file).stderr
    assert "both files are the same" in dfmpc("verify", model_file, model_file).stderr
    assert "was made from other bytes than" in dfmpc("verify", other, quantized).stderr
    assert "was made for preprocess unit, not raw" in (
        dfmpc("verify", model_file, quantized, "--preprocess", "raw").stderr
    )


def test_verify_of_a_model_with_itself_agrees_wholly(model_file: pathlib.Path) -> None:
    found = json.loads(dfmpc("verify", model_file, model_file, "--json").stdout)
    fidelity = found["providers"][0]["fidelity"]
    assert (fidelity["agreement"], fidelity["max_error"]) == (100.0, 0.0)


def test_the_worst_output_is_shown_and_held_against_the_threshold(tmp_path: pathlib.Path) -> None:
    """A large exact output beside hides nothing: pooled, these have 86 dB."""
    files = []
    for factor in (1.0, 0.5):
        net = Net()
        large, small = (net.node("Mul", "x", net.weight(f"w{i}", np.float32(f))) for i, f in enumerate((1e4, factor)))
        files.append(tmp_path / f"{factor}.onnx")
        onnx.save(net.model(large, small), files[-1])
    result = dfmpc("verify", *files, "--min-sqnr", 20)
    assert result.exit_code == 1 and "SQNR 6.02 dB of output 'mul2' is below --min-sqnr 20" in result.stderr
    assert "SQNR by output: 'mul2' 6.02 dB, 'mul1' 200.00 dB" in " ".join(result.stdout.split())


@pytest.mark.parametrize("threshold", ["--min-agreement", "--min-sqnr"])
def test_verify_below_a_threshold_ends_with_1_and_says_so(
    model_file: pathlib.Path, quantized: pathlib.Path, threshold: str
) -> None:
    (found,) = json.loads(dfmpc("verify", model_file, quantized, "--json").stdout)["providers"]
    reached = found["verdict"]["interval"][0] if threshold == "--min-agreement" else found["fidelity"]["sqnr_db"]
    assert dfmpc("verify", model_file, quantized, threshold, reached).exit_code == 0
    onnx.save(_other_network(), model_file)
    result = dfmpc("verify", model_file, quantized, threshold, reached, "--json")
    assert result.exit_code == 1
    assert "\nfailed: CPU: " in result.stderr and f"below {threshold} {reached}" in result.stderr
    assert [f"failed: {line}" for line in json.loads(result.stdout)["below"]] == result.stderr.splitlines()[2:]


def _other_network() -> onnx.ModelProto:
    """The small network with every score negated."""
    model = chain()
    for tensor in model.graph.initializer:
        if tensor.name.startswith("gemm1."):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    return model


def test_verify_scores_labelled_images(
    model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels, y=np.arange(6) % 5)
    folder = tmp_path / "images"
    folder.mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{index}.png")
    rows = "".join(f"{index}.png,{index % 5}\n" for index in range(6))
    (folder / "labels.csv").write_text(f"file,label\n{rows}")
    found = [
        json.loads(dfmpc("verify", model_file, quantized, "--json", "--images", source).stdout)["providers"][0]
        for source in (tmp_path / "images.npz", folder)
    ]
    scores = [(f["fidelity"]["top1"], f["fidelity"]["float_top1"], f["fidelity"]["sqnr_db"]) for f in found]
    assert scores[0] == scores[1]
    assert None not in scores[0]


def test_verify_prints_the_points_lost(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    x = np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32)
    best = [run(chain(), image[None])[0].argmax() for image in x]
    np.savez(tmp_path / "images.npz", x=x, y=np.array(best))
    onnx.save(_other_network(), tmp_path / "other.onnx")
    result = dfmpc("verify", model_file, tmp_path / "other.onnx", "--images", tmp_path / "images.npz")
    row = result.stdout.splitlines()[1]
    assert row.split()[-3:] == ["0.00", "100.00", "100.00"]


def test_passes_lists_every_pass_and_prints_each(monkeypatch: pytest.MonkeyPatch) -> None:
    table = dfmpc("passes").stdout
    for name in catalog.passes():
        assert name in table
        page = dfmpc("passes", name).stdout
        for heading in ("Before", "After", "Why", "Requires", "Refuses when", "Reference"):
            assert f"\n{heading}: " in page, f"{name} has no {heading}"
    assert "lambda1 = 0.1" in dfmpc("passes", "compensate").stdout


def test_a_printed_recipe_is_a_recipe_to_copy_and_change(model_file: pathlib.Path) -> None:
    copy, out = model_file.with_name("mine.toml"), model_file.with_name("out.onnx")
    table = dfmpc("recipes").stdout
    for name in catalog.recipes():
        assert name in table
        copy.write_text(dfmpc("recipes", name).stdout)
        copied, shipped = (catalog.find_recipe(found) for found in (str(copy), name))
        assert [(step.use, step.options) for step in copied.steps] == [(s.use, s.options) for s in shipped.steps]
        assert (copied.weights, copied.activations) == (shipped.weights, shipped.activations)
        assert (copied.summary, copied.reduce_range) == (shipped.summary, shipped.reduce_range)
    dfmpc("quantize", model_file, "-o", out, "--recipe", name)
    by_name = onnx.load(out).graph
    assert dfmpc("quantize", model_file, "-o", out, "--recipe", copy).exit_code == 0
    assert onnx.load(out).graph == by_name


# Names from a model are data, wherever they are shown


@pytest.mark.parametrize(
    "name", ["[red]x[/red]", "\x1b[31mx\x1b[0m", "a\nb\rc", "\u202e\x9b2J", "\U000e0041\x7f", "[/]", "x" * 5000]
)
def test_a_hostile_name_is_shown_as_data(model_file: pathlib.Path, name: str) -> None:
    model = chain()
    model.graph.node[0].name = model.graph.node[0].output[0] = model.graph.node[1].input[0] = name
    model.producer_name = name
    onnx.save(model, model_file)
    out = model_file.with_name("out.onnx")
    shown = "".join(c if c.isprintable() and c.isascii() else "?" for c in name)
    make = ["quantize", model_file, "-o", out, *([] if name == "[/]" else CLOSED_FORM)]
    for command in (["inspect", model_file], make, ["verify", model_file, out]):
        plain = dfmpc(*command)
        assert plain.exit_code == 0
        assert not set("\x1b\x9b\r\u202e") & set(plain.output)
        if command[0] != "verify" and len(name) < 100:
            assert any(line.startswith(shown) for line in plain.stdout.splitlines()), plain.stdout
    for command in (["inspect", model_file], make):
        found = dfmpc(*command, "--json").stdout
        assert all(c.isprintable() or c == "\n" for c in found)
        assert json.loads(found)["layers"][0]["name"] == name


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_name_beyond_the_encoding_of_the_output_is_escaped(model_file: pathlib.Path, encoding: str) -> None:
    model, name = chain(), "\u540d\u00e9/conv"
    model.graph.node[0].name = name
    onnx.save(model, model_file)
    make = ["quantize", model_file, "-o", model_file.with_name("\u00e9.onnx"), *CLOSED_FORM]
    for command in (["inspect", model_file], make):
        for form in ([], ["--json"]):
            ended = subprocess.run(
                [sys.executable, "-W", "error", "-m", "dfmpc_onnx", *map(str, command), *form],
                capture_output=True,
                check=False,
                env=environment(PYTHONIOENCODING=encoding, COLUMNS="200"),
            )
            assert (ended.returncode, b"defect" in ended.stderr) == (0, False), ended.stderr
            if form:
                assert json.loads(ended.stdout.decode("ascii"))["layers"][0]["name"] == name
            elif encoding == "utf-8":
                assert name in ended.stdout.decode()


# Our own mistakes: exit 3, with where to report them


def test_a_pass_that_fails_is_a_defect_that_names_it(model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(self: Compensate, workspace: object) -> PassResult:
        raise ZeroDivisionError("a [bold]slip[/bold]")

    monkeypatch.setattr(Compensate, "run", run)
    before = held(model_file.parent)
    result = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), "--json", *CLOSED_FORM)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "pass compensate failed (ZeroDivisionError: a [bold]slip[/bold])" in result.stderr
    assert (
        "passes already run: normalize, fold_scales, integer_gates, fold_for_one_scale, pair_convolutions"
        in result.stderr
    )
    assert "report it to" in result.stderr and "Traceback" not in result.stderr
    assert held(model_file.parent) == before


def test_anything_unforeseen_is_a_defect(model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def inspect(model: str, **options: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("dfmpc_onnx.api.inspection.inspect", inspect)
    result = dfmpc("inspect", model_file)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "KeyError at test_cli.py:" in result.stderr and "report it to" in result.stderr


def test_a_result_that_loads_but_does_not_run_is_a_defect(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serialize = exchange.to_model

    def broken(*args: object) -> onnx.ModelProto:
        model = serialize(*args)
        model.graph.initializer.append(numpy_helper.from_array(np.array([99]), "beyond"))
        name = model.graph.output[0].name
        model.graph.node[-1].output[0] = "scores"
        model.graph.node.append(helper.make_node("Gather", ["scores", "beyond"], [name], axis=1))
        return model

    monkeypatch.setattr("dfmpc_onnx.api.builds.to_model", broken)
    before = held(model_file.parent)
    result = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), *CLOSED_FORM)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "the quantized model: onnxruntime cannot run it" in result.stderr
    assert "nothing has been written" in result.stderr
    assert held(model_file.parent) == before


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("earlier", [b"the earlier file", None])
def test_a_result_that_does_not_load_leaves_the_earlier_file(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch, external: bool, earlier: bytes | None
) -> None:
    serialize = exchange.to_model

    def broken(*args: object) -> onnx.ModelProto:
        model = serialize(*args)
        model.graph.node[-1].op_type = "Gemmm"
        return model

    monkeypatch.setattr("dfmpc_onnx.api.builds.to_model", broken)
    if external:
        onnx.save_model(chain(), model_file, save_as_external_data=True, location="w.bin", size_threshold=0)
    out = model_file.with_name("out.onnx")
    if earlier:
        out.write_bytes(earlier)
    before = held(model_file.parent)
    result = dfmpc("quantize", model_file, "-o", out, "--force")
    assert result.exit_code == 3
    assert "cannot load it" in result.stderr and "nothing has been written" in result.stderr
    assert held(model_file.parent) == before
