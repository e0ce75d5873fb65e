"""What widths take in the file, against files that are written."""

from __future__ import annotations

import dataclasses

import pytest

import dfmpc_onnx
from dfmpc_onnx.pipeline.facts import BitPlan, Codes, Layers, LayerSensitivity, Sensitivity
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.settings import FLOAT, TERNARY
from dfmpc_onnx.pipeline.weight_plan import PlanTable, Width
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.quantization.budget_planner import plan_of, with_other_bytes
from dfmpc_onnx.quantization.codebook_tables import BLOCKS, takes_codebooks
from dfmpc_onnx.quantization.storage_costs import layer_bytes, mean_bits, predicted_bytes, table_of, with_built_forms
from tests import graphs
from tests.commands import ROOT
from tests.quantization.tables import row


class Keep:
    """The workspace that passes ran in."""

    workspace: Workspace

    def before(self, name, workspace):
        self.workspace = workspace

    def after(self, name, workspace, result):
        pass


def built(name: str, weights: str, *layers: str) -> tuple[Workspace, int]:
    """A quantized network of models/: its workspace, and the bytes of the file."""
    keep = Keep()
    model = str(ROOT / "models" / f"{name}.onnx")
    quantized = dfmpc_onnx.quantize(model, weights=weights, layers=layers, check=False, instruments=[keep], threads=1)
    return keep.workspace, quantized.report.bytes


def table_and_widths(workspace: Workspace) -> tuple[PlanTable, tuple[Width, ...]]:
    """A table of all layers, and the widths that they have."""
    layers = workspace.get(Layers).quantizable
    codes = workspace.get(Codes).weights
    of = {n: TERNARY if w.ternary else w.width for n, w in codes.items()}
    levels = {name: of[name] for name, weight in codes.items() if weight.book is None}
    rows: list[LayerSensitivity] = [
        row([layer.name], 1.0, blocks=takes_codebooks(layer), levels_at=levels.get(layer.name)) for layer in layers
    ]
    workspace.put(Sensitivity(tuple(rows), "by hand", "no inputs"))
    return table_of(workspace, 0), tuple(of.get(layer.name, FLOAT) for layer in layers)


@pytest.mark.parametrize("name", ["resnet20_cifar10", "mobilenetv3_cifar10.folded"])
def test_one_file_tells_the_size_of_the_others_within_a_percent(name: str) -> None:
    first, size = built(name, "6")
    table, widths = table_and_widths(first)
    table = with_other_bytes(table, plan_of(table, widths), size)
    assert predicted_bytes(table, widths) == size
    for weights, *layers in (["2"], ["3"], ["8"], ["ternary/5"], ["4", "*1*=7", "*0*=2"]):
        workspace, size = built(name, weights, *layers)
        other, widths = table_and_widths(workspace)  # its rows say where codes are blocks
        other = dataclasses.replace(other, other_bytes=table.other_bytes)
        assert predicted_bytes(other, widths) == pytest.approx(size, rel=0.01)
        on_levels = dataclasses.replace(other, rows=tuple(dataclasses.replace(row, runs=()) for row in other.rows))
        learnt = with_built_forms(on_levels, widths, workspace)
        pairs = zip(learnt.rows, other.rows, widths, strict=True)
        assert all(own.run_at(width) == row.run_at(width) for own, row, width in pairs if width in BLOCKS)


def layers_of(model) -> list:
    space = graphs.workspace(model, "8")
    PassManager(graphs.pipeline("assign_bits")).run(space)
    return list(space.get(Layers).all)


def test_a_bit_more_takes_more_bytes_where_a_weight_is_large() -> None:
    net = graphs.Net()
    layer = layers_of(net.model(net.tail(net.block(net.block("x", 128), 128))))[1]
    sizes = [layer_bytes([layer], width, 25, True) for width in (TERNARY, 2, 3, 4, 5, 6, 7, 8, FLOAT)]
    assert sizes == sorted(sizes)
    assert sizes[4] - sizes[3] == pytest.approx(layer.size / 8, rel=0.15)


def test_layers_that_share_a_weight_store_its_codes_once() -> None:
    layer = layers_of(graphs.chain())[1]
    alone, both = (layer_bytes([layer] * count, 4, 25, True) for count in (1, 2))
    assert both - alone < 4 * layer.size / 8
    assert layer_bytes([layer] * 2, FLOAT, 25, True) == layer_bytes([layer], FLOAT, 25, True)


def test_a_target_of_old_types_pays_for_tables() -> None:
    net = graphs.Net()
    space = graphs.workspace(net.model(net.tail(net.block(net.block("x", 64), 64))), "auto")
    PassManager(graphs.pipeline("assign_bits")).run(space)
    names = [layer.name for layer in space.get(Layers).quantizable]
    space.put(Sensitivity(tuple(row([name], 1.0) for name in names), "by hand", "no inputs"))
    table = table_of(space, 0)
    old = dataclasses.replace(table, opset=13)
    six = (6,) * len(names)
    assert predicted_bytes(old, six) > predicted_bytes(table, six)


def test_mean_bits_are_of_all_weights_of_the_network() -> None:
    net = graphs.Net()
    model = net.model(net.tail(net.block(net.block("x", 64), 64), 100))
    space = graphs.workspace(model, "auto", layers=["conv1=8"])
    PassManager(graphs.pipeline("assign_bits")).run(space)
    layers = space.get(Layers).by_name()
    names = [name for name, bits in space.get(BitPlan).layers.items() if bits.role == "auto"]
    space.put(Sensitivity(tuple(row([name], 1.0) for name in names), "by hand", "no inputs"))
    table = table_of(space, 0)
    free = sum(layers[name].size for name in names)
    wanted = (8 * layers["conv1"].size + 4 * free) / (layers["conv1"].size + free)
    assert mean_bits(table, (4,) * len(names)) == pytest.approx(wanted)
