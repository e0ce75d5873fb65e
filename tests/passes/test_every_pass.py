"""What holds for every pass, ours or a stranger's."""

import inspect
import re

import numpy as np
import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs

HEADINGS = ("Before:", "After:", "Why:", "Requires:", "Refuses when:", "Reference:")
FLOAT_PASSES = [step.name for step in graphs.pipeline("raise_opset")]


@pytest.mark.parametrize("name", sorted(catalog.passes()))
def test_the_docstring_has_every_heading_in_order(name):
    text = inspect.getdoc(catalog.passes()[name])
    at = [m.start() if (m := re.search(f"^{heading} \\S", text, re.MULTILINE)) else -1 for heading in HEADINGS]
    assert -1 not in at, f"{name} lacks {HEADINGS[at.index(-1)]}"
    assert at == sorted(at)


@pytest.mark.parametrize("name", sorted(catalog.passes()))
def test_the_name_is_that_of_its_file(name):
    assert catalog.passes()[name].__module__.rpartition(".")[2] == name


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_the_float_network_runs_after_every_pass_until_insert_qdq(network):
    model = graphs.ALL[network]()
    want = graphs.run(model)

    class Runs:
        seen = ()

        def before(self, name, workspace):
            pass

        def after(self, name, workspace, result):
            got = graphs.run(workspace.graph, graphs.input_of(model))
            assert [a.shape for a in got] == [a.shape for a in want]
            assert all(np.isfinite(a).all() for a in got)
            self.seen = (*self.seen, name)

    watch = Runs()
    PassManager(graphs.pipeline("raise_opset"), (watch,)).run(graphs.workspace(model))
    assert list(watch.seen) == FLOAT_PASSES


@pytest.mark.parametrize("activations", ["8", "none"])
@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_at_eight_bits_the_whole_pipeline_stays_close_to_the_float_network(network, activations):
    model = graphs.ALL[network]()
    space, _ = graphs.prepared(model, "pack_weights", weights="8", activations=activations)
    assert graphs.relative(graphs.run(space.graph, graphs.input_of(model)), graphs.run(model)) < 0.06


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_the_same_model_gives_the_same_bytes_and_is_left_alone(network):
    model = graphs.ALL[network]()
    before = model.SerializeToString(deterministic=True)
    first, second = (graphs.snapshot(graphs.prepared(model, "pack_weights")[0].graph) for _ in range(2))
    assert first == second
    assert model.SerializeToString(deterministic=True) == before
