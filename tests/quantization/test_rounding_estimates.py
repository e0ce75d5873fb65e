"""What is estimated of rounding from some channels, against the rounding of all."""

import numpy as np
import pytest

from dfmpc_onnx.numerics.block_rounding import BlockRounder
from dfmpc_onnx.pipeline.facts import BitPlan, Layers
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.quantization import rounding_estimates
from dfmpc_onnx.quantization.codebook_tables import BLOCKS, NetworkTables, takes_codebooks
from dfmpc_onnx.quantization.layer_rebuilder import ReconstructLayersOptions
from dfmpc_onnx.quantization.rounding_estimates import CHANNELS_ON_BLOCKS, RoundingEstimates
from dfmpc_onnx.quantization.statistics_source import statistics_source
from dfmpc_onnx.quantization.width_losses import ROUNDED_WIDTHS, WidthLosses
from dfmpc_onnx.statistics.walk import walk
from tests import graphs


@pytest.fixture
def tasks(monkeypatch):
    """Of the layers of a network, those that may take blocks, by name."""
    monkeypatch.setattr(NetworkTables, "serves", lambda self, layer, blocks: takes_codebooks(layer))
    net = graphs.Net(("n", 3, 8, 8))
    x = net.relu(net.block(net.relu(net.block("x", 24)), 3 * CHANNELS_ON_BLOCKS + 5))
    space = graphs.workspace(net.model(net.tail(net.relu(net.block(x, 40)), 10)))
    PassManager(graphs.pipeline("assign_bits", "mixed")).run(space)
    found = {}

    class Tasks(WidthLosses):
        def layer(self, node, moments_of, known):
            found[node.name] = self.task(node, moments_of, known, None)

    layers, plan = space.get(Layers).by_name(), dict(space.get(BitPlan).layers)
    visitor = Tasks(space, ReconstructLayersOptions(), dict(layers), plan, (3, 4))
    walk(space.graph, statistics_source(space, "images", 0).engine(), visitor, frozenset(layers))
    return {name: task for name, task in found.items() if task.takes(BLOCKS[2])}


def test_losses_in_blocks_are_those_of_all_channels_within_a_few_percent(tasks):
    assert any(task.target.shape[1] > CHANNELS_ON_BLOCKS for task in tasks.values())
    for task in tasks.values():
        some, whole = (RoundingEstimates(task, widths).by_width() for widths in ((), ROUNDED_WIDTHS))
        for width in BLOCKS:
            assert some[width].lost == pytest.approx(whole[width].lost, rel=0.1)


def test_channels_that_are_all_rounded_make_the_exact_loss(tasks, monkeypatch):
    monkeypatch.setattr(rounding_estimates, "CHANNELS_ON_BLOCKS", 1000)
    for task in tasks.values():
        some, whole = (RoundingEstimates(task, widths).by_width() for widths in ((), ROUNDED_WIDTHS))
        assert some == whole


def test_a_weight_that_was_rounded_in_full_comes_in_the_form_that_loses_least(tasks):
    for task in tasks.values():
        estimates = RoundingEstimates(task, (3,))
        rows, lost = estimates.rounded(3)
        blocks = BlockRounder(task.target, task.moments.hat).estimate(task.tables.of(BLOCKS[3]))
        assert lost == min(estimates.lost_on_levels(3), task.measure.share(blocks.error))
        assert rows.shape == task.target.shape and lost == estimates.by_width()[3].lost
        assert estimates.rounded(4)[1] == estimates.lost_on_levels(4)
        assert np.isfinite(rows).all()
