"""Tables for people and JSON for programs, from the same data. Names from a model are data, never markup."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfmpc_onnx.auto_preprocess import PreprocessChoice
from dfmpc_onnx.census import Census
from dfmpc_onnx.errors import printable
from dfmpc_onnx.fidelity import Fidelity
from dfmpc_onnx.manager import Pass
from dfmpc_onnx.recipe import Recipe
from dfmpc_onnx.report import Expansion, Inspection, LayerReport, Report, Verification


def as_json(data: msgspec.Struct, **extra: object) -> str:
    """One JSON object with the fields of the data and what is added.

    Names stand in it as they are, but all beyond ASCII is escaped: it would steer a terminal, hide from the eye, or
    have no place in the encoding of standard output.
    """
    fields: dict[str, Any] = msgspec.to_builtins(data)
    text = msgspec.json.format(msgspec.json.encode({**fields, **extra}), indent=2).decode()
    return _UNUSUAL.sub(lambda found: "".join(_escaped(c) for c in found[0]), text)


# What JSON lets stand as it is: line breaks appear between fields only, where they are meant.
_UNUSUAL = re.compile(r"[^\n -~]+")


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def report_json(report: Report) -> str:
    counts = {role: report.count(role) for role in ("low", "high", "8-bit", "float")}
    return as_json(report, counts=counts)


def _table(*columns: str, right: tuple[str, ...] = (), fold: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        justify: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=justify, overflow="fold" if column in fold else "ellipsis")
    return table


def _size(count: int) -> str:
    return f"{count / 1e6:.3f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _plain(*values: object) -> list[Text]:
    return [Text(printable(str(value))) for value in values]


def _preprocess(choice: PreprocessChoice) -> str:
    return choice.name if choice.by == "given" else f"{choice.name} ({choice.reason})"


def report_table(report: Report, output: str, console: Console) -> None:
    """What was done to each layer, what was refused, and the figures of the whole."""
    table = _table(
        "layer", "op", "bits", "stored", "role", "computes in", "why", right=("bits", "stored"), fold=("layer", "why")
    )
    for layer in report.layers:
        table.add_row(
            *_plain(
                layer.name,
                layer.op,
                _bits(layer),
                f"{layer.stored_bits:g}",
                layer.role,
                _compute(layer, report),
                layer.why,
            )
        )
    console.print(table)
    # Which layers cannot be low matters only where low layers were asked for.
    refused = [r for r in report.refusals if "/" in report.weights or not r.reason.startswith("pair_convolutions")]
    if refused:
        console.print(Text(f"\n{len(refused)} refusals (reasons in full with --json):"))
        reasons: dict[str, list[str]] = {}
        for refusal in refused:
            reasons.setdefault(refusal.reason, []).append(refusal.site)
        for reason, sites in list(reasons.items())[:12]:
            more = f" and {len(sites) - 1} more" if len(sites) > 1 else ""
            console.print(Text(printable(f"  {sites[0]}{more}: {reason}")))
        if len(reasons) > 12:
            console.print(Text(f"  ... and {len(reasons) - 12} reasons more"))
    counts = ", ".join(
        f"{report.count(role)} {role}" for role in ("low", "high", "8-bit", "float") if report.count(role)
    )
    rows = [
        ("recipe", f"{report.recipe}, weights {report.weights}, activations {report.activations}, for {report.target}"),
        ("preprocess", _preprocess(report.preprocess_choice)),
        ("layers", counts),
        (
            "size",
            f"{_size(report.float_bytes)} -> {_size(report.bytes)} ({report.float_bytes / report.bytes:.2f}x smaller)",
        ),
        ("mean bits per weight", f"{report.mean_weight_bits} stored"),
        ("needs", f"onnxruntime {report.oldest_onnxruntime} or newer (opset {report.opset})"),
    ]
    if report.fidelity is not None:
        rows.append(("against the float model", _fidelity(report.fidelity)))
    rows.append(("seconds", f"{report.seconds}"))
    if report.peak_bytes is not None:
        rows.append(("memory", f"{_size(report.peak_bytes)} at most"))
    rows.append(("written", output))
    console.print()
    console.print(_pairs(rows))


def _pairs(rows: list[tuple[str, str]]) -> Table:
    """Keys and values, one a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in rows:
        table.add_row(*_plain(key, value))
    return table


def _bits(layer: LayerReport) -> str:
    return "float" if layer.bits == 32 else "ternary" if layer.ternary else str(layer.bits)


def _compute(layer: LayerReport, report: Report) -> str:
    return "integers" if layer.integer else "float"


def _fidelity(found: Fidelity) -> str:
    text = f"agreement {found.agreement} %, SQNR {found.sqnr_db} dB on {found.origin}"
    if found.top1 is not None:
        text += f"; top-1 {found.top1} % (float {found.float_top1} %, drop {found.drop})"
    return text


def inspection_table(found: Inspection, console: Console) -> None:
    """Layers with role or refusal, then what each recipe would do."""
    console.print(
        *_plain(
            f"{found.model}: {_size(found.bytes)}, opset {found.opset}, IR {found.ir_version}, "
            f"{found.producer or 'producer not stated'}"
        )
    )
    console.print(*_plain(f"inputs {'; '.join(found.inputs)}"))
    console.print(*_plain(f"outputs {'; '.join(found.outputs)}"), end="\n\n")
    for key, value in found.metadata.items():
        console.print(Text(printable(f"  {key}: {value}")))
    table = _table("layer", "op", "weight", "role", "remark", fold=("layer", "remark"))
    for layer in found.layers:
        others = len(layer.also_repaired_in)
        repaired = f"repaired in {layer.repaired_in}" + (f" and {others} more" if others else "")
        remark = layer.refused or layer.not_low or (repaired if layer.repaired_in else "")
        table.add_row(*_plain(layer.name, layer.op, "x".join(map(str, layer.shape)), layer.role, remark))
    console.print(table)
    for note in found.notes:
        console.print(*_plain(f"note: {note}"))
    forecast = _table(
        "recipe",
        "weights",
        "activations",
        "low",
        "high",
        "8-bit",
        "auto",
        "float",
        "weights' size",
        right=("low", "high", "8-bit", "auto", "float", "weights' size"),
    )
    for row in found.recipes:
        forecast.add_row(
            *_plain(
                row.recipe,
                row.weights,
                row.activations,
                row.low,
                row.high,
                row.eight_bit,
                row.auto,
                row.float,
                f"{'at most ' if row.auto else ''}{_size(row.weight_bytes)}",
            )
        )
    console.print()
    if found.census is None:
        console.print(forecast)
    else:
        console.print(_pairs(list(_census_rows(found.census))))


def _census_rows(census: Census) -> Iterator[tuple[str, str]]:
    """A quantized network as onnxruntime runs it, in words."""
    yield "as onnxruntime's CPU provider runs it", ""
    yield "layers in the file", _counts(census.layers)
    yield "integer kernels", _counts(census.integer)
    if census.other:
        yield "between them", _counts(census.other)
    for why, names in census.float_layers.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        yield "float layers", f"{len(names)}: {why} ({names[0]}{more})"
    for title, counts in (("QuantizeLinear left", census.quantize), ("DequantizeLinear left", census.dequantize)):
        yield title, "; ".join(f"{n}: {why}" for why, n in counts.items()) or "none"
    yield "weights dequantized at every inference", str(census.dequantized_weights or "none")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {op}" for op, n in counts.items()) or "none"


def expansion_table(report: Expansion, output: str, console: Console) -> None:
    """What became of a packed file."""
    rows = [
        ("weights unpacked", f"{len(report.layers)} layers, to INT8 with DequantizeLinear"),
        ("size", f"{_size(report.packed_bytes)} -> {_size(report.bytes)}"),
        ("needs", f"onnxruntime {report.oldest_onnxruntime} or newer (opset {report.opset}, IR {report.ir_version})"),
        ("written", output),
    ]
    console.print(_pairs(rows))


def verification_table(found: Verification, console: Console) -> None:
    """One row a provider."""
    table = _table("provider", "images", "agreement %", "SQNR dB", "largest error", "top-1 %", "float top-1 %", "drop")
    for row in found.providers:
        f = row.fidelity
        scores = ["-" if v is None else f"{v:.2f}" for v in (f.top1, f.float_top1, f.drop)]
        table.add_row(
            *_plain(row.provider, f.images, f"{f.agreement:.2f}", f"{f.sqnr_db:.2f}", f"{f.max_error:.4g}", *scores)
        )
    console.print(table)
    for row in found.providers:
        if row.use is not None:
            counts = row.use.nodes.items()
            ran = ", ".join(f"{n} nodes on {name.removesuffix('ExecutionProvider')}" for name, n in counts)
            apart = f"at most {row.use.steps:g} steps from the CPU provider, {row.use.mean_steps:g} on average"
            console.print(Text(printable(f"{row.provider}: {ran}; {apart}")))
    origin = found.providers[0].fidelity.origin
    console.print(
        *_plain(f"on {origin}, preprocess {found.preprocess}; {_size(found.float_bytes)} -> {_size(found.bytes)}")
    )


def passes_table(kinds: list[type[Pass[Any]]], console: Console) -> None:
    """Every pass with its first line before and after."""
    table = _table("pass", "before", "after", fold=("before", "after"))
    for kind in kinds:
        page = headings(kind)
        table.add_row(*_plain(kind.name, page.get("Before", ""), page.get("After", "")))
    console.print(table)


def headings(kind: type[Pass[Any]]) -> dict[str, str]:
    """The headings of a pass's docstring with their text, in order."""
    found: dict[str, str] = {}
    current = None
    for line in (inspect.getdoc(kind) or "").splitlines():
        head, sign, rest = line.partition(":")
        if sign and head in HEADINGS:
            current, line = head, rest
        if current:
            found[current] = f"{found.get(current, '')} {line.strip()}".strip()
    return found


HEADINGS = ("Before", "After", "Why", "Requires", "Refuses when", "Reference")


def pass_page(kind: type[Pass[Any]], console: Console) -> None:
    """What one pass does, with the options that a recipe may set."""
    console.print(Text(kind.name, style="bold"))
    for heading, text in headings(kind).items():
        console.print(Text(f"{heading}: {text}"))
    fields = msgspec.structs.fields(kind.Options)
    if fields:
        console.print(Text("\nOptions in a recipe:", style="bold"))
        for field in fields:
            console.print(Text(f"  {field.name} = {msgspec.json.encode(field.default).decode()}"))
        console.print(Text(inspect.getdoc(kind.Options) or ""))


def recipes_table(recipes: list[Recipe], console: Console) -> None:
    table = _table("recipe", "weights", "activations", "summary", fold=("summary",))
    for recipe in recipes:
        table.add_row(*_plain(recipe.name, recipe.weights, recipe.activations, recipe.summary))
    console.print(table)
