"""Tables for people and JSON for programs, from the same data. Names from a model are data, never markup."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dfmpc_onnx.auto_preprocess import PreprocessChoice
from dfmpc_onnx.census import Census
from dfmpc_onnx.errors import printable
from dfmpc_onnx.fidelity import Fidelity
from dfmpc_onnx.manager import Pass, Refusal
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


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    """Cells that find no room are broken, never cut."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


_NAMES = re.compile("'[^']*'")
GAP = 2  # blanks between columns


def _listing(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()
) -> None:
    """A table whose first column holds names from a model, and whose last one remarks, both of any length.

    Where a terminal is too narrow for it, remarks stand below their rows, and names that are too long above them: so
    nothing is cut, and no name is broken that fits into a line.
    """
    cells = [[printable(str(value)) for value in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    if sum(widths) + GAP * (len(widths) - 1) <= console.width:
        table = _table(*columns, right=right)
        for row in cells:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    room = console.width - sum(widths[1:-1]) - GAP * (len(widths) - 2)
    widths[0] = min(widths[0], max(room, cell_len(columns[0])))

    def line(row: Sequence[str]) -> str:
        padded = []
        for cell, width, name in zip(row[:-1], widths, columns, strict=False):
            blanks = " " * (width - cell_len(cell))
            padded.append(blanks + cell if name in right else cell + blanks)
        return (" " * GAP).join(padded).rstrip()

    console.print(Text(line(columns), style="bold"))
    for row in cells:
        if cell_len(row[0]) > widths[0]:
            console.print(Text(row[0]))
            row[0] = ""
        console.print(Text(line(row)))
        if row[-1]:
            console.print(Padding(Text(row[-1]), (0, 0, 0, 2 * GAP), expand=False))


def _size(count: int) -> str:
    return f"{count / 1e6:.3f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"


def _plain(*values: object) -> list[Text]:
    return [Text(printable(str(value))) for value in values]


def _preprocess(choice: PreprocessChoice) -> str:
    return choice.name if choice.by == "given" else f"{choice.name} ({choice.reason})"


def report_table(report: Report, output: str, console: Console) -> None:
    """What was done to each layer, what was refused, and the figures of the whole."""
    reasons_differ = len({layer.why for layer in report.layers}) > 1
    _listing(
        console,
        ("layer", "op", "bits", "stored", "role", "computes in", "why"),
        [
            (
                layer.name,
                layer.op,
                _bits(layer),
                f"{layer.stored_bits:g}",
                layer.role,
                _compute(layer),
                layer.why if reasons_differ else "",
            )
            for layer in report.layers
        ],
        right=("bits", "stored"),
    )
    # Which layers cannot be low matters only where low layers were asked for.
    refused = [r for r in report.refusals if "/" in report.weights or not r.reason.startswith("pair_convolutions")]
    if refused:
        console.print(Text(f"\n{len(refused)} refusals (reasons in full with --json):"))
        # Reasons that differ in the names of their neighbours only are one: the first stands for all.
        reasons: dict[str, list[Refusal]] = {}
        for refusal in refused:
            reasons.setdefault(_NAMES.sub("", refusal.reason), []).append(refusal)
        for alike in list(reasons.values())[:12]:
            more = f" and {len(alike) - 1} more alike" if len(alike) > 1 else ""
            said = Text(printable(f"{alike[0].site}{more}: {alike[0].reason}"))
            console.print(Padding(said, (0, 0, 0, GAP), expand=False))
        if len(reasons) > 12:
            console.print(Text(f"  ... and {len(reasons) - 12} reasons more"))
    counts = ", ".join(
        f"{report.count(role)} {role}" for role in ("low", "high", "8-bit", "float") if report.count(role)
    )
    if report.layers and not reasons_differ:
        counts += f" ({report.layers[0].why})"
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
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows:
        table.add_row(*_plain(key, value))
    return table


def _bits(layer: LayerReport) -> str:
    return "float" if layer.bits == 32 else "ternary" if layer.ternary else str(layer.bits)


def _compute(layer: LayerReport) -> str:
    return "integers" if layer.integer else "float"


def _fidelity(found: Fidelity) -> str:
    text = f"SQNR {found.sqnr_db} dB on {found.origin}, the largest output is the same in {_agreeing(found)}"
    if found.top1 is not None:
        text += f"; top-1 {found.top1} % (float {found.float_top1} %, drop {found.drop})"
    return text


def _agreeing(found: Fidelity) -> str:
    """In numbers, not per cent, of which few images make large ones; in rows where a row is no image."""
    return f"{found.agreeing} of {found.rows}{'' if found.rows == found.images else ' rows'}"


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
    if found.metadata:
        console.print(_pairs(list(found.metadata.items())), end="\n\n")
    if found.layers:
        rows = []
        for layer in found.layers:
            others = len(layer.also_repaired_in)
            repaired = f"repaired in {layer.repaired_in}" + (f" and {others} more" if others else "")
            remark = layer.refused or layer.not_low or (repaired if layer.repaired_in else "")
            rows.append((layer.name, layer.op, "x".join(map(str, layer.shape)), layer.role, remark))
        _listing(console, ("layer", "op", "weight", "role", "remark"), rows)
    for note in found.notes:
        console.print(*_plain(f"note: {note}"))
    if found.census is not None:
        console.print()
        console.print(_pairs(list(_census_rows(found.census))))
    elif found.recipes:
        _forecasts(found, console)


def _forecasts(found: Inspection, console: Console) -> None:
    """What each recipe would do: layers by role and bytes, then the bits of layers that all recipes treat alike."""
    console.print(Text("\nroles are those where layers get two widths, as by --weights 2/6; what recipes would do:\n"))
    counts = ("low", "high", "8-bit", "auto", "float", "stored")
    forecast = _table("recipe", "weights", "activations", *counts, right=counts)
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
                f"{'<= ' if row.auto else ''}{_size(row.weight_bytes)}",
            )
        )
    console.print(forecast)
    alike: dict[tuple[str, ...], list[str]] = {}
    for layer in found.layers:
        if all(layer.name in row.bits for row in found.recipes):
            alike.setdefault(tuple(row.bits[layer.name] for row in found.recipes), []).append(layer.name)
    names = [row.recipe for row in found.recipes]
    rows = [
        (*widths, f"{layers[0]}{f' and {len(layers) - 1} more' if len(layers) > 1 else ''}")
        for widths, layers in alike.items()
    ]
    auto = "; auto: chosen by measured error as quantize runs" if any(row.auto for row in found.recipes) else ""
    console.print(Text(f"\nbits of the layers{auto}:\n"))
    _listing(console, (*names, "layers"), rows, right=names)


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
    table = _table("provider", "images", "agreement", "SQNR dB", "largest error", "top-1 %", "float %", "drop")
    for row in found.providers:
        f = row.fidelity
        scores = ["-" if v is None else f"{v:.2f}" for v in (f.top1, f.float_top1, f.drop)]
        table.add_row(
            *_plain(
                row.provider.removesuffix("ExecutionProvider"),
                f.images,
                _agreeing(f),
                f"{f.sqnr_db:.2f}",
                f"{f.max_error:.4g}",
                *scores,
            )
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
    table = _table("pass", "before", "after")
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
    table = _table("recipe", "weights", "activations", "summary")
    for recipe in recipes:
        table.add_row(*_plain(recipe.name, recipe.weights, recipe.activations, recipe.summary))
    console.print(table)
