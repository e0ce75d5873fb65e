"""What `inspect` prints: what each recipe would do to a float model, or how a quantized one is stored and runs."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from dfmpc_onnx.evaluation.kernel_census import Census
from dfmpc_onnx.numerics.saturation import MOST_PAIR
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE
from dfmpc_onnx.pipeline.refusals import UNSTATED, Refusal
from dfmpc_onnx.report.latency_text import time_tables
from dfmpc_onnx.report.schema import Inspection, QuantizedLayer, RecipeForecast
from dfmpc_onnx.report.tables import figures, listing, megabytes, plain, prose, rows_of_one_line
from dfmpc_onnx.report.text import MOST_REASONS, refusal_list
from dfmpc_onnx.report.width_words import ROLE_WORDS, ROLES_LEGEND, SPANS, span_of

CODES_LEGEND = (
    "* the default; 1-3, 4-7, 8, auto, float: how many layers get so many bits; codes: bytes of the weights alone, to "
    "which scales, biases and the graph add 1.5 to 3 kB a layer"
)
STORED_LEGEND = "(bits of the weights' codes; scales, biases and the graph come on top)"
AUTO_LEGEND = "auto: the recipe chooses the bits of each layer by its measured error, while it runs"


def inspection_table(found: Inspection, console: Console, *, verbose: bool = False) -> None:
    """Of a float model what each recipe would do, and its layers; of a quantized one its layers, and the census.

    verbose: what repairs a layer, or why nothing does.
    """
    console.print(
        *plain(
            f"{found.model}: {megabytes(found.bytes)}, opset {found.opset}, IR {found.ir_version}, "
            f"{found.producer or 'producer not stated'}"
        )
    )
    figures(console, [("inputs", "; ".join(found.inputs)), ("outputs", "; ".join(found.outputs))])
    console.print()
    if found.quantized_layers:
        _quantized_table(found, console)
    elif found.layers:
        _forecasts(found, console)
        _layers(found, console, verbose)
    for note in found.notes:
        prose(console, f"note: {note}")
    if found.census is not None:
        console.print()
        figures(console, list(_census_rows(found.census)))
    if found.latency is not None:
        console.print()
        time_tables(found.latency, console)


def _quantized_table(found: Inspection, console: Console) -> None:
    """How a quantized file was made, and its layers."""
    made = list(_origin_rows(found.metadata))
    if made:
        figures(console, made)
        console.print(Text("(--json has the seed, the versions and the sha256 of the float model, too)\n"))
    layers = found.quantized_layers
    weights = sum(layer.weights for layer in layers)
    counts = f"{len(layers)} layers, {weights:,} weights of {found.mean_weight_bits or 0:.2f} bits each in the file"
    if found.census is not None:
        counts += f"; {sum(layer.integer is True for layer in layers)} layers compute in integers"
    prose(console, counts)
    prose(console, STORED_LEGEND)
    console.print()
    alike = len({layer.integer for layer in layers}) == 1  # the line above says it
    cut = sum((layer.pair_sum or 0) > MOST_PAIR for layer in layers)
    rows = [
        (
            layer.name,
            layer.op,
            "x".join(map(str, layer.shape)),
            _stored_text(layer),
            *([] if alike else [_computes(layer)]),
            *([_pair_text(layer)] if cut else []),
        )
        for layer in layers
    ]
    columns = ("layer", "op", "weight", "stored bits", *([] if alike else ["computes in"]), *(["pair"] if cut else []))
    rows_of_one_line(console, columns, rows, right=("stored bits", "pair"))
    if any(layer.pair_sum is not None for layer in layers):
        console.print()
        prose(console, _old_processors(cut, found.metadata.get("pair_sums", "0")))
    left = sum(layer.refused is None for layer in found.layers)
    if left:
        console.print(Text(f"\n{left} layers are float and can be quantized; what is quantized would stay as it is"))


def _origin_rows(metadata: dict[str, str]) -> Iterator[tuple[str, str]]:
    """What `quantize` wrote into the file, in words, but for what only serves to make it again."""
    stated = ", ".join(
        f"{word}{metadata[key]}"
        for word, key in (
            ("recipe ", "recipe"),
            ("weights ", "weights"),
            ("activations ", "activations"),
            ("for ", "target"),
        )
        if key in metadata
    )
    if "version" in metadata:
        yield "made by", f"dfmpc-onnx {metadata['version']}{': ' if stated else ''}{stated}"
    if metadata.get("layers", "[]") != "[]":
        yield "with --layer", metadata["layers"]
    if metadata.get("reduce_range") == "yes":
        yield "reduced range", "7 bits in place of 8"
    if "preprocess" in metadata:
        by, _, reason = metadata.get("preprocess_choice", "").partition(": ")
        yield "preprocess", metadata["preprocess"] + (f" ({reason})" if reason and by != "given" else "")
    if "images_sha256" in metadata:
        yield "statistics", metadata.get("statistics", "the user's images")
    if "max_seconds" in metadata:
        cut = f"; cut short: {metadata['cut_short']}" if "cut_short" in metadata else ""
        yield "time limit", f"{metadata['max_seconds']} s{cut}"
    if metadata.get("expanded") == "yes":
        yield "expanded", "yes: plain int8 weights"


def _old_processors(cut: int, changed: str) -> str:
    """Whether processors without VNNI compute what others do.

    cut: how many layers have sums that those cut. changed: how many have other codes so that none is cut.
    """
    older = "older Intel and AMD processors (AVX2 without VNNI)"
    if cut:
        return (
            f"{older} compute {cut} of these layers wrong: they cut sums of two products where codes reach over "
            f"{MOST_PAIR} together (column pair); a file that quantize makes for cpu or portable has none"
        )
    are = "layer is" if changed == "1" else "layers are"
    return f"{older} give the same results{'' if changed == '0' else f': {changed} {are} rounded so that they do'}"


def _pair_text(layer: QuantizedLayer) -> str:
    return "" if layer.pair_sum is None else str(layer.pair_sum)


def _stored_text(layer: QuantizedLayer) -> str:
    return f"{layer.stored_bits:g}" if layer.coded else "float"


def _computes(layer: QuantizedLayer) -> str:
    return "not known" if layer.integer is None else "integers" if layer.integer else "float"


def _layers(found: Inspection, console: Console, verbose: bool) -> None:
    """Every layer with its place where there are two widths, or why it stays in float."""
    rows = []
    for layer in found.layers:
        others = len(layer.also_repaired_in)
        repaired = f"repaired in {layer.repaired_in}" + (f" and {others} more" if others else "")
        not_low = f"not few bits: {layer.not_low}" if layer.not_low else ""
        remark = layer.refused or not_low or (repaired if layer.repaired_in else "")
        rows.append(
            (layer.name, layer.op, "x".join(map(str, layer.shape)), ROLE_WORDS.get(layer.role, layer.role), remark)
        )
    columns = ("layer", "op", "weight", "role")
    if verbose:
        listing(console, (*columns, "remark"), rows)
    else:
        rows_of_one_line(console, columns, [row[:-1] for row in rows])
        in_float = [Refusal(x.name, x.refused, x.refused_code or UNSTATED) for x in found.layers if x.refused]
        refusal_list("layers that stay in float", in_float, MOST_REASONS, console)
    if found.recipes:
        said = "" if verbose else "; -v says which layer makes up for its error, or why none does"
        console.print()
        prose(console, f"{ROLES_LEGEND}{said}")


def _forecasts(found: Inspection, console: Console) -> None:
    """What each recipe would do: layers by bits, and bytes, then the bits of layers that all recipes treat alike."""
    weights = sum(layer.weights for layer in found.layers)
    left = sum(layer.refused is not None for layer in found.layers)
    can = f"{left} stay in float whatever the recipe" if left else "all can be quantized"
    console.print(Text(f"{len(found.layers)} layers, {weights:,} weights; {can}\n"))
    if not found.recipes:
        return
    counts = (*SPANS, "codes")
    forecasts = [_forecast_row(row) for row in found.recipes]
    rows_of_one_line(console, ("recipe", "weights", "activations", *counts), forecasts, right=counts)
    console.print()
    prose(console, CODES_LEGEND)
    if any(row.auto for row in found.recipes):
        prose(console, AUTO_LEGEND)
    alike: dict[tuple[str, ...], list[str]] = {}
    for layer in found.layers:
        if all(layer.name in row.bits for row in found.recipes):
            alike.setdefault(tuple(row.bits[layer.name] for row in found.recipes), []).append(layer.name)
    names = [row.recipe for row in found.recipes]
    rows = [(layers[0], *widths) for widths, layers in alike.items()]
    more = [f" + {len(layers) - 1} more" if len(layers) > 1 else "" for layers in alike.values()]
    console.print(Text("\nbits by recipe; layers that every recipe treats alike share a line:\n"))
    rows_of_one_line(console, ("layers", *names), rows, right=names, more=more)
    console.print()


def _forecast_row(row: RecipeForecast) -> tuple[object, ...]:
    """What a recipe is set to, how many layers get how many bits, and the bytes of the weights' codes."""
    counts = collections.Counter(map(span_of, row.bits.values()))
    return (
        row.recipe + ("*" if row.recipe == DEFAULT_RECIPE else ""),
        row.weights,
        row.activations,
        *(counts[span] for span in SPANS),
        f"{'<= ' if row.auto else ''}{megabytes(row.weight_bytes)}",
    )


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
    for title, counts in (
        ("QuantizeLinear not fused", census.quantize),
        ("DequantizeLinear not fused", census.dequantize),
    ):
        yield title, "; ".join(f"{n}: {why}" for why, n in counts.items()) or "none"
    yield "weights dequantized at every inference", str(census.dequantized_weights or "none")


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {op}" for op, n in counts.items()) or "none"
