"""What integers in an island of float would cost the outputs, by rounding its activations on generated inputs."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from dfmpc_onnx.errors import DfmpcError
from dfmpc_onnx.evaluation.closed_twin import rounded_in_twin
from dfmpc_onnx.evaluation.matched_tensors import with_outputs
from dfmpc_onnx.evaluation.rounding_switches import ToggledRounding
from dfmpc_onnx.graph.exchange import to_graph, to_model
from dfmpc_onnx.inputs.batches import free_batch
from dfmpc_onnx.inputs.spec import InputSpecs
from dfmpc_onnx.model.source import Source, load
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.session import Feeds, Session, optimized_model
from dfmpc_onnx.statistics.batch_axis import statistics_batch

IMAGES_IN_ISLANDS = 4
STEPS_OF_8_BITS = 255  # between the ends of a range


def island_costs(
    source: Source, settings: Settings, inputs: InputSpecs, islands: Sequence[Collection[str]]
) -> list[float | None]:
    """Of each island, the share of the output that suffers most which is error where it alone is rounded, 0 to 1.

    islands: names of the tensors that the nodes of each make. Ranges are what the tensors hold on the same inputs. The
    weights of a quantized file have codes already, and so may all that an island reads and gives: then it costs
    nothing. None where nothing can be compared.
    """
    unknown: list[float | None] = [None] * len(islands)
    try:
        graph = to_graph(load(optimized_model(source.path or source.model, source.label, fused=False)))
        feeds = statistics_batch(graph, inputs, settings.seed, IMAGES_IN_ISLANDS).first(IMAGES_IN_ISLANDS).feeds
        names = [rounded_in_twin(graph, made) for made in islands]
        scales = _scales(graph, dict.fromkeys(itertools.chain(*names)), inputs, feeds)
        parts = [[name for name in part if name in scales] for part in names]
        groups = [part for part in parts if part]
        costs = iter(_costs(Workspace(graph, settings, source.label, inputs), scales, groups, feeds) if groups else ())
        return [next(costs) if part else None if wanted else 0.0 for part, wanted in zip(parts, names, strict=True)]
    except DfmpcError:  # what onnxruntime makes of a file need not be a valid one, and no figure is worth a stop
        return unknown


def _costs(
    workspace: Workspace, scales: Mapping[str, np.float32], groups: Sequence[Collection[str]], feeds: Feeds
) -> list[float | None]:
    network = ToggledRounding(workspace, scales, groups, feeds)
    if not network.comparable:
        return [None] * len(groups)
    every = [network.losses([number]) for number in range(len(groups))]
    return [max((loss.share_of_variance for loss in losses), default=0.0) for losses in every]


def _scales(graph: gs.Graph, names: Collection[str], inputs: InputSpecs, feeds: Feeds) -> Mapping[str, np.float32]:
    """The step of 8 bits from the least to the greatest value, with 0 in between, of those that are finite floats."""
    given = {name: np.asarray(feeds[name]) for name in names if name in feeds}
    wanted = [name for name in names if name not in feeds]
    model = with_outputs(to_model(graph), wanted)
    free_batch(model, {spec.name for spec in inputs if spec.batch is not None})
    found = dict(zip(wanted, Session(model, label="the network").run(feeds, wanted), strict=True)) if wanted else {}
    scales = {}
    for name, values in {**given, **found}.items():
        if values.dtype != np.float32 or not values.size or not np.isfinite(values).all():
            continue
        reach = max(float(values.max()), 0.0) - min(float(values.min()), 0.0)
        if reach > 0:
            scales[name] = np.float32(reach / STEPS_OF_8_BITS)
    return scales
