"""What each width of a weight takes in the file: codes in their cheapest form, scales, zero points, nodes, names.

Figures are those of `pack_weights`: its forms, its nodes. What layers share cannot stand in a table of one row each:
decoding tables, and the opset that the widest forms of others bring; `shared_bytes` gives it for one setting of all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from dfmpc_onnx.numerics.codebook import CODE_BITS, Codebook
from dfmpc_onnx.numerics.grids import ASYMMETRIC_BITS
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, Layer, Layers, Sensitivity
from dfmpc_onnx.pipeline.measured_noise import NOT_MEASURED, MeasuredNoise
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY
from dfmpc_onnx.pipeline.weight_plan import FLOAT_BITS, PlanRow, PlanTable, Width, bits_of
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.code_formats import (
    CONSTANT_BYTES,
    FIRST_WITH_INT8_ARITHMETIC,
    NODE_BYTES,
    Form,
    Kind,
    cheapest_form,
    choose_forms,
    opset_for,
)
from dfmpc_onnx.quantization.codebook_tables import BLOCKS, blocks_that_pay, run_of

HEADER_BYTES = 16  # of an initializer beside its name and values
DEQUANTIZE_BYTES = 62  # a DequantizeLinear with its axis; its zero point is shared
QDQ_BYTES = 210  # a QuantizeLinear, a DequantizeLinear, their scale and zero point
METADATA_BYTES = 1200


def kind_of(weights: int, width: Width, reduced: bool = False, run: int = 0) -> Kind:
    """The kind of code that so many weights have at a width other than float. reduced: 7 bits in place of 8.

    run: how many an output channel has where the layer takes codebooks: then they are what is counted where there is
    one of that width, since it seldom loses more than levels do. 0 where it takes none.
    """
    if run and width in BLOCKS:
        return Kind(weights, CODE_BITS, book=Codebook.nominal(BLOCKS[width]), run=run)
    ternary = width in (TERNARY, 1.6)
    bits = 2 if ternary else int(width)
    return Kind(weights, 7 if reduced and bits == 8 else bits, ternary)


def layer_bytes(
    layers: Sequence[Layer], width: Width, opset: int, integer: bool, reduced: bool = False, *, blocks: bool = True
) -> int:
    """Bytes of one weight at a width, and of what each of the layers that read it needs beside it.

    opset: whose types it may have. integer: whether the layers compute in integers. blocks: whether its codes are
    blocks of a codebook where it can take one of that width.
    """
    first = layers[0]
    if width == FLOAT:
        return 4 * first.size + len(first.weight) + HEADER_BYTES
    run = run_of(first) if blocks else 0
    kind = kind_of(first.size, width, reduced, run)
    form = cheapest_form(kind, opset)
    channels = first.channels or 1
    name = 2 * len(first.weight)
    found = form.bytes(kind.size) + form.overhead(kind.size, opset) + name + HEADER_BYTES + 12
    if has_zero_point(width, run):
        each = 4 if not integer or opset < FIRST_WITH_INT8_ARITHMETIC else 1
        found += each * channels + name + 10 + HEADER_BYTES + NODE_BYTES
    end = DEQUANTIZE_BYTES if integer else NODE_BYTES + (NODE_BYTES if form.overhead(1, opset) == 0 else 0)
    return found + len(layers) * (4 * channels + name + 12 + HEADER_BYTES + end)


def shared_bytes(table: PlanTable, widths: Sequence[Width]) -> int:
    """What one setting takes beside the sum of its rows: decoding tables, forms that pay by themselves alone, and zero
    points of 4 bytes where no row brings an opset that subtracts in INT8."""
    pairs = [(row, width) for row, width in zip(table.rows, widths, strict=True) if width != FLOAT]
    kinds = {row.layers[0]: kind_of(row.weights, width, run=row.run_at(width)) for row, width in pairs}
    if not kinds:
        return 0
    chosen = choose_forms(kinds, table.opset)
    final = min(opset_for(chosen.values()), table.opset)
    if final != table.opset:
        chosen = choose_forms(kinds, final)
    tables = frozenset[Codebook]().union(*(form.tables for form in chosen.values()))
    found = sum(len(table.raw) + CONSTANT_BYTES for table in tables)
    for name, kind in kinds.items():
        found += _cost(chosen[name], kind, final) - _cost(cheapest_form(kind, table.opset), kind, table.opset)
    narrow = table.integer and final >= FIRST_WITH_INT8_ARITHMETIC
    for row, width in pairs:
        if has_zero_point(width, row.run_at(width)) and table.integer and not narrow:
            found += 3 * row.channels + NODE_BYTES if table.opset >= FIRST_WITH_INT8_ARITHMETIC else 0
    return found


def perhaps_wider(table: PlanTable, widths: Sequence[Width]) -> list[tuple[int, Width]]:
    """The rows that a decoding table makes narrow, each with the next width: it may take no more bytes without one.

    Codebooks are left out: they are compared as a whole.
    """
    found: list[tuple[int, Width]] = []
    for index, (row, width) in enumerate(zip(table.rows, widths, strict=True)):
        if width == FLOAT or row.run_at(width) or not cheapest_form(kind_of(row.weights, width), table.opset).tables:
            continue
        wider = [own for own in row.widths if own != FLOAT and bits_of(own) > bits_of(width)]
        found += [(index, min(wider, key=bits_of))] if wider else []
    return found


def runs_of_blocks(weights: Mapping[str, tuple[int, Width, int]]) -> dict[str, int]:
    """The runs of weights in a network whose tables they share, 0 of those that take none as their table would not pay.

    weights: by name the size, the width, and the run as in `kind_of`.
    """
    blocks = {name: BLOCKS[width] for name, (_, width, run) in weights.items() if run and width in BLOCKS}
    paying = blocks_that_pay((weights[name][0], weights[name][2], own) for name, own in blocks.items())
    return {name: run if blocks.get(name) in paying else 0 for name, (_, _, run) in weights.items()}


def has_zero_point(width: Width, run: int) -> bool:
    """Whether the levels of a width are not symmetric: each channel then has a zero point. run: as in `kind_of`."""
    if width in (FLOAT, TERNARY, 1.6) or (run and width in BLOCKS):
        return False
    return float(width) <= ASYMMETRIC_BITS


def _cost(form: Form, kind: Kind, opset: int) -> int:
    return form.bytes(kind.size) + form.overhead(kind.size, opset)


def table_of(
    workspace: Workspace, float_bytes: int, other_bytes: int | None = None, noise: MeasuredNoise = NOT_MEASURED
) -> PlanTable:
    """The table of a workspace whose widths are to be planned, from its sensitivities.

    float_bytes: of the float file; 0 where it is not known. other_bytes: what a file that was built takes beside the
    rows; None estimates it. noise: what that file showed. Float comes last in each row.
    """
    found, settings = workspace.get(Sensitivity), workspace.settings
    layers, plan = workspace.get(Layers), workspace.get(BitPlan).layers
    by_name = layers.by_name()
    opset, integer = settings.target.packing_opset, settings.activations != "none"
    rows = []
    for row in found.rows:
        group = [by_name[name] for name in row.layers]
        widths: tuple[Width, ...] = (*(width.bits for width in row.widths), FLOAT)
        blocks = (*(width.blocks for width in row.widths), False)
        run = run_of(group[0])
        rows.append(
            PlanRow(
                row.layers,
                group[0].shape,
                group[0].channels or 1,
                widths,
                (*(width.loss for width in row.widths), 0.0),
                (*(width.damage for width in row.widths), 0.0),
                tuple(
                    layer_bytes(group, width, opset, integer, settings.reduce_range, blocks=own)
                    for width, own in zip(widths, blocks, strict=True)
                ),
                tuple(run if own and width in BLOCKS else 0 for width, own in zip(widths, blocks, strict=True)),
            )
        )
    planned = {name for row in rows for name in row.layers}
    others = [layer for layer in layers.with_nested if layer.name not in planned]
    bits = sum(layer.size * stored_bits(layer.size, plan[layer.name].bits, opset, run_of(layer)) for layer in others)
    weights = sum(layer.size for layer in others)
    if other_bytes is None:
        other_bytes = estimated_other_bytes(workspace, others)
    return PlanTable(
        tuple(rows),
        other_bytes,
        weights,
        bits,
        found.floor,
        opset,
        integer,
        float_bytes,
        found.estimator,
        found.inputs,
        noise,
    )


def with_built_forms(table: PlanTable, widths: Sequence[Width], workspace: Workspace) -> PlanTable:
    """The table whose rows say at these widths what the file has that a workspace became: blocks of a codebook, or
    levels. Which of the two loses less is an estimate until a weight is rounded."""
    codes, by_name = workspace.get(Codes).weights, workspace.get(Layers).by_name()
    rows = []
    for row, width in zip(table.rows, widths, strict=True):
        weight, group = codes.get(row.layers[0]), [by_name[name] for name in row.layers]
        run = run_of(group[0]) if weight is not None and weight.book is not None else 0
        if weight is not None and width in BLOCKS and run != row.run_at(width):
            reduced, at = workspace.settings.reduce_range, row.widths.index(width)
            size = layer_bytes(group, width, table.opset, table.integer, reduced, blocks=run > 0)
            runs = row.runs or (0,) * len(row.widths)
            sizes = (*row.sizes[:at], size, *row.sizes[at + 1 :])
            row = dataclasses.replace(row, sizes=sizes, runs=(*runs[:at], run, *runs[at + 1 :]))
        rows.append(row)
    return dataclasses.replace(table, rows=tuple(rows))


def estimated_other_bytes(workspace: Workspace, others: Sequence[Layer]) -> int:
    """About what the file takes beside the rows of a table: a guess by the graph, good to some nodes.

    others: the layers that are in no row. Biases have one value a channel; BatchNormalizations become part of layers.
    """
    settings, plan = workspace.settings, workspace.get(BitPlan).layers
    opset, integer = settings.target.packing_opset, settings.activations != "none"
    layers = workspace.get(Layers)
    weights = {layer.weight for layer in layers.all}
    norms = {layer.batch_norm for layer in layers.all if layer.batch_norm is not None}
    found = METADATA_BYTES
    for node in workspace.graph.nodes:
        if node.name not in norms:
            names = sum(len(tensor.name) for tensor in (*node.inputs, *node.outputs))
            found += names + len(node.name) + NODE_BYTES // 2
    for name, tensor in workspace.graph.tensors().items():
        values = getattr(tensor, "values", None)
        if values is not None and name not in weights and not any(name.startswith(norm) for norm in norms):
            found += int(values.nbytes) + len(name) + HEADER_BYTES
    if integer:
        found += QDQ_BYTES * (len(layers.quantizable) + 1) * 3 // 2
    for layer in others:
        found += layer_bytes([layer], plan[layer.name].bits, opset, integer, settings.reduce_range)
    return found


def stored_bits(weights: int, width: Width, opset: int, run: int) -> float:
    """Bits that each of so many weights takes in the file: more than its width where packing would not pay. run: as in
    `kind_of`."""
    return bits_of(width) if width == FLOAT else cheapest_form(kind_of(weights, width, run=run), opset).bits


def mean_bits(table: PlanTable, widths: Sequence[Width]) -> float:
    """Mean bits of all weights of a network, those outside the table included."""
    pairs = zip(table.rows, widths, strict=True)
    chosen = sum(row.weights * stored_bits(row.weights, width, table.opset, row.run_at(width)) for row, width in pairs)
    weights = table.other_weights + sum(row.weights for row in table.rows)
    return (chosen + table.other_bits) / weights if weights else float(FLOAT_BITS)


def predicted_bytes(table: PlanTable, widths: Sequence[Width]) -> int:
    """Bytes of the whole file with these widths."""
    pairs = list(zip(table.rows, widths, strict=True))
    own = sum(row.sizes[row.widths.index(width)] for row, width in pairs)
    return table.other_bytes + own + shared_bytes(table, widths)
