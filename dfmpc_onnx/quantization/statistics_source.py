"""Statistics of a workspace's graph, by the name of the engine that a recipe chose."""

from __future__ import annotations

from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.statistics.batch_axis import statistics_batch
from dfmpc_onnx.statistics.engines import Request, StatisticsSource, registration


def statistics_source(workspace: Workspace, name: str, images: int) -> StatisticsSource:
    """images: how many, 0 to let their size decide. Raises ValueError where no engine has that name."""
    graph, inputs, seed = workspace.graph, workspace.inputs, workspace.settings.seed
    request = Request(graph, inputs, seed, lambda: statistics_batch(graph, inputs, seed, images))
    return registration(name).prepare(request)
