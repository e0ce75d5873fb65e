"""The section on what to try next: what was made and measured, and what the plan of bits predicts."""

from __future__ import annotations

import glob
import shlex
from collections.abc import Sequence

from dfmpc_onnx.evaluation.diagnosis.schema import Diagnosis, has_few_bits
from dfmpc_onnx.report.html.blocks import Block, Bullets, Column, Paragraph, Rows, Section, cells
from dfmpc_onnx.report.html.names import names_of
from dfmpc_onnx.report.html.ranking import weights_matter
from dfmpc_onnx.report.html.schema import PageLayer, ReportPage
from dfmpc_onnx.report.html.words import as_sentence, joined, percent, signed_kilobytes

MOST_PREDICTED = 3  # layers that are proposed
BY_QUANTIZE = "dfmpc-onnx quantize "  # how a command begins that made the file
MORE_BITS = 8
MOST_SUGGESTED = 5  # layers that one command gives more bits
OUTPUTS = ("-o", "--output", "--report")  # options of quantize that name a file it writes
NO_IMAGES = "none of the user's"  # what a file says of its statistics (`api.provenance`)
LEAST_PREDICTED = 0.05  # of what all planned bits add, that a proposal takes away


def advice(page: ReportPage) -> Section:
    """What to try next: measured first, then predicted."""
    return Section("advice", "What to try next", [*_measured(page), *_suggested(page), *_predicted(page)])


def _measured(page: ReportPage) -> list[Block]:
    """Of what was tried."""
    found = page.diagnosis
    if found is None and page.verdict is not None and page.verdict.level == "not known":
        said = (
            "Say what the input holds; then the loss is measured, and activations are quantized as well. A network "
            "that takes photos usually wants one of --preprocess raw:bgr, raw, imagenet or unit; images of yours say "
            "it, too:"
        )
        return [Paragraph(said), Bullets([("", command) for command in commands_to_know(page)])]
    if found is None:
        return [Paragraph(as_sentence(page.untold.get("advice", "no change was tried")))]
    if found.no_advice:
        return [Paragraph(as_sentence(found.no_advice))]
    if not found.blamed:
        said = "No change was tried. This restores each layer to float in turn, and makes and measures what may help:"
        return [Paragraph(said), Bullets([("", blame_command(page))])]
    if not found.advice:
        return [Paragraph(none_helps(found))]
    rows = [
        cells(
            entry.text,
            f"{entry.before_db:.1f}",
            f"{entry.after_db:.1f}",
            f"{entry.after_db - entry.before_db:+.1f}",
            signed_kilobytes(entry.bytes),
        )
        for entry in found.advice
    ]
    columns = [
        Column("change", long=True),
        *(Column(name, right=True) for name in ("dB now", "dB then", "gain, dB", "file grows by")),
    ]
    blocks: list[Block] = [
        Paragraph("Measured: each change was made, and the file measured with it on the same inputs."),
        Rows("Changes that help, the best first", columns, rows),
    ]
    if command := found.advice[0].command:
        blocks.append(Paragraph("This writes the file with the first of them:"))
        blocks.append(Bullets([("", command)]))
    return blocks


def none_helps(found: Diagnosis) -> str:
    """Of changes that were tried, or of none that could be."""
    if not found.tried:
        return "No change is known that could help."
    return f"{found.tried} change{' was' if found.tried == 1 else 's were'} tried, and none helps."


def blame_command(page: ReportPage) -> str:
    """What restores each layer in turn and tries what may help."""
    return f"dfmpc-onnx report {_paths(page) or 'FLOAT QUANTIZED'} --blame -o report.html"


def commands_to_know(page: ReportPage) -> list[str]:
    """How to find out what the file loses, where nothing says what its inputs hold."""
    return [images_command(page), f"{_into_better(page)} --preprocess raw:bgr"]


def images_command(page: ReportPage) -> str:
    """What makes the file again with images of the user's."""
    return f"{_into_better(page)} --images FOLDER"


def _into_better(page: ReportPage) -> str:
    return f"dfmpc-onnx quantize {shlex.quote(page.float_file.path or 'FLOAT')} -o better.onnx --report better.html"


def layers_with_few_bits(page: ReportPage) -> list[PageLayer]:
    """Those that have too few by their cause, where nothing was tried and no table predicts what more would gain."""
    found = page.diagnosis
    if found is None or found.blamed or any(layer.planned is not None for layer in page.layers):
        return []
    if not page.command.startswith(BY_QUANTIZE):
        return []
    by_name = {layer.name: layer for layer in page.layers}
    few = dict.fromkeys(s.layer for s in found.suspects if has_few_bits(s) and s.layer in by_name)
    return [by_name[name] for name in few][:MOST_SUGGESTED]


def command_of_more_bits(page: ReportPage, layers: Sequence[PageLayer]) -> str:
    """The command of this run into other files, with more bits for some layers."""
    wider = " ".join(f"--layer {shlex.quote(f'{glob.escape(layer.name)}={MORE_BITS}')}" for layer in layers)
    words, kept = iter(shlex.split(page.command)), []
    for word in words:
        if word in OUTPUTS:
            next(words, None)
        elif not word.startswith(tuple(f"{option}=" for option in OUTPUTS)):
            kept.append(word)
    return f"{shlex.join(kept)} -o better.onnx --report better.html {wider}"


def _suggested(page: ReportPage) -> list[Block]:
    """More bits for the layers that have too few."""
    layers = layers_with_few_bits(page)
    if not layers:
        return []
    short = names_of(page)
    names = joined([short(layer.name) for layer in layers])
    said = f"Not tried: the cause below suggests more bits for {names}. The command of this run with them:"
    return [Paragraph(said), Bullets([("", command_of_more_bits(page, layers))])]


def _paths(page: ReportPage) -> str:
    """Both files as a shell takes them; "" where one is in memory."""
    paths = page.float_file.path, page.quantized_file.path
    return " ".join(map(shlex.quote, paths)) if all(paths) else ""


def _predicted(page: ReportPage) -> list[Block]:
    """What the table of the plan says of more bits; no decibels, since no file was made with them."""
    found = proposals(page.layers)
    whole = sum(layer.planned or 0.0 for layer in page.layers)
    if not found:
        return []
    short = names_of(page)
    rows = [
        cells(
            layer.place or "-",
            short(layer.name),
            f"{layer.bits} to {layer.more.bits}",
            f"-{percent((layer.planned or 0.0) - layer.more.loss)}",
            signed_kilobytes(layer.more.bytes),
        )
        for layer in found
        if layer.more is not None
    ]
    columns = [
        Column("no.", right=True),
        Column("layer", name=True),
        Column("bits"),
        Column("changes the loss by", right=True),
        Column("file grows by", right=True),
    ]
    said = (
        "Predicted, not measured: by the table from which the bits were planned, this is what one step more would take "
        f"away of the {percent(whole)} that the bits of all layers add to the loss."
    )
    if not weights_matter(page) and page.diagnosis is not None:
        little = (
            f"More bits for weights gain little here: they can take away at most {percent(whole)} of the "
            f"{percent(page.diagnosis.damage)} that is lost; the rest comes from rounded activations. The command "
            "above finds which cost most; quantize --activations none keeps all in float, which is slower."
            f"{_images(page)}"
        )
        return [Paragraph(little)]
    blocks: list[Block] = [
        Paragraph(said),
        Rows("More bits for the layers whose bits cost the output most", columns, rows),
    ]
    if not page.plan_options[0]:
        return [*blocks, Paragraph("A higher limit lets the plan take the steps that help most for their bytes.")]
    keeps = (
        "This gives the first of them its bits, keeps those of the other layers, and measures what comes of it. With "
        "--layer alone the others would be planned anew, and get fewer:"
    )
    return [*blocks, Paragraph(keeps), Bullets([("", command) for command in commands_of_step(page, found[0])])]


def _images(page: ReportPage) -> str:
    """What may make ranges fit, where no image of the user's was given for them."""
    if not has_no_images(page):
        return ""
    return " The ranges come from no images of yours: quantize --images FOLDER fits them to what you feed."


def has_no_images(page: ReportPage) -> bool:
    """Whether the statistics of the file come from no image of the user's."""
    return dict(page.made).get("statistics") == NO_IMAGES


def proposals(layers: Sequence[PageLayer]) -> list[PageLayer]:
    """The layers to which one step more is predicted to help most; of those that share a weight, one."""
    whole = sum(layer.planned or 0.0 for layer in layers)
    helped = {
        (layer.alike or (layer.name,)): layer
        for layer in reversed(layers)
        if layer.more is not None
        and layer.planned is not None
        and layer.planned - layer.more.loss >= LEAST_PREDICTED * whole > 0
    }
    order = sorted(helped.values(), key=lambda layer: layer.more.loss - (layer.planned or 0.0) if layer.more else 0.0)
    return order[:MOST_PREDICTED]


def commands_of_step(page: ReportPage, layer: PageLayer) -> list[str]:
    """Plan as this run did, then give a layer its next larger width."""
    model = shlex.quote(page.float_file.path or "FLOAT")
    bits = layer.more.bits if layer.more is not None else layer.bits
    wider = " ".join(f"--layer {shlex.quote(f'{glob.escape(name)}={bits}')}" for name in layer.alike or (layer.name,))
    planning, making = page.plan_options
    plan = shlex.quote(page.plan_file or "plan.toml")
    parts = "dfmpc-onnx quantize", model, f"--recipe {plan}", making, wider, "-o better.onnx --report better.html"
    first = [] if page.plan_file else [f"dfmpc-onnx plan {model} {planning} -o plan.toml"]
    return [*first, " ".join(filter(None, parts))]
