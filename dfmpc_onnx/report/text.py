"""Reports as tables for people. Names from a model are data, never markup."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from dfmpc_onnx.errors import printable, shown
from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.evaluation.output_differences import GroupFidelity, OutputFidelity
from dfmpc_onnx.evaluation.verdict import Verdict
from dfmpc_onnx.inputs.normalization import PreprocessChoice
from dfmpc_onnx.pipeline.refusals import NOT_LOW, UNSTATED, Refusal
from dfmpc_onnx.pipeline.targets import targets
from dfmpc_onnx.pipeline.weight_plan import FLOAT_BITS
from dfmpc_onnx.report.computes_text import WHY_FLOAT, computes_in, why_float
from dfmpc_onnx.report.latency_text import latency_rows
from dfmpc_onnx.report.layer_error_text import layer_error_table
from dfmpc_onnx.report.layer_groups import bits_text, grouped_layers
from dfmpc_onnx.report.schema import Expansion, Report, Verification
from dfmpc_onnx.report.tables import GAP, figures, listing, megabytes, plain, prose, rows_of_one_line, table
from dfmpc_onnx.report.verdict_text import print_verdict
from dfmpc_onnx.report.width_words import layers_by_bits

MOST_OUTPUTS = 8  # that the terminal lists
MOST_CHANNEL_RUNS = 4  # of channels, likewise


STORED_BITS_LEGEND = (
    "stored: bits that a weight takes in the file, more than its bits where packing them would cost more than it saves"
)
LAYER_LOSS_LEGEND = "loss %: what the layer's bits add to the output's error, as a share of the output's power"
UNKNOWN_LEGEND = "- where it was not measured"

PHOTOS_TIP = "if the network takes photos, try --preprocess raw:bgr, --preprocess imagenet or --preprocess unit"


def _preprocess(choice: PreprocessChoice, verbose: bool) -> str:
    if choice.by == "no image":
        return choice.reason
    if choice.by == "given":
        return choice.name
    if verbose or choice.by == "assumed":
        return f"{choice.name} ({choice.reason})"
    colours = f", {choice.order} assumed" if choice.order is not None and not choice.order_asserted else ""
    return f"{choice.name} (detected{colours}; -v says how)"


def report_table(report: Report, output: str, console: Console, *, verbose: bool = False, below: bool = False) -> None:
    """What was done to the layers, what was refused, and the figures of the whole.

    verbose: every layer by itself, with what decided its bits, and all refusals with their reasons. below: whether
    a threshold of the user's is not met.
    """
    _layer_table(report, console, verbose)
    if report.layer_errors is not None:
        layer_error_table(report.layer_errors, console, every=verbose)
    for title, refusals, most in _refusals(report):
        if verbose or title.endswith(LEFT_IN_FLOAT):
            refusal_list(title, refusals, most if verbose else MOST_REASONS_IN_SHORT, console)
    in_the_rows = (LEFT_IN_FLOAT, COMPUTES_FLOAT)
    hidden = sum(len(refusals) for title, refusals, _ in _refusals(report) if not title.endswith(in_the_rows))
    if hidden and not verbose:
        remarks = "1 more remark, which is no error" if hidden == 1 else f"{hidden} more remarks, which are no errors"
        console.print(Text(f"\n{remarks}: -v lists {'it' if hidden == 1 else 'them'}"))
    rows = [
        ("recipe", f"{report.recipe}, weights {report.weights}, activations {report.activations}, for {report.target}"),
        ("preprocess", _preprocess(report.preprocess_choice, verbose)),
        ("layers", _layers_counted(report)),
        *([("computes in", computes_in(report))] if report.layers else []),
        *([("activations", _widths_counted(report))] if len(report.activation_widths) > 1 else []),
        (
            "size",
            f"{megabytes(report.float_bytes)} -> {megabytes(report.bytes)} "
            f"({_times(report.float_bytes, report.bytes)})",
        ),
        *_storage_rows(report),
    ]
    if report.images is not None:
        rows.append(("images", report.images))
    if report.fidelity is not None:
        unknown = report.fidelity.not_known
        found = f"not known: {unknown}" if unknown else fidelity_line(report.fidelity)
        rows.append(("against the float model", found))
    if report.latency is not None:
        rows += latency_rows(report.latency)
    memory = f", {report.peak_bytes / 1e6:.0f} MB of memory at most" if report.peak_bytes is not None else ""
    rows.append(("quantizing took", f"{report.seconds:.1f} s{memory}"))
    rows.append(("written", output))
    console.print()
    figures(console, rows)
    if report.verdict is not None:
        console.print()
        print_verdict(report.verdict, console, below=below)
    inputs = report.preprocess_choice.unknown
    if len(inputs) == 1 and inputs[0].preprocess_tells:
        prose(console, PHOTOS_TIP)


def _widths_counted(report: Report) -> str:
    """How many activations have how many bits."""
    return ", ".join(f"{count} of {bits} bits" for bits, count in report.activation_widths.items())


def _layers_counted(report: Report) -> str:
    """How many layers there are, and of how many bits."""
    bits = [bits_text(layer) for layer in report.layers]
    said = layers_by_bits(bits)
    return f"{len(bits)}, all {said.partition(' ')[2]}" if len(set(bits)) == 1 < len(bits) else f"{len(bits)}: {said}"


def _storage_rows(report: Report) -> list[tuple[str, str]]:
    """What a weight takes in the file, and what runs it."""
    target = targets().get(report.target)
    if target is not None and target.quantizers == "qonnx":
        return [
            ("mean bits per weight", f"{report.mean_weight_bits}, held as floats in front of Quant nodes"),
            ("needs", f"FINN, hls4ml or the package qonnx (opset {report.opset}); onnxruntime has no Quant node"),
        ]
    return [
        ("mean bits per weight", f"{report.mean_weight_bits} in the file"),
        ("needs", f"onnxruntime {report.oldest_onnxruntime} or newer (opset {report.opset})"),
    ]


def _layer_table(report: Report, console: Console, verbose: bool) -> None:
    """One line a layer, or a group of like neighbours; with `verbose` every layer, and below it what decided.

    A column that would say nothing is left out: what is stored where that is the bits, losses where none was measured,
    what a layer computes in where all compute in the same.
    """
    groups = grouped_layers(report.layers, each=verbose)
    kept = {
        "layer": [g.names[0] for g in groups],
        "op": [g.op for g in groups],
        "bits": [g.bits for g in groups],
        **({"stored": [g.stored for g in groups]} if _stores_other_bits(report) else {}),
        **({"loss %": [g.loss for g in groups]} if _has_losses(report) else {}),
        **({"computes in": [g.computes for g in groups]} if len({g.computes for g in groups}) > 1 else {}),
    }
    columns, rows = tuple(kept), list(zip(*kept.values(), strict=True))
    right = ("bits", "stored", "loss %")
    if verbose:
        in_float = why_float(report)
        whys = [f"{g.why}; float: {in_float[g.name]}" if g.name in in_float else g.why for g in groups]
        listing(console, (*columns, "why"), [(*row, why) for row, why in zip(rows, whys, strict=True)], right)
    else:
        rows_of_one_line(console, columns, rows, right, more=[g.more for g in groups])
    legend = layer_legend(report) + ([] if verbose or len(groups) == len(report.layers) else ["-v has every layer"])
    if legend:
        console.print()
        prose(console, "; ".join(legend))


def layer_legend(report: Report) -> list[str]:
    """What the columns say, as far as they say something that needs words."""
    unknown = any(layer.loss is None for layer in report.layers)
    losses = LAYER_LOSS_LEGEND + (f" ({UNKNOWN_LEGEND})" if unknown else "")
    return [
        *([STORED_BITS_LEGEND] if _stores_other_bits(report) else []),
        *([losses] if _has_losses(report) else []),
    ]


def _stores_other_bits(report: Report) -> bool:
    """Whether the bits in the file are others than those of the codes, as of ternary ones."""
    return any(layer.bits != FLOAT_BITS and bits_text(layer) != f"{layer.stored_bits:g}" for layer in report.layers)


def _has_losses(report: Report) -> bool:
    return any(layer.loss is not None for layer in report.layers)


LEFT_IN_FLOAT = "layers left in float"
COMPUTES_FLOAT = "layers with integer weights that compute in float"
MOST_REASONS_IN_SHORT = 3
MOST_REASONS = 12  # reasons that a heading is followed by


def _refusals(report: Report) -> Iterable[tuple[str, list[Refusal], int]]:
    """What passes left alone, by what that means for the user: title, refusals, and how many reasons to tell.

    Most of it refuses no layer: one that cannot get few bits is quantized all the same.
    """
    kept = {layer.name for layer in report.layers if layer.refused is not None}
    coded = {layer.name for layer in report.layers} - kept
    in_float = [
        Refusal(layer.name, layer.refused, layer.refused_code or UNSTATED)
        for layer in report.layers
        if layer.refused is not None
    ]
    yield f"of {len(report.layers)} {LEFT_IN_FLOAT}", in_float, MOST_REASONS
    others = [r for r in report.refusals if r.site not in kept]
    not_low = [r for r in others if r.site in coded and r.code in NOT_LOW]
    # Which layers cannot get few bits matters only where two widths were asked for.
    if "/" in report.weights:
        yield "layers quantized, but not to few bits", not_low, MOST_REASONS
    computing = [r for r in others if r.site in coded and r.code in WHY_FLOAT]
    yield COMPUTES_FLOAT, computing, MOST_REASONS
    rest = [r for r in others if r not in not_low and r not in computing]
    yield "remarks on layers that are quantized", [r for r in rest if r.site in coded], MOST_REASONS
    elsewhere = [r for r in rest if r.site not in coded]
    # Moments of what computes shapes are missed by nobody.
    elsewhere.sort(key=lambda refusal: refusal.code == "moments-unknown")
    yield "left as they were elsewhere; the layers are quantized all the same", elsewhere, 3


def refusal_list(title: str, refusals: list[Refusal], most: int, console: Console) -> None:
    """Reasons of one code and pass are one: the first stands for all."""
    reasons: dict[tuple[str, str, str], list[Refusal]] = {}
    for refusal in refusals:
        said = refusal.reason if refusal.code == UNSTATED else ""
        reasons.setdefault((refusal.by, refusal.code, said), []).append(refusal)
    if not reasons:
        return
    console.print(Text(f"\n{len(refusals)} {title}:"))
    for alike in list(reasons.values())[:most]:
        more = f" and {len(alike) - 1} more alike" if len(alike) > 1 else ""
        by = f"{alike[0].by}: " if alike[0].by else ""
        prose(console, f"{alike[0].site}{more}: {by}{alike[0].reason}", GAP)
    if len(reasons) > most:
        console.print(Text(f"  ... and {len(reasons) - most} reasons more, which --json lists"))


def fidelity_line(found: Fidelity) -> str:
    compared = sum(output.sqnr_db is not None for output in found.outputs)
    worst = found.judged_by
    of = ""
    if found.worst is not None:
        of = f" ('{shown(found.worst.name)}', the worst of {compared} outputs{_of_group(worst)})"
    elif worst is not None and worst.groups:
        of = f" ({_of_group(worst).removeprefix(', ')})"
    text = f"SQNR {found.sqnr_db} dB{of} on {found.origin}"
    if found.top1 is not None:
        text += f"; top-1 {found.top1} % (float {found.float_top1} %, drop {found.drop})"
    return text


def by_output(found: Fidelity) -> str:
    """The SQNR of the outputs, the worst first; `--json` has them all."""
    each = sorted((o.sqnr_db, o.name, _groups(o)) for o in found.outputs if o.sqnr_db is not None)
    whole = [f"'{shown(o.name)}' {o.equal:g} % equal" for o in found.outputs if o.equal is not None]
    more = f", and {len(each) - MOST_OUTPUTS} more" if len(each) > MOST_OUTPUTS else ""
    listed = [f"'{shown(name)}' {value:.2f} dB{groups}" for value, name, groups in each[:MOST_OUTPUTS]]
    return "SQNR by output: " + ", ".join(listed) + more + "".join(f", {text}" for text in whole[:MOST_OUTPUTS])


def _of_group(output: OutputFidelity | None) -> str:
    """Which channels the figure of an output is of, where it has groups of unlike scale."""
    group = output.worst if output is not None else None
    return f", of channels {_channels(group)}, which are of another scale than the rest" if group is not None else ""


def _groups(output: OutputFidelity) -> str:
    """Each group of channels of an output and its SQNR."""
    if not output.groups:
        return ""
    each = (f"channels {_channels(group)} {group.sqnr_db:.2f}" for group in output.groups[:MOST_OUTPUTS])
    more = f", {len(output.groups) - MOST_OUTPUTS} groups more" if len(output.groups) > MOST_OUTPUTS else ""
    return f" ({', '.join(each)}{more})"


def _channels(group: GroupFidelity) -> str:
    """Runs of channels such as 0..3, and the axis."""
    runs = [str(first) if first == last else f"{first}..{last}" for first, last in group.channels[:MOST_CHANNEL_RUNS]]
    more = " and more" if len(group.channels) > MOST_CHANNEL_RUNS else ""
    return f"{' '.join(runs)}{more} of axis {group.axis}"


def _agreeing(found: Fidelity, verdict: Verdict | None) -> str:
    """In numbers, not per cent, of which few images make large ones; in rows where a row is no image. On generated
    inputs nothing is counted."""
    if not found.rows or (verdict is not None and verdict.basis == "generated"):
        return "-"
    return f"{found.agreeing} of {found.rows}{'' if found.rows == found.images else ' rows'}"


def expansion_table(report: Expansion, output: str, console: Console) -> None:
    """What became of a packed file."""
    rows = [
        ("weights unpacked", f"{len(report.layers)} layers, to INT8 with DequantizeLinear"),
        ("size", f"{megabytes(report.packed_bytes)} -> {megabytes(report.bytes)}"),
        ("needs", f"onnxruntime {report.oldest_onnxruntime} or newer (opset {report.opset}, IR {report.ir_version})"),
        ("written", output),
    ]
    figures(console, rows)


def _times(before: int, after: int) -> str:
    """How much smaller, or larger: of a tiny network the nodes that decode weigh more than the weights."""
    return f"{before / after:.2f}x smaller" if after <= before else f"{after / before:.2f}x larger"


def short_provider(name: str) -> str:
    """An execution provider as people name it, such as CPU."""
    return name.removesuffix("ExecutionProvider")


def verification_table(found: Verification, console: Console, *, below: bool = False) -> None:
    """One row a provider; columns that nothing was counted for are left out. below: as of `report_table`."""
    columns = ("provider", "inputs", "agreement", "SQNR dB", "largest error", "top-1 %", "float %", "drop")
    lines = []
    for row in found.providers:
        f = row.fidelity
        scores = ["-" if v is None else f"{v:.2f}" for v in (f.top1, f.float_top1, f.drop)]
        counted = _agreeing(f, row.verdict)
        lines.append(
            (short_provider(row.provider), f.images, counted, f"{f.sqnr_db:.2f}", f"{f.max_error:.4g}", *scores)
        )
    kept = [index for index in range(len(columns)) if any(line[index] != "-" for line in lines)]
    rows = table(*(columns[index] for index in kept))
    for line in lines:
        rows.add_row(*plain(*(line[index] for index in kept)))
    console.print(rows)
    for row in found.providers:
        if row.fidelity.worst is not None or any(output.groups for output in row.fidelity.outputs):
            console.print(Text(printable(f"{short_provider(row.provider)}: {by_output(row.fidelity)}")))
        if row.use is not None:
            counts = row.use.nodes.items()
            ran = ", ".join(f"{n} nodes on {short_provider(name)}" for name, n in counts)
            apart = f"at most {row.use.steps:g} steps from the CPU provider, {row.use.mean_steps:g} on average"
            left = f"; not compared: {', '.join(row.use.not_compared)}" if row.use.not_compared else ""
            console.print(Text(printable(f"{short_provider(row.provider)}: {ran}; {apart}{left}")))
    first = found.providers[0].fidelity
    origin = first.origin
    console.print(
        *plain(
            f"on {origin}, preprocess {found.preprocess}; {megabytes(found.float_bytes)} -> {megabytes(found.bytes)}"
        )
    )
    if found.layer_errors is not None:
        layer_error_table(found.layer_errors, console)
        console.print()
    if found.verdict is not None:
        print_verdict(found.verdict, console, below=below)
