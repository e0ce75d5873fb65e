"""Tables can be read on a terminal of 80 columns: nothing is cut, and no name is broken that fits into a line."""

from __future__ import annotations

import io
import json
import pathlib
import re

import msgspec
import numpy as np
import onnx
import pytest
from rich.console import Console

from dfmpc_onnx import catalog
from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.evaluation.output_differences import GroupFidelity, OutputFidelity
from dfmpc_onnx.pipeline.refusals import REFUSAL_CODES, Refusal
from dfmpc_onnx.report.tables import distinct_names, listing, rows_of_one_line
from dfmpc_onnx.report.text import by_output, fidelity_line, refusal_list
from dfmpc_onnx.report.width_words import layers_by_bits, span_of
from tests.commands import dfmpc, program
from tests.graphs import Net, chain

LONG = "/features/features.10/shortcut/shortcut.0/Conv"


@pytest.fixture
def long_names(model_file: pathlib.Path) -> pathlib.Path:
    """The small network with a name of 46 characters, and others of 25."""
    model = chain()
    for node in model.graph.node:
        node.name = LONG if node.name == "conv2" else f"/features/part/of/{node.name:>07}"
    onnx.save(model, model_file)
    return model_file


def listed(width: int, *rows: tuple[str, ...]) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    listing(console, ("layer", "bits", "why"), rows, right=("bits",))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_table_that_fits_is_one_row_a_line():
    assert listed(40, ("conv1", "8", "first layer"), ("c2", "10", "")) == [
        "layer  bits  why",
        "conv1     8  first layer",
        "c2       10",
    ]


def test_remarks_that_do_not_fit_stand_below_their_rows():
    assert listed(24, ("conv1", "8", "loses 0.2 % to rounding"), ("c2", "10", "")) == [
        "layer  bits",
        "conv1     8",
        "    loses 0.2 % to",
        "    rounding",
        "c2       10",
    ]


def test_a_name_that_does_not_fit_stands_above_its_row():
    assert listed(20, ("a/name/of/18/chars", "8", ""), ("c2", "10", "low half of a pair")) == [
        "layer           bits",
        "a/name/of/18/chars",
        "                   8",
        "c2                10",
        "    low half of a",
        "    pair",
    ]


def test_names_that_look_alike_when_shortened_begin_where_they_differ():
    names = [f"/features/features.{n}/conv/conv.0/conv1/Conv + 1 more" for n in (9, 10, 11)]
    assert distinct_names([*names, "/head"], [24] * (len(names) + 1)) == [
        "..9/conv/..Conv + 1 more",
        "..10/conv..Conv + 1 more",
        "..11/conv..Conv + 1 more",
        "/head",
    ]
    assert distinct_names(["/a/long/name", "/a/long/name"], [8, 8]) == ["..name", "..name"]


@pytest.mark.parametrize("columns", [80, 60])
def test_every_table_fits_a_narrow_terminal(long_names: pathlib.Path, columns: int) -> None:
    out = long_names.with_name("out.onnx")
    for command in (
        ["inspect", long_names],
        ["quantize", long_names, "-o", out, "--recipe", "per-channel", "--preprocess", "unit"],
        ["inspect", out],
        ["verify", long_names, out],
        ["passes"],
        ["recipes"],
    ):
        result = dfmpc(*command, COLUMNS=str(columns))
        assert result.exit_code == 0, result.stderr
        lines = result.stdout.splitlines()
        assert max(map(len, lines)) <= columns
        assert "…" not in result.stdout
    for command in (
        ["inspect", long_names, "-v"],
        ["quantize", long_names, "-o", out, "--recipe", "per-channel", "-v"],
    ):
        whole = dfmpc(*command, COLUMNS=str(columns)).stdout.splitlines()
        assert {LONG, "/features/part/of/00conv1"} <= {line.split()[0] for line in whole if line.strip()}


def test_what_is_no_terminal_gets_one_row_a_line(long_names: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = program("inspect", long_names, "-v").stdout.splitlines()
    row = [line.rstrip() for line in rows if line.startswith("/features/part/of/00conv3")][-1]
    assert row.split()[1:5] == ["Conv", "8x8x3x3", "more", "bits"]
    assert "follows, not" in row


def test_a_reason_that_many_layers_share_is_told_once(model_file: pathlib.Path) -> None:
    net = Net()
    x = net.block("x", 8)
    for _ in range(3):
        x = net.relu(net.node("Add", net.norm(net.conv(net.block(x, 8), 8)), x))
    onnx.save(net.model(net.tail(x)), model_file)
    out = model_file.with_name("out.onnx")
    told = dfmpc("quantize", model_file, "-o", out, "--recipe", "per-channel", "-v").stdout
    assert "\n  conv3 and 2 more alike: pair_convolutions: Add 'add1' follows" in told
    assert told.count("pair_convolutions: Add 'add") == 1


def test_reasons_are_grouped_by_pass_and_code_whatever_their_words() -> None:
    console = Console(width=120, file=io.StringIO())
    refusals = [
        Refusal("a", "Add 'b: c' follows, not a Conv", "no-chain", "pair"),
        Refusal("d", "its output 'e' is read twice", "no-chain", "pair"),
        Refusal("f", "Add 'g' follows", "no-chain", "other"),
        Refusal("h", "of a stranger's pass", by="theirs"),
        Refusal("i", "of a stranger's pass, too", by="theirs"),
    ]
    refusal_list("of them", refusals, 12, console)
    assert [line.strip() for line in console.file.getvalue().splitlines()[1:]] == [
        "5 of them:",
        "a and 1 more alike: pair: Add 'b: c' follows, not a Conv",
        "f: other: Add 'g' follows",
        "h: theirs: of a stranger's pass",
        "i: theirs: of a stranger's pass, too",
    ]


def test_refusals_in_json_have_pass_site_code_and_reason(model_file: pathlib.Path) -> None:
    make = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--preprocess", "unit", "--json"]
    report = json.loads(dfmpc(*make, "--recipe", "per-channel", "--layer", "conv3=float").stdout)
    assert {
        "site": "conv1",
        "reason": "it is the first layer: nothing in front of it is normalized",
        "code": "first-layer",
        "pass": "pair_convolutions",
    } in report["refusals"]
    assert all(
        refusal["pass"] in catalog.passes() and refusal["code"] in REFUSAL_CODES for refusal in report["refusals"]
    )
    codes = {layer["name"]: (layer["refused"], layer["refused_code"]) for layer in report["layers"]}
    assert codes["conv3"] == ("as asked with --layer", "asked-for-float") and codes["conv2"] == (None, None)
    layers = json.loads(dfmpc("inspect", model_file, "--json").stdout)["layers"]
    assert [layer["not_low_code"] for layer in layers] == ["first-layer", None, "no-chain", "not-a-conv"]
    assert all(layer["refused_code"] is None for layer in layers)


def test_layers_that_are_quantized_are_not_told_as_refused(model_file: pathlib.Path) -> None:
    """Those that stay in float are told apart from those that are quantized but cannot get few bits."""
    make = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--preprocess", "unit"]
    told = dfmpc(*make, "--recipe", "per-channel", "--layer", "conv3=float").stdout
    assert "refus" not in told
    float_ones, remarks = told.split("\n\n")[2:4]
    assert float_ones == "1 of 4 layers left in float:\n  conv3: as asked with --layer"
    assert remarks.endswith("more remarks, which are no errors: -v lists them")
    not_low = dfmpc(*make, "--recipe", "per-channel", "--layer", "conv3=float", "-v").stdout.split("\n\n")[3]
    assert not_low.startswith("2 layers quantized, but not to few bits:\n  conv1: ") and "\n  gemm1: " in not_low
    assert "not to few bits" not in dfmpc(*make, "--recipe", "int8").stdout


def test_layers_that_compute_in_float_are_counted_with_the_reason(model_file: pathlib.Path) -> None:
    """A summary of "8-bit" layers alone hides that integers would make most of them slower."""
    net = Net(shape=(1, 3, 160, 160))
    x = net.relu(net.conv("x", 8))
    for _ in range(2):
        x = net.relu(net.conv(net.conv(x, 8, 1), 8, group=8))
    onnx.save(net.model(net.tail(x)), model_file)
    make = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--preprocess", "unit", "--recipe", "int8"]
    report = json.loads(dfmpc(*make, "--json").stdout)
    integers = sum(layer["integer"] for layer in report["layers"])
    slower = [r["site"] for r in report["refusals"] if r["code"] == "slower-in-integers"]
    assert len(slower) >= 5
    told = dfmpc(*make).stdout
    assert f"integers: {integers}, float: {len(report['layers']) - integers} (" in told
    assert "integers would be slower" in told
    whole = dfmpc(*make, "-v").stdout
    assert "one width for all layers; float: integers would be slower" in whole
    assert f"{len(slower)} layers with integer weights that compute in float:" in whole
    remarks = whole.partition("remarks on layers that are quantized")[2]
    assert "slower" not in remarks


def test_columns_that_would_say_nothing_are_left_out(model_file: pathlib.Path) -> None:
    """What is stored where that is what the bits say, losses that nothing measured, one and the same arithmetic."""
    make = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--preprocess", "unit"]
    packed = dfmpc(*make, "--recipe", "per-channel").stdout
    assert packed.split("\n")[0].split() == ["layer", "op", "bits", "stored"]
    assert "packing them would cost more than it saves" in " ".join(packed.split())
    plain = dfmpc(*make, "--recipe", "int8").stdout
    assert plain.split("\n")[0].split() == ["layer", "op", "bits"] and "stored:" not in plain
    mixed = dfmpc(*make, "--layer", "conv2=float").stdout
    assert mixed.split("\n")[0].endswith("loss %  computes in") and "loss %: " in mixed


def test_how_many_layers_have_how_many_bits_is_one_phrase() -> None:
    assert layers_by_bits(["8", "4", "float", "ternary", "4", "2.67"]) == (
        "1 ternary, 1 at 2.67 bits, 2 at 4, 1 at 8, 1 in float"
    )
    assert [span_of(bits) for bits in ("ternary", "2.67", "4", "8", "auto", "float")] == [
        *("1-3", "1-3", "4-7", "8", "auto", "float"),
    ]


def test_what_stands_behind_a_name_is_never_cut() -> None:
    """Groups that begin in layers of like names can be told apart."""
    console = Console(width=40, file=io.StringIO())
    names = ["/features/features.3/conv1/Conv", "/features/features.7/conv1/Conv", "/fc/Gemm"]
    rows_of_one_line(
        console, ("layer", "bits"), [(name, 8) for name in names], right=("bits",), more=[" + 7 more", " + 1 more", ""]
    )
    first, second, _ = [line.split(" + ") for line in console.file.getvalue().splitlines()[1:]]
    assert first[0] != second[0] and first[1].startswith("7 more ") and second[1].startswith("1 more ")


def test_where_nothing_is_quantized_to_integers_the_row_is_short(model_file: pathlib.Path) -> None:
    make = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--preprocess", "unit", "--recipe", "int8"]
    told = dfmpc(*make, "--activations", "none").stdout
    assert "integers: 0, float: 4 (activations are not quantized)\n" in told


def test_inspect_says_what_its_figures_count_and_what_roles_are_for(model_file: pathlib.Path) -> None:
    told = " ".join(program("inspect", model_file, "-v", COLUMNS="200").stdout.split())
    assert "mixed* " in told and "* the default;" in told
    assert "codes: bytes of the weights alone" in told
    assert "The default recipe measures each layer instead" in told
    assert "not few bits: only the error of a Conv can be repaired in the next layer" in told


def test_agreement_is_told_in_numbers_where_images_are_given(
    model_file: pathlib.Path, quantized: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    found = json.loads(dfmpc("verify", model_file, quantized, "--json").stdout)["providers"][0]["fidelity"]
    assert found["rows"] == found["images"] == 64
    assert found["agreement"] == 10_000 * found["agreeing"] // 64 / 100
    assert " of 64" not in dfmpc("verify", model_file, quantized).stdout
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8))
    given = ("verify", model_file, quantized, "--images", tmp_path / "x.npz")
    (counted,) = json.loads(dfmpc(*given, "--json").stdout)["providers"]
    assert f" {counted['fidelity']['agreeing']} of 64 " in dfmpc(*given).stdout
    made = dfmpc("quantize", model_file, "-o", quantized, "--recipe", "per-channel", "--preprocess", "unit").stdout
    assert " dB on 64 generated images of 8x8 (16, each flipped 3 ways)" in made and "of 64" not in made


def test_of_an_output_that_is_no_vector_of_scores_no_agreement_is_counted(model_file: pathlib.Path) -> None:
    """One that does not run along the batch was one row, of which the largest value of all was compared."""
    net = Net(("n", 3, 8, 8))
    net.node("Reshape", net.conv("x", 5), net.weight("shape", np.array([5, -1])))
    onnx.save(net.model("reshape1"), model_file)
    made = dfmpc(
        "quantize",
        model_file,
        "-o",
        model_file.with_name("out.onnx"),
        "--recipe",
        "per-channel",
        "--preprocess",
        "unit",
    )
    assert made.exit_code == 0, made.stderr
    assert " rows" not in made.stdout and "the outputs are no class scores" in " ".join(made.stdout.split())


def test_the_channels_that_a_figure_is_of_are_shown() -> None:
    groups = (
        GroupFidelity(1, ((0, 3),), 300.0, 30.0),
        GroupFidelity(1, tuple((n, n) for n in range(4, 80, 2)), 0.1, 12.5),
    )
    output = OutputFidelity("boxes", 12.5, "", groups)
    found = Fidelity(1, "made up", 100.0, 12.5, 1.0, agreeing=1, rows=1, outputs=(output,))
    assert fidelity_line(found).startswith(
        "SQNR 12.5 dB (of channels 4 6 8 10 and more of axis 1, which are of another scale than the rest)"
    )
    assert by_output(found) == (
        "SQNR by output: 'boxes' 12.50 dB (channels 0..3 of axis 1 30.00, channels 4 6 8 10 and more of axis 1 12.50)"
    )
    beside = msgspec.structs.replace(found, outputs=(output, OutputFidelity("other", 40.0)))
    assert "('boxes', the worst of 2 outputs, of channels 4 6 8 10 and more" in fidelity_line(beside)


def test_passes_come_in_the_order_of_the_default_recipe_and_then_those_of_others() -> None:
    said = dfmpc("passes").stdout
    usual, others = said.split("Other recipes, targets and options run these too:")
    order = [usual.index(f"\n{name}\n") for name in ("normalize", "pair_convolutions", "insert_qdq", "pack_weights")]
    assert order == sorted(order)
    assert re.search(r"\ncompensate +paper, per-channel\n", others)
