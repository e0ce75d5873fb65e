"""Statistics of a workspace's graph, by the name of the engine that a recipe chose."""

from __future__ import annotations

import dataclasses

from dfmpc_onnx.inputs.batches import Batch, usual_count
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.pipeline.deadline import ROUNDED
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.image_count import RUNS_OF_A_WALK, images_in_time
from dfmpc_onnx.statistics.batch_axis import statistics_batch
from dfmpc_onnx.statistics.engines import Request, StatisticsSource, registration


def statistics_source(
    workspace: Workspace,
    name: str,
    images: int,
    *,
    made: bool = False,
    recoloured: bool = False,
    other_seed: int = 0,
    share: float = ROUNDED,
    runs: float = RUNS_OF_A_WALK,
) -> StatisticsSource:
    """images: how many, 0 to let their size decide. made: whether inputs are made from the seed, whatever the user
    gives, where their scale is known. recoloured: whether inputs that are made may be corrected by what
    BatchNormalizations know; the user's own are as they are. other_seed: added to that of the run, for inputs that
    no statistics have seen.
    share, runs: as in `images_in_time`.

    Raises ValueError where no engine has that name.
    """
    graph, inputs, seed = workspace.graph, workspace.inputs, workspace.settings.seed + other_seed
    if made and not inputs.unknown:
        inputs = dataclasses.replace(inputs, images=None)
    recoloured = recoloured and inputs.images is None
    request = Request(graph, inputs, seed, lambda: _batch(workspace, inputs, seed, images, share, runs), recoloured)
    return registration(name).prepare(request)


def _batch(workspace: Workspace, inputs: InputSpecs, seed: int, images: int, share: float, runs: float) -> Batch:
    """The inputs of statistics, no more than there is time for."""
    if not workspace.deadline.limited:
        return statistics_batch(workspace.graph, inputs, seed, images)
    if inputs.images is not None:
        found = statistics_batch(workspace.graph, inputs, seed, images)
        return found.first(images_in_time(workspace, found.count, share, runs))
    most = images_in_time(workspace, images or usual_count(inputs) or 1, share, runs)
    return statistics_batch(workspace.graph, inputs, seed, most).first(most)
