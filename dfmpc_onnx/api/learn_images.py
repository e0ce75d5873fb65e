"""learn_images(): images learned from what a network itself holds, as a file that quantize() takes its statistics from.

Needs PyTorch (extra `learned`), which is imported within the call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from dfmpc_onnx import catalog
from dfmpc_onnx.api.boundary import GivenRanges, GivenShapes, Path, public, texts
from dfmpc_onnx.api.provenance import version
from dfmpc_onnx.api.reference import check_limits
from dfmpc_onnx.errors import ModelError, OptionError, shown
from dfmpc_onnx.graph.class_outputs import outputs_without_classes
from dfmpc_onnx.graph.exchange import to_graph
from dfmpc_onnx.inputs.batches import fixed_batch, usual_count
from dfmpc_onnx.inputs.knowledge import find_out
from dfmpc_onnx.inputs.learned_file import LearnedRecord, learned_bytes, learned_record
from dfmpc_onnx.inputs.normalization import PreprocessChoice, parse_or_assume
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.inputs.spec import InputSpec, InputSpecs
from dfmpc_onnx.inputs.unknown_inputs import unknown_inputs_warning
from dfmpc_onnx.learning.class_scores import scores_tensor
from dfmpc_onnx.learning.objectives import UNLABELLED, Objective, balanced_labels, find_objective
from dfmpc_onnx.learning.starting_images import PROCEDURAL_START, Starting, find_start, starting_images
from dfmpc_onnx.learning.torch_import import AUTO_DEVICE, find_device, torch_threads
from dfmpc_onnx.model.source import ModelSource, Source, load
from dfmpc_onnx.model.write import FileKind, check_target, save_bytes
from dfmpc_onnx.numerics.arrays import Float32
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.progress import ProgressReport, no_report
from dfmpc_onnx.pipeline.settings import Settings, WeightBits, parse_input_ranges, parse_input_shapes
from dfmpc_onnx.pipeline.workspace import Workspace, resolve_inputs
from dfmpc_onnx.qdq.qonnx_nodes import refuse_qonnx
from dfmpc_onnx.report.learning import LayerDistance, LearningReport
from dfmpc_onnx.runtime.threads import takes_threads, thread_count
from dfmpc_onnx.statistics.batch_axis import batch_is_free
from dfmpc_onnx.statistics.leading_moments import BY_PICTURES

USUAL_IMAGES, MOST_LEARNED = 64, 1024
USUAL_STEPS, USUAL_RATE = 100, 0.05
NOTHING_TO_MATCH = (
    "holds no BatchNormalization, so there is nothing to match images to; export it with its BatchNormalizations, "
    "which most exporters fold into the layers in front"
)


@dataclasses.dataclass(frozen=True)
class LearnedImages:
    """Images that were learned, and how.

    x: float32 as the network takes them, ``[n, ...]``. y: the classes that they were to show, int64 ``[n]``; None where
    the objective has none. report: how they were learned.
    """

    x: Float32
    y: npt.NDArray[np.int64] | None
    report: LearningReport

    def __repr__(self) -> str:
        before, after = self.report.distance
        objective = self.report.record.objective
        return f"LearnedImages({len(self.x)} images, {objective}, distance {before:.3g} -> {after:.3g})"


@public
@takes_threads
def learn_images(
    model: ModelSource,
    output: Path | None = None,
    objective: str = "zeroq",
    *,
    count: int = USUAL_IMAGES,
    steps: int = USUAL_STEPS,
    learning_rate: float = USUAL_RATE,
    start: str = PROCEDURAL_START,
    seed: int = 0,
    device: str = AUTO_DEVICE,
    preprocess: str = AUTO,
    input_shapes: GivenShapes = (),
    input_ranges: GivenRanges = (),
    progress: ProgressReport | None = None,
    threads: int | None = None,
    force: bool = False,
) -> LearnedImages:
    """Move images by gradient until a network's BatchNormalizations see what they saw in training.

    model: a float model that keeps its BatchNormalizations, of one input of floats. output: an .npz for the `images` of
    `quantize`; None to get them in memory only. objective: zeroq (match mean and deviation over a batch), dsg (image by
    image, with slack, one layer enhanced for each image), labelled (zeroq, and each image shows a class), dsg-labelled.
    count: of images. steps: of Adam, for each batch. learning_rate: of the first step, in units of what the images vary
    by; it falls to 0. start: what is moved, procedural images or noise. device: auto, cpu or cuda. The others are as in
    `quantize`. Of the same seed and number of threads the images are the same on the CPU. Raises UserError for what the
    caller can correct; `output` is then as it was before.
    """
    began = time.perf_counter()
    asked = _Asked(find_objective(objective), count, steps, float(learning_rate), find_start(start), seed)
    asked.check()
    place = find_device(device)
    target = None if output is None else _target(output, force=force)
    taken = _take_in(model, preprocess, input_shapes, input_ranges, asked)
    with torch_threads(thread_count()), _interrupts_named():
        found = _learned(taken, asked, place, progress or no_report)
        if target is not None:
            save_bytes(learned_bytes(found.x, found.y, found.report.record), target)
    report = msgspec.structs.replace(
        found.report,
        seconds=round(time.perf_counter() - began, 3),
        output=None if target is None else str(target),
    )
    return dataclasses.replace(found, report=report)


def _is_learned_file(path: pathlib.Path) -> bool:
    """Whether a file is empty, or of learned images: what a run may write over."""
    try:
        return path.stat().st_size == 0 or learned_record(path) is not None
    except (OSError, OptionError):
        return False


LEARNED_FILE = FileKind("file of learned images", _is_learned_file)


def _target(output: Path, *, force: bool) -> pathlib.Path:
    """The output path; raises OptionError where nothing can be written there, or where another kind of file is."""
    if pathlib.Path(output).suffix.lower() != ".npz":
        raise OptionError(f"{shown(str(output))}: learned images go to an .npz; give a file name that ends in .npz")
    return check_target(output, None, force=force, kind=LEARNED_FILE)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the user wants of the images."""

    objective: Objective
    count: int
    steps: int
    learning_rate: float
    start: str
    seed: int

    def check(self) -> None:
        """Raise OptionError for what cannot be."""
        if not 1 <= self.count <= MOST_LEARNED:
            raise OptionError(f"count {self.count}: give 1 to {MOST_LEARNED} images")
        if self.steps < 1:
            raise OptionError(f"steps {self.steps}: give at least 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise OptionError(f"learning-rate {self.learning_rate:g}: give a number above 0, such as {USUAL_RATE:g}")


@dataclasses.dataclass(frozen=True)
class _Taken:
    """The model, its one input, and the images that learning begins with. at_once: images in a batch."""

    source: Source
    workspace: Workspace
    spec: InputSpec
    choice: PreprocessChoice
    at_once: int
    start: Starting


def _take_in(
    model: ModelSource, preprocess: str, input_shapes: GivenShapes, input_ranges: GivenRanges, asked: _Asked
) -> _Taken:
    """Read the model and make what learning begins with. Raises UserError."""
    source = load(model)
    refuse_qonnx(source, "give the float model of it")
    settings = Settings(
        WeightBits.parse("8"),
        "8",
        preprocess=parse_or_assume(preprocess),
        input_shapes=parse_input_shapes(texts(input_shapes)),
        input_ranges=parse_input_ranges(texts(input_ranges)),
        seed=asked.seed,
    )
    inputs = resolve_inputs(source.model, settings)
    inputs.check_options(settings.input_shapes)
    check_limits(source, inputs)
    inputs, choice = find_out(source.model, inputs, preprocess, BY_PICTURES)
    if choice.unknown:
        warning = unknown_inputs_warning(choice, "what the images are worth is not known", False)
        choice = msgspec.structs.replace(choice, warning=warning)
    graph = to_graph(source)
    at_once = _batch_size(graph, inputs, asked)
    workspace = Workspace(graph, settings, source.label, inputs)
    PassManager(catalog.passes_up_to(Normalized)).run(workspace)
    spec = _input_of_floats(inputs)
    start = starting_images(spec, asked.count, at_once, asked.seed, asked.start)
    return _Taken(source, workspace, spec, choice, at_once, start)


def _input_of_floats(inputs: InputSpecs) -> InputSpec:
    """The one input that images are learned for. Raises OptionError."""
    spec = inputs.image_input()
    if not spec.is_float:
        raise OptionError(
            f"learned images: the model's input '{shown(spec.name)}' is {spec.type_text}, and a gradient needs floats; "
            "export the model with an input of floats"
        )
    return spec


def _batch_size(graph: gs.Graph, inputs: InputSpecs, asked: _Asked) -> int:
    """How many images are learned together: as many as statistics take of their size, or as the file states."""
    fixed = fixed_batch(inputs.image_input(), batch_is_free(graph, inputs, asked.seed))
    if fixed and asked.count % fixed:
        raise OptionError(f"count {asked.count}: the model takes batches of {fixed}; give a multiple of it")
    return fixed or min(asked.count, usual_count(inputs))


def _learned(taken: _Taken, asked: _Asked, device: str, report: ProgressReport) -> LearnedImages:
    """The images. PyTorch is there: `find_device` has asked for it."""
    from dfmpc_onnx.learning.batch_norm_match import measured_layers
    from dfmpc_onnx.learning.learn import Learner, Schedule, class_count
    from dfmpc_onnx.learning.network import TorchNetwork

    graph, label, start = taken.workspace.graph, taken.source.label, taken.start
    layers = measured_layers(graph, device)
    if not layers:
        raise ModelError(f"{label}: {NOTHING_TO_MATCH}")
    scores = _scores(taken) if asked.objective.labels else None
    wanted = {layer.tensor for layer in layers} | (set() if scores is None else {scores})
    network = TorchNetwork(graph, wanted, device, label)
    labels = None
    if scores is not None:
        classes = class_count(network, scores, start.x[: taken.at_once], device)
        labels = balanced_labels(asked.count, classes, asked.seed)
    schedule = Schedule(asked.steps, asked.learning_rate, taken.at_once)
    learner = Learner(network, layers, scores, asked.objective, schedule, device)
    total = asked.steps * learner.batches(asked.count)

    def tell(step: int, loss: float) -> None:
        report(step, total, f"step {step + 1} of {total}" + ("" if math.isnan(loss) else f", loss {loss:.4g}"))

    found = learner.learn(start, labels, tell)
    report(total, total, "")
    distances = zip(layers, found.before, found.after, strict=True)
    return LearnedImages(
        found.x,
        labels,
        LearningReport(
            record=_record(taken, asked),
            images=found.x.shape,
            device=device,
            losses=found.losses,
            layers=tuple(LayerDistance(layer.name, before, after) for layer, before, after in distances),
            warnings=taken.choice.warnings,
        ),
    )


def _scores(taken: _Taken) -> str:
    """The tensor of the network's class scores; raises ModelError where it has none."""
    found = scores_tensor(taken.workspace.graph, outputs_without_classes(taken.source.model))
    if found is None:
        raise ModelError(f"{taken.source.label}: no output holds scores of classes to learn labels for; {UNLABELLED}")
    return found


def _record(taken: _Taken, asked: _Asked) -> LearnedRecord:
    return LearnedRecord(
        objective=asked.objective.name,
        preprocess=taken.spec.preprocess.name,
        preprocess_by=taken.choice.by,
        model_sha256=taken.source.sha256,
        steps=asked.steps,
        learning_rate=asked.learning_rate,
        seed=asked.seed,
        version=version(),
        start=asked.start,
    )


@contextlib.contextmanager
def _interrupts_named() -> Iterator[None]:
    """An interrupt within the block says what has become of the file."""
    try:
        yield
    except KeyboardInterrupt as error:
        error.add_note("no images were written")
        raise
