"""The report on a quantization, from what its passes left in the workspace."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable

import msgspec
import onnx

from dfmpc_onnx.evaluation.fidelity import Fidelity
from dfmpc_onnx.evaluation.layer_errors import LayerErrors
from dfmpc_onnx.evaluation.time_trials import LimitJudged
from dfmpc_onnx.inputs.normalization import PreprocessChoice
from dfmpc_onnx.inputs.samples import described_images
from dfmpc_onnx.memory import peak_memory
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, Layers, Packed, Placement
from dfmpc_onnx.pipeline.instruments import Timing
from dfmpc_onnx.pipeline.manager import PassResult
from dfmpc_onnx.pipeline.recipe import Recipe
from dfmpc_onnx.pipeline.settings import FLOAT, Settings
from dfmpc_onnx.pipeline.weight_plan import PlannedWidths, PlanRow, StatedWidths, Width
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.code_formats import PLAIN, oldest_runtime
from dfmpc_onnx.qdq.stored_bits import mean_bits, stored_layers
from dfmpc_onnx.report.schema import LayerReport, PassReport, Report

FIGURES_OF_LAYERS = ("sqnr_db", "error", "own_error", "own_share", "amplification")


def make_report(
    workspace: Workspace,
    recipe: Recipe,
    source: Source,
    size: int,
    results: tuple[PassResult, ...],
    timing: Timing,
    fidelity: Fidelity | None,
    choice: PreprocessChoice,
    notes: tuple[str, ...],
    began: float,
) -> Report:
    """All that a run did, as frozen data. size: bytes of the result; began: by the performance counter."""
    layers = _layer_reports(workspace)
    packed = workspace.find(Packed)
    passes = [PassReport(r.name, round(s, 4), r) for r, (_, s) in zip(results, timing.seconds, strict=True)]
    settings = workspace.settings
    return Report(
        recipe=recipe.name,
        weights=str(settings.weights),
        activations=settings.activations,
        target=settings.target.name,
        preprocess=choice.name,
        preprocess_choice=choice,
        seed=settings.seed,
        opset=workspace.graph.opset,
        oldest_onnxruntime=packed.oldest_runtime if packed else oldest_runtime([PLAIN], workspace.graph.opset),
        float_bytes=source.size,
        bytes=size,
        mean_weight_bits=mean_bits((_stored_bits(layer, packed), layer.weights) for layer in layers),
        layers=layers,
        refusals=tuple(dict.fromkeys(refusal for result in results for refusal in result.refusals)),
        warnings=(
            *recipe.notes,
            *choice.warnings,
            *_advice(settings),
            *(warning for result in results for warning in result.warnings),
            *notes,
        ),
        fidelity=fidelity,
        seconds=round(time.perf_counter() - began, 3),
        passes=tuple(passes),
        peak_bytes=peak_memory(),
        latency=judged.report if (judged := workspace.find(LimitJudged)) else None,
        max_seconds=workspace.deadline.seconds,
        cut_short=workspace.deadline.cuts,
        activation_widths=_activation_widths(workspace),
        model=source.label,
        images=None if workspace.inputs.images is None else described_images(workspace.inputs),
    )


def _activation_widths(workspace: Workspace) -> dict[int, int]:
    """How many quantized activations there are of each number of bits, few bits first."""
    placed = workspace.find(Placement)
    return dict(sorted(Counter(placed.bits.values()).items())) if placed is not None else {}


def with_layer_errors(report: Report, errors: LayerErrors | None) -> Report:
    """The report with what the tensors inside lose, in the rows of the layers too."""
    if errors is None:
        return report
    rows = []
    for layer in report.layers:
        found = errors.of_layer(layer.name)
        figures = {} if found is None else {name: getattr(found, name) for name in FIGURES_OF_LAYERS}
        rows.append(msgspec.structs.replace(layer, **figures))
    return msgspec.structs.replace(report, layers=tuple(rows), layer_errors=errors)


def with_stored_bits(report: Report, model: onnx.ModelProto) -> Report:
    """The report with the bits that the layers of a model have, where it was translated once its weights were packed:
    into nodes of QONNX, which round floats to as few bits as their codes need."""
    held = {layer.name: layer for layer in stored_layers(model) if layer.coded}
    # What a model before this had quantized is a weight here, too, and has the shape that the file says.
    rows = tuple(
        msgspec.structs.replace(row, stored_bits=found.bits, weights=math.prod(found.shape))
        if (found := held.get(row.name))
        else row
        for row in report.layers
    )
    totals = [(held[r.name].total if r.name in held else r.stored_bits * r.weights, r.weights) for r in rows]
    return msgspec.structs.replace(report, layers=rows, mean_weight_bits=mean_bits(totals))


def _stored_bits(layer: LayerReport, packed: Packed | None) -> float:
    """Bits of all weights of a layer; of codes that another layer's name stands for there are no bytes of its own."""
    own = packed.bytes.get(layer.name, 0) if packed is not None else 0
    return 8 * own or layer.stored_bits * layer.weights


def _advice(settings: Settings) -> tuple[str, ...]:
    """What about the options the user may want to reconsider."""
    if settings.activations != "none" and settings.target.activations == "none":
        return (
            f"the {settings.target.name} provider has no integer Conv: 8-bit activations are slower there than float",
        )
    if settings.few_bits is not None:
        return (
            f"onnxruntime has no kernels for {settings.few_bits}-bit activations: what reads them runs in float, no "
            "faster than in the float model",
        )
    return ()


def _layer_reports(workspace: Workspace) -> tuple[LayerReport, ...]:
    """Every layer as it was left; a fact that the recipe's passes did not provide counts as empty."""
    layers, plan = workspace.find(Layers), workspace.find(BitPlan)
    if layers is None or plan is None:
        return ()
    codes = found.weights if (found := workspace.find(Codes)) else {}
    packed = widths.bits if (widths := workspace.find(Packed)) else {}
    integer = placed.integer if (placed := workspace.find(Placement)) else frozenset()
    planned = workspace.find(PlannedWidths) or workspace.find(StatedWidths)
    losses = {} if planned is None else _losses(planned.rows)
    rows = []
    for layer in layers.with_nested:
        bits = plan.layers[layer.name]
        weight = codes.get(layer.name)
        rows.append(
            LayerReport(
                name=layer.name,
                op=layer.op,
                bits=weight.width if weight else 32,
                role=bits.role,
                refused=bits.why if bits.bits == FLOAT else None,
                stored_bits=packed.get(layer.name, 32),
                ternary=weight.ternary if weight else False,
                integer=layer.name in integer and workspace.settings.few_bits is None,
                weights=layer.size,
                why=bits.why,
                refused_code=bits.code if bits.bits == FLOAT else None,
                loss=losses.get(layer.name),
                block=weight.book.length if weight is not None and weight.book is not None else 0,
            )
        )
    return tuple(rows)


def _losses(rows: Iterable[tuple[PlanRow, Width]]) -> dict[str, float]:
    """What the width of each layer was measured to cost the output, a share; layers that share a weight have it once
    each."""
    return {name: row.damages[row.widths.index(width)] for row, width in rows for name in row.layers}
