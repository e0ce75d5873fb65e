#!/usr/bin/env python3
"""Every model at hand through `quantize` with the default recipe: each is quantized, or refused in one line.

    python tools/zoo.py [FOLDER...] [--images FOLDER] [--all] [--no-backend] [--only GLOB]

Takes the models that onnx ships as backend test data, and every .onnx file in the folders given, such as the one that
tools/fetch_models.py has filled. --images adds SQNR on photographs and, for detectors, how many boxes of the float
network the quantized one finds at an IoU of 0.5. Test data is summed up by outcome, unless --all asks for a row each.
Exits 1 where a model made the project raise anything but its own error.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fnmatch
import hashlib
import itertools
import pathlib
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from detection import detections, matched

import dfmpc_onnx
from dfmpc_onnx.errors import UserError
from dfmpc_onnx.fidelity import Fidelity, outputs, sqnr
from dfmpc_onnx.imagefiles import read_images
from dfmpc_onnx.images import check_images, concrete_shape, model_inputs
from dfmpc_onnx.preprocess import Preprocess
from dfmpc_onnx.report import Report
from dfmpc_onnx.runtime import Session
from dfmpc_onnx.settings import Settings, WeightBits, parse_input_shapes

GROUPS = ("light", "simple", "pytorch-operator", "pytorch-converted")
HEADER = (
    "model", "layers", "quantized", "refused", "agreement %", "SQNR dB", "SQNR dB, photographs",
    "boxes matched", "MB", "s",
)  # fmt: skip
PHOTOGRAPHS = 50  # of a folder, at most
QUANTIZED = "quantized"


@dataclasses.dataclass(frozen=True)
class Known:
    """What a model does not say of itself. head: how a detector's outputs are read (see `detection`)."""

    preprocess: str = "imagenet"
    shape: str = ""
    head: str = ""


# By pattern of the file name, the first that fits: how the authors of each model feed it.
KNOWN = {
    "320n.onnx": Known("unit", "1x3x320x320", "yolo"),
    "open-nsfw.onnx": Known("104,117,123/1"),
    "ch_PP-OCRv4_det_infer.onnx": Known("keras", "1x3x320x320", "text"),
    "ch_PP-OCRv4_rec_infer.onnx": Known("keras", "1x3x48x320"),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": Known("keras", "1x3x48x192"),
    "linzaer_*.onnx": Known("lite", head="ssd"),
    "imagenet_mobilenet_v1_025.onnx": Known("keras"),
    "cifar10_vgglike_relubn.onnx": Known("raw"),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one model. refused: layers by reason; said: the error, where there was one."""

    group: str
    model: str
    seconds: float
    report: Report | None = None
    said: str = ""
    raised: bool = False
    photographs: float | None = None
    boxes: tuple[tuple[str, int, int], ...] = ()

    @property
    def layers(self) -> int:
        return len(self.report.layers) if self.report else 0

    @property
    def quantized(self) -> int:
        return sum(layer.refused is None for layer in self.report.layers) if self.report else 0

    @property
    def refused(self) -> str:
        """Why layers were refused, or the model: without names, with how many there are of each."""
        if self.report is None:
            return self.said
        counts = collections.Counter(without_names(x.refused) for x in self.report.layers if x.refused)
        return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())


def without_names(reason: str) -> str:
    """A reason without the names that a model gives its nodes and tensors."""
    return re.sub(r" ?'[^']*'", "", reason)


def backend_models() -> Iterator[tuple[str, pathlib.Path]]:
    """The models of the installed onnx's backend tests: group and file."""
    data = pathlib.Path(onnx.__file__).parent / "backend/test/data"
    for group in GROUPS:
        for file in sorted((data / group).rglob("*.onnx")):
            yield group, file


def folder_models(folders: Sequence[pathlib.Path]) -> Iterator[tuple[str, pathlib.Path]]:
    """Every .onnx file in the folders, each content once."""
    seen = set()
    for folder in folders:
        for file in sorted(folder.rglob("*.onnx")):
            digest = hashlib.sha256(file.read_bytes()).digest()
            if digest not in seen:
                seen.add(digest)
                yield "", file


def known_of(file: pathlib.Path) -> Known:
    return next((known for pattern, known in KNOWN.items() if fnmatch.fnmatch(file.name, pattern)), Known())


def tried(group: str, file: pathlib.Path, images: pathlib.Path | None) -> Outcome:
    """One model through `quantize`, and what became of it."""
    name = file.parent.name if file.stem == "model" else file.stem
    known = known_of(file)
    began = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            written = pathlib.Path(scratch) / "out.onnx"
            shapes = [f"{input_name(file)}:{known.shape}"] if known.shape else []
            made = dfmpc_onnx.quantize(file, written, preprocess=known.preprocess, input_shapes=shapes)
            seconds = time.perf_counter() - began
            real, boxes = compared(file, written, known, shapes, images) if group == "" else (None, ())
            return Outcome(group, name, seconds, made.report, photographs=real, boxes=boxes)
    except UserError as error:
        said = without_names(str(error).rpartition(".onnx: ")[2])
        return Outcome(group, name, time.perf_counter() - began, said=said)
    except Exception as error:  # what this tool is there to find
        said = f"{type(error).__name__}: {error}"
        return Outcome(group, name, time.perf_counter() - began, said=said, raised=True)


def input_name(file: pathlib.Path) -> str:
    return str(model_inputs(onnx.load(file, load_external_data=False))[0].name)


def compared(
    file: pathlib.Path, written: pathlib.Path, known: Known, shapes: Sequence[str], folder: pathlib.Path | None
) -> tuple[float | None, tuple[tuple[str, int, int], ...]]:
    """SQNR on photographs, and for a detector of its boxes how many were found again and how many there were."""
    settings = Settings(
        WeightBits.parse("8"),
        "8",
        preprocess=Preprocess.parse(known.preprocess),
        input_shapes=parse_input_shapes(shapes),
        seed=1_000_000,
    )
    inputs = model_inputs(onnx.load(file, load_external_data=False))
    if len(inputs) != 1 or len(inputs[0].shape or ()) != 4:
        return None, ()
    sessions = Session(file), Session(written)
    found = {}
    if known.head:
        procedural = check_images(inputs, settings, 16)
        found["procedural"] = procedural.x
    if folder is not None:
        shape, _ = concrete_shape(inputs[0], settings)
        found["photographs"] = read_images(folder, shape, settings.preprocess).x[:PHOTOGRAPHS]
    real, boxes = None, []
    for kind, x in found.items():
        want, got = (outputs(session, x) for session in sessions)
        if kind == "photographs":
            real = sqnr(want, got)
        if known.head:
            pairs = list(zip(detections(known.head, want), detections(known.head, got), strict=True))
            boxes.append((kind, sum(matched(a, b) for a, b in pairs), sum(len(a) for a, _ in pairs)))
    return real, tuple(boxes)


def shown_boxes(outcome: Outcome) -> str:
    return "; ".join(f"{kind}: {again} of {count}" for kind, again, count in outcome.boxes)


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f}" if count >= 1e4 else f"{count / 1e6:.4f}"


def row(outcome: Outcome) -> tuple[str, ...]:
    """A line of the table for one model."""
    model = f"{outcome.group}/{outcome.model}".lstrip("/")
    seconds = f"{outcome.seconds:.1f}"
    if outcome.report is None:
        verdict = f"RAISED {outcome.said}" if outcome.raised else f"the model: {outcome.said}"
        return (model, "", "", verdict, "", "", "", "", "", seconds)
    report, fidelity = outcome.report, outcome.report.fidelity
    return (
        model,
        str(outcome.layers),
        str(outcome.quantized),
        outcome.refused,
        f"{fidelity.agreement:.1f}" if fidelity else "",
        f"{fidelity.sqnr_db:.1f}" if fidelity else next(iter(report.warnings), ""),
        "" if outcome.photographs is None else f"{outcome.photographs:.1f}",
        shown_boxes(outcome),
        f"{megabytes(report.float_bytes)} -> {megabytes(report.bytes)}",
        seconds,
    )


def summed(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """One line for all models of a group of the test data that came out alike; a model that raised has its own."""
    alike: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.raised:
            yield row(outcome)
            continue
        kind = QUANTIZED if outcome.report and outcome.quantized else without_counts(outcome.refused)
        alike.setdefault((outcome.group, kind), []).append(outcome)
    for (group, _), same in alike.items():
        yield row(same[0]) if len(same) == 1 else together(group, same)


def without_counts(refused: str) -> str:
    return re.sub(r"\d+ x ", "", refused)


def together(group: str, same: Sequence[Outcome]) -> tuple[str, ...]:
    reports = [o.report for o in same if o.report]
    scores: list[Fidelity] = [r.fidelity for r in reports if r.fidelity]
    seconds = f"{sum(o.seconds for o in same):.1f}"
    model = f"{group}: {len(same)} models"
    if not reports:
        return (model, "", "", f"each model: {same[0].said}", "", "", "", "", "", seconds)
    reasons: collections.Counter[str] = collections.Counter()
    for report in reports:
        reasons.update(without_names(x.refused) for x in report.layers if x.refused)
    return (
        model,
        str(sum(o.layers for o in same)),
        str(sum(o.quantized for o in same)),
        "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()),
        spread([s.agreement for s in scores]),
        spread([s.sqnr_db for s in scores]),
        "",
        "",
        f"{megabytes(sum(r.float_bytes for r in reports))} -> {megabytes(sum(r.bytes for r in reports))}",
        seconds,
    )


def spread(values: Sequence[float]) -> str:
    """Median, and the least."""
    return f"{np.median(values):.1f} (least {min(values):.1f})" if values else ""


def show(cells: Sequence[str]) -> None:
    """Print a line of the table, at once: the whole takes long."""
    print("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path, help="folders with .onnx files")
    parser.add_argument("--images", type=pathlib.Path, help="a folder of photographs to compare on, too")
    parser.add_argument("--all", action="store_true", help="a row for every model of the test data")
    parser.add_argument("--no-backend", action="store_true", help="leave onnx's test data out")
    parser.add_argument("--only", default="*", help="models whose name fits, such as '*yolo*'")
    args = parser.parse_args()
    found = [*([] if args.no_backend else backend_models()), *folder_models(args.folders)]
    chosen = [(g, f) for g, f in found if fnmatch.fnmatch(f.parent.name if f.stem == "model" else f.name, args.only)]
    outcomes = []
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for group, same in itertools.groupby(chosen, key=lambda found: found[0]):
        alike = []
        for _, file in same:
            print(f"{len(outcomes) + 1} of {len(chosen)}: {file.name}", end="\r", file=sys.stderr, flush=True)
            alike.append(tried(group, file, args.images))
            outcomes.append(alike[-1])
            if args.all or not group:
                show(row(alike[-1]))
        if group and not args.all:
            for line in summed(alike):
                show(line)
    raised = sum(o.raised for o in outcomes)
    refused = sum(o.report is None and not o.raised for o in outcomes)
    print(
        f"\n{len(outcomes)} models: {sum(o.quantized > 0 for o in outcomes)} quantized, "
        f"{sum(o.report is not None and not o.quantized for o in outcomes)} with no layer quantized, "
        f"{refused} refused, {raised} raised"
    )
    return 1 if raised else 0


if __name__ == "__main__":
    sys.exit(main())
