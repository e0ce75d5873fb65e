#!/usr/bin/env python3
"""Every model at hand as a batch: each is quantized with the default recipe, or refused in one line.

    python -m tools.zoo [FOLDER...] --run RUN [--images FOLDER] [--pictures FOLDER] [--all] [--no-backend] [--only GLOB]

Takes the models that onnx ships as backend test data, and every .onnx file in the folders given, such as the one that
tools/data/fetch_models.py has filled. They go into a manifest, RUN/zoo.toml, with what models do not say of themselves;
`dfmpc-onnx batch RUN/zoo.toml -o RUN` is what runs it, so it goes on where it was stopped, and two runs are compared
with `dfmpc-onnx batch --compare`. The table on standard output is made of its rows.

--images adds SQNR on photographs and, for detectors, how many boxes of the float network the quantized one finds at an
IoU of 0.5. --pictures adds the same on pictures of what a model is for, where that is known: text or faces, as
tools/data/fetch_pictures.py has put them there, and for text readers lines that the float text detector among the
models finds in the text. Test data is summed up by outcome, unless --all asks for a row each. Exits 1 where a job ended
in anything but a file or an error of the project's own.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import fnmatch
import hashlib
import itertools
import json
import math
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx

import dfmpc_onnx
from dfmpc_onnx.errors import OptionError, UserError
from dfmpc_onnx.evaluation.fidelity import outputs
from dfmpc_onnx.evaluation.output_differences import sqnr
from dfmpc_onnx.inputs.files import Images, read_images
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.inputs.samples import check_images
from dfmpc_onnx.inputs.spec import resolve
from dfmpc_onnx.pipeline.settings import parse_input_shapes
from dfmpc_onnx.report.batch_row import JobRow
from dfmpc_onnx.runtime.session import Session
from tools.zoo.ctc import alike
from tools.zoo.detection import CONFIDENCE, detections, matched
from tools.zoo.own_pictures import LINES, OwnPictures

GROUPS = ("light", "simple", "pytorch-operator", "pytorch-converted")
HEADER = (
    "model", "layers", "quantized", "refused", "agreement % (95 % interval)", "SQNR dB", "SQNR dB, photographs",
    "SQNR dB, its own pictures", "boxes matched", "MB", "s",
)  # fmt: skip
PHOTOGRAPHS = 50  # of a folder, at most
QUANTIZED = "quantized"
MANIFEST = "zoo.toml"  # in the folder of the run


@dataclasses.dataclass(frozen=True)
class Known:
    """What a model does not say of itself.

    head: how a detector's outputs are read (see `detection`), or ctc for a reader's (see `ctc`).
    pictures: what it is for, text, faces or lines of text, where there are pictures of that.
    """

    preprocess: str = "imagenet"
    shape: str = ""
    head: str = ""
    pictures: str = ""


# By pattern of the file name, the first that fits: how the authors of each model feed it.
KNOWN = {
    "320n.onnx": Known("unit", "1x3x320x320", "yolo", "faces"),
    "open-nsfw.onnx": Known("104,117,123/1"),
    "ch_PP-OCRv4_det_infer.onnx": Known("keras", "1x3x320x320", "text", "text"),
    "ch_PP-OCRv4_rec_infer.onnx": Known("keras", "1x3x48x320", "ctc", LINES),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": Known("keras", "1x3x48x192", pictures=LINES),
    "linzaer_*.onnx": Known("lite", head="ssd", pictures="faces"),
    "yunet_*.onnx": Known("raw:bgr", head="yunet", pictures="faces"),
    "imagenet_mobilenet_v1_025.onnx": Known("keras"),
    "cifar10_vgglike_relubn.onnx": Known("raw"),
}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What the user gave to compare on: a folder of photographs, and pictures of what models are for."""

    photographs: pathlib.Path | None = None
    own: OwnPictures | None = None


@dataclasses.dataclass(frozen=True)
class OnPictures:
    """A quantized model beside its float one on pictures: SQNR in dB, and what they found or read alike."""

    photographs: float | None = None
    own: float | None = None
    alike: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one model: the row of its job, and what was found on pictures."""

    group: str
    model: str
    row: JobRow
    real: OnPictures = dataclasses.field(default_factory=OnPictures)

    @property
    def raised(self) -> bool:
        """Whether the job ended in anything but a file or an error of the project's own."""
        return self.row.status == "failed"

    @property
    def layers(self) -> int:
        return self.row.layers or 0

    @property
    def quantized(self) -> int:
        return self.row.quantized_layers or 0

    @property
    def said(self) -> str:
        """Why there is no file, without names."""
        return without_names(self.row.reason.rpartition(".onnx: ")[2])

    @property
    def refused(self) -> str:
        """Why layers were refused, or the model: without names, with how many there are of each."""
        return self.row.refusals if self.row.written else self.said


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
        for file in sorted(
            f for f in folder.rglob("*.onnx") if not any(p.startswith(".") for p in f.relative_to(folder).parts)
        ):
            digest = hashlib.sha256(file.read_bytes()).digest()
            if digest not in seen:
                seen.add(digest)
                yield "", file


def known_of(file: pathlib.Path) -> Known:
    return next((known for pattern, known in KNOWN.items() if fnmatch.fnmatch(file.name, pattern)), Known())


@dataclasses.dataclass(frozen=True)
class Entered:
    """A model as it stands in the manifest. name: of its job; title: in the table."""

    group: str
    file: pathlib.Path
    name: str
    title: str
    known: Known
    shapes: tuple[str, ...]

    @property
    def text(self) -> str:
        """Its table of the manifest."""
        values = {"path": str(self.file.resolve()), "name": self.name, "preprocess": self.known.preprocess}
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        lines += [f"input-shape = {json.dumps(list(self.shapes))}"] if self.shapes else []
        return "\n".join(["[[model]]", *lines, ""])


def entered(found: Iterable[tuple[str, pathlib.Path]]) -> Iterator[Entered]:
    """The models with what they do not say of themselves, each under a name of its own."""
    taken: collections.Counter[str] = collections.Counter()
    for group, file in found:
        title = file.parent.name if file.stem == "model" else file.stem
        name = f"{group}.{title}".lstrip(".")
        taken[name] += 1
        known = known_of(file)
        shapes = (f"{input_name(file)}:{known.shape}",) if known.shape else ()
        yield Entered(group, file, name if taken[name] == 1 else f"{name}-{taken[name]}", title, known, shapes)


def outcome(model: Entered, row: JobRow, run: pathlib.Path, given: Pictures) -> Outcome:
    """What became of a model, on pictures too where there is a file."""
    real = OnPictures()
    if row.written and model.group == "":
        try:
            real = compared(model.file, run / row.output, model.known, model.shapes, given)
        except UserError as error:  # of the pictures, not of the model
            print(f"{model.file.name}: not compared on pictures: {error}", file=sys.stderr)
    return Outcome(model.group, model.title, row, real)


def input_name(file: pathlib.Path) -> str:
    model = onnx.load(file, load_external_data=False)
    return resolve(model, {}, Preprocess.parse("raw")).specs[0].name


def compared(
    file: pathlib.Path, written: pathlib.Path, known: Known, shapes: Sequence[str], given: Pictures
) -> OnPictures:
    """SQNR on pictures, and for a detector or reader how much of what it found was found again."""
    sessions = Session(file), Session(written)
    scores: dict[str, float] = {}
    phrases = []
    for kind, x in inputs_of(file, known, shapes, given):
        want, got = (outputs(session, x) for session in sessions)
        scores[kind] = sqnr(want, got)
        if known.head in CONFIDENCE:
            pairs = list(zip(detections(known.head, want), detections(known.head, got), strict=True))
            again, count = sum(matched(a, b) for a, b in pairs), sum(len(a) for a, _ in pairs)
            phrases.append(f"{kind}: {again} of {count}")
        elif known.head == "ctc" and kind == LINES:
            phrases.append(str(alike(want[0], got[0])))
    return OnPictures(scores.get("photographs"), scores.get(known.pictures), tuple(phrases))


def inputs_of(
    file: pathlib.Path, known: Known, shapes: Sequence[str], given: Pictures
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """What a model is compared on, by kind; nothing where it does not take pictures."""
    model, preprocess = onnx.load(file, load_external_data=False), Preprocess.parse(known.preprocess)
    inputs = resolve(model, parse_input_shapes(shapes), preprocess)
    if len(inputs) != 1 or len(inputs.specs[0].stated or ()) != 4:
        return
    shape = inputs.specs[0].shape
    if known.head in CONFIDENCE:
        procedural = check_images(inputs, 1_000_000, 16)
        assert isinstance(procedural, Images)  # as for every model with one input
        yield "procedural", procedural.x
    if given.photographs is not None:
        yield "photographs", read_images(given.photographs, shape, preprocess).x[:PHOTOGRAPHS]
    if given.own is not None and known.pictures:
        own = given.own.inputs(known.pictures, shape, preprocess)
        if own is not None:
            yield known.pictures, own


def decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f}" if count >= 1e4 else f"{count / 1e6:.4f}"


def row(outcome: Outcome) -> tuple[str, ...]:
    """A line of the table for one model."""
    model, found = f"{outcome.group}/{outcome.model}".lstrip("/"), outcome.row
    seconds = f"{found.seconds:.1f}"
    if not found.written:
        verdict = f"RAISED {found.code}: {outcome.said}" if outcome.raised else f"the model: {outcome.said}"
        return (model, "", "", verdict, "", "", "", "", "", "", seconds)
    return (
        model,
        str(outcome.layers),
        str(outcome.quantized),
        outcome.refused,
        agreement(found),
        "not known" if found.sqnr_db is None else f"{found.sqnr_db:.1f}",
        decibels(outcome.real.photographs),
        decibels(outcome.real.own),
        "; ".join(outcome.real.alike),
        f"{megabytes(found.float_bytes or 0)} -> {megabytes(found.bytes or 0)}",
        seconds,
    )


def agreement(found: JobRow) -> str:
    """Per cent, with its 95 % interval."""
    if found.agreement is None or found.agreement_low is None or found.agreement_high is None:
        return ""
    return f"{found.agreement:.1f} ({found.agreement_low:.1f} to {found.agreement_high:.1f})"


def summed(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, ...]]:
    """One line for all models of a group of the test data that came out alike; a model that raised has its own."""
    alike: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.raised:
            yield row(outcome)
            continue
        kind = QUANTIZED if outcome.quantized else without_counts(outcome.refused)
        alike.setdefault((outcome.group, kind), []).append(outcome)
    for (group, _), same in alike.items():
        yield row(same[0]) if len(same) == 1 else together(group, same)


def without_counts(refused: str) -> str:
    return re.sub(r"\d+ x ", "", refused)


def together(group: str, same: Sequence[Outcome]) -> tuple[str, ...]:
    rows = [o.row for o in same]
    written = [r for r in rows if r.written]
    seconds = f"{sum(r.seconds for r in rows):.1f}"
    model = f"{group}: {len(same)} models"
    if not written:
        return (model, "", "", f"each model: {same[0].said}", "", "", "", "", "", "", seconds)
    reasons: collections.Counter[str] = collections.Counter()
    for entry in filter(None, "; ".join(r.refusals for r in written).split("; ")):
        count, _, reason = entry.partition(" x ")
        reasons[reason] += int(count)
    sizes = [sum(r.float_bytes or 0 for r in written), sum(r.bytes or 0 for r in written)]
    return (
        model,
        str(sum(o.layers for o in same)),
        str(sum(o.quantized for o in same)),
        "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common()),
        spread([r.agreement for r in written if r.agreement is not None]),
        spread([r.sqnr_db for r in written if r.sqnr_db is not None]),
        "",
        "",
        "",
        " -> ".join(map(megabytes, sizes)),
        seconds,
    )


def spread(values: Sequence[float]) -> str:
    """Median, and the least."""
    return f"{np.median(values):.1f} (least {min(values):.1f})" if values else ""


def own_pictures(
    folder: pathlib.Path | None, models: Sequence[pathlib.Path], chosen: Sequence[pathlib.Path]
) -> OwnPictures | None:
    """The pictures of a folder, with the text detector among the models; raises OptionError where there are none."""
    if folder is None:
        return None
    detector = next((file for file in models if known_of(file).head == "text"), None)
    own = OwnPictures(folder, detector, known_of(detector).preprocess if detector else "")
    if own.missing():
        raise OptionError(
            f"{folder}: holds no {' and no '.join(own.missing())}/; tools/data/fetch_pictures.py fills it"
        )
    if detector is None and any(known_of(file).pictures == LINES for file in chosen):
        print("no text detector among the models, so text readers have no lines to be measured on", file=sys.stderr)
    return own


def show(cells: Sequence[str]) -> None:
    """Print a line of the table, at once: the whole takes long."""
    print("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=pathlib.Path, help="folders with .onnx files")
    parser.add_argument("--run", type=pathlib.Path, required=True, help="the folder of the batch; goes on where one is")
    parser.add_argument("--workers", type=int, help="jobs at once")
    parser.add_argument("--images", type=pathlib.Path, help="a folder of photographs to compare on, too")
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder that tools/data/fetch_pictures.py has filled")
    parser.add_argument("--all", action="store_true", help="a row for every model of the test data")
    parser.add_argument("--no-backend", action="store_true", help="leave onnx's test data out")
    parser.add_argument("--only", default="*", help="models whose name fits, such as '*yolo*'")
    parser.add_argument("--largest", type=float, default=math.inf, metavar="MB", help="leave larger models out")
    args = parser.parse_args()
    found = [*([] if args.no_backend else backend_models()), *folder_models(args.folders)]
    chosen = [(g, f) for g, f in found if fnmatch.fnmatch(f.parent.name if f.stem == "model" else f.name, args.only)]
    chosen = [(g, f) for g, f in chosen if f.stat().st_size <= args.largest * 1e6]
    try:
        given = Pictures(args.images, own_pictures(args.pictures, [f for _, f in found], [f for _, f in chosen]))
        models = list(entered(chosen))
        rows = batch_rows(models, args.run, args.workers)
    except UserError as error:
        parser.error(str(error))
    outcomes = printed(models, rows, args.run, given, each=args.all)
    raised = sum(o.raised for o in outcomes)
    written = [o for o in outcomes if o.row.written]
    print(
        f"\n{len(outcomes)} models: {sum(o.quantized > 0 for o in written)} quantized, "
        f"{sum(not o.quantized for o in written)} with no layer quantized, "
        f"{len(outcomes) - len(written) - raised} refused, {raised} raised"
    )
    return 1 if raised else 0


def batch_rows(models: Sequence[Entered], run: pathlib.Path, workers: int | None) -> dict[str, JobRow]:
    """Write the manifest and run it; the row of each model by the name of its job."""
    run.mkdir(parents=True, exist_ok=True)
    manifest = run / MANIFEST
    manifest.write_text("\n".join(model.text for model in models), encoding="utf-8")

    def say(done: int, total: int, name: str) -> None:
        print(f"{done} of {total}: {name}", end="\r", file=sys.stderr, flush=True)

    found = dfmpc_onnx.batch(manifest, run, workers=workers, progress=say)
    return {row.name: row for row in found.rows}


def printed(
    models: Sequence[Entered], rows: Mapping[str, JobRow], run: pathlib.Path, given: Pictures, *, each: bool
) -> list[Outcome]:
    """Print the table; what became of each model."""
    outcomes: list[Outcome] = []
    print("| " + " | ".join(HEADER) + " |\n|" + "---|" * len(HEADER))
    for group, same in itertools.groupby(models, key=lambda model: model.group):
        alike = []
        for model in same:
            alike.append(outcome(model, rows[model.name], run, given))
            if each or not group:
                show(row(alike[-1]))
        for line in summed(alike) if group and not each else ():
            show(line)
        outcomes += alike
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
