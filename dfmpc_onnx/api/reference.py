"""The float model that a result is compared with, and whose fault it is where that does not run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import CannotRun, ModelError, RuntimeUnavailable, shown
from dfmpc_onnx.evaluation.fidelity import SessionInput, first_feeds
from dfmpc_onnx.graph.class_outputs import outputs_without_classes
from dfmpc_onnx.graph.compared_outputs import chosen_outputs
from dfmpc_onnx.graph.exchange import to_graph, to_model
from dfmpc_onnx.graph.output_branches import ScoreChannels, score_channels
from dfmpc_onnx.inputs.samples import Samples, check_images
from dfmpc_onnx.inputs.spec import InputSpec, InputSpecs
from dfmpc_onnx.model.resource_limits import check_claims
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.model.unbounded_loops import check_loops
from dfmpc_onnx.pipeline.facts import Normalized
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.session import Session

MOST_CHECKED, FEWEST_CHECKED = 64, 16  # inputs that are made to compare networks on
WORK_OF_MOST = 25e6 * 3 * 224 * 224  # bytes of a model times values of an input, above which they become fewer
CHECK_SEED = 1_000_000


def check_count(source: Source, inputs: InputSpecs) -> int:
    """On how many inputs networks are compared: fewer where a run takes long, by the size of the model and its input.

    By sizes and not by time, so that the same files give the same figures.
    """
    values = sum(math.prod(spec.resolved or ()) // (spec.batch or 1) for spec in inputs)
    work = max(source.size * values, 1)
    return int(np.clip(MOST_CHECKED * WORK_OF_MOST / work, FEWEST_CHECKED, MOST_CHECKED))


OutputKinds = tuple[frozenset[str], Mapping[str, ScoreChannels], frozenset[str]]


def output_kinds(model: onnx.ModelProto) -> OutputKinds:
    """What `compare` must know of a model's outputs: which are chosen by values, hold scores, and hold no classes."""
    return chosen_outputs(model), score_channels(model), outputs_without_classes(model)


def check_limits(source: Source, inputs: InputSpecs) -> None:
    """Raise ModelError where a run on inputs of their shapes would take more memory than there is, or no end."""
    check_claims(source.model, inputs.shapes, source.label)
    check_loops(source.model, source.label)


def check_source(source: Source, settings: Settings, inputs: InputSpecs) -> None:
    """Raise ModelError where onnxruntime cannot run the float model either: then the fault is not ours."""
    try:
        session, said = reference_session(source, settings, inputs)
    except RuntimeUnavailable:
        return  # nobody to ask
    if session is None:
        raise ModelError(said)
    try:
        found = check_images(inputs, settings.seed, 1)
    except ModelError:
        return  # nothing to ask with
    if isinstance(found, Samples):
        with assumptions_named(source, inputs):
            session.run(first_feeds(session, found))
        return
    (spec,) = inputs
    x = found.x.astype(SessionInput.of(session).dtype)
    with assumptions_named(source, inputs):
        session.run({spec.name: np.repeat(x, spec.batch or 1, axis=0)})
    if spec.batch is None:
        try:
            session.run({spec.name: np.repeat(x, 2, axis=0)})
        except ModelError as error:
            raise ModelError(
                f"{error}: two images at once, which its input allows; export it for one at a time"
            ) from None


@contextlib.contextmanager
def assumptions_named(source: Source, inputs: InputSpecs) -> Iterator[None]:
    """Where the float model does not run within the block, its CannotRun says which sizes were assumed, if any."""
    try:
        yield
    except CannotRun as error:
        assumed = [spec for spec in inputs if spec.is_assumed]
        if not assumed:
            raise
        taken = ", ".join(f"input '{shown(s.name)}' {_stated(s)} taken as {_by(s.shape)}" for s in assumed)
        options = " ".join(f"--input-shape '{shown(s.name)}:{_by(s.example)}'" for s in assumed)
        cause = str(error).removeprefix(f"{source.label}: ")
        raise CannotRun(
            f"{source.label}: it does not run with {taken}; give a real size, such as {options} ({cause})"
        ) from None


def _stated(spec: InputSpec) -> str:
    return f"[{', '.join('?' if d is None else shown(str(d)) for d in spec.stated or ())}]"


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def reference_session(source: Source, settings: Settings, inputs: InputSpecs) -> tuple[Session | None, str]:
    """A session of the float model, and why it is not that of the file itself.

    What onnxruntime cannot run as it stands, such as an old opset, it may run once it has been normalized.
    """
    try:
        return Session(source.path or source.model, label=source.label), ""
    except ModelError as error:
        said = str(error)
    workspace = Workspace(to_graph(source), settings, source.label, inputs)
    try:
        PassManager(catalog.passes_up_to(Normalized)).run(workspace)
        return Session(to_model(workspace.graph), label=source.label), said
    except ModelError:
        return None, said
