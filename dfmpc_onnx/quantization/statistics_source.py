"""Statistics of a workspace's graph, by the name of the engine that a recipe chose."""

from __future__ import annotations

import dataclasses

from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.statistics.batch_axis import statistics_batch
from dfmpc_onnx.statistics.engines import Request, StatisticsSource, registration


def statistics_source(
    workspace: Workspace, name: str, images: int, *, made: bool = False, other_seed: int = 0
) -> StatisticsSource:
    """images: how many, 0 to let their size decide. made: whether inputs are made from the seed, whatever the user
    gives, where their scale is known. other_seed: added to that of the run, for inputs that no statistics have seen.

    Raises ValueError where no engine has that name.
    """
    graph, inputs, seed = workspace.graph, workspace.inputs, workspace.settings.seed + other_seed
    if made and not inputs.unknown:
        inputs = dataclasses.replace(inputs, images=None)
    request = Request(graph, inputs, seed, lambda: statistics_batch(graph, inputs, seed, images))
    return registration(name).prepare(request)
