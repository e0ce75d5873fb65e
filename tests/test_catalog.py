import importlib.metadata

import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import RecipeError
from dfmpc_onnx.graph import operators
from dfmpc_onnx.pipeline.facts import Ranges
from dfmpc_onnx.pipeline.manager import Pass, PassManager, PassResult
from tests import graphs


class RoundScales(Pass):
    name = "round_scales"

    def run(self, workspace):
        return PassResult(self.name)


class Impostor(Pass):
    name = "normalize"

    def run(self, workspace):
        return PassResult(self.name)


NOT_A_PASS = 3


@pytest.fixture
def stranger(monkeypatch):
    """Makes an entry point of another distribution known."""

    def install(value, name="round_scales"):
        entry = importlib.metadata.EntryPoint(name, value, catalog.ENTRY_POINT)
        points = importlib.metadata.EntryPoints([entry])
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda **query: points.select(**query))
        catalog.passes.cache_clear()

    yield install
    monkeypatch.undo()
    catalog.passes.cache_clear()


def test_a_strangers_pass_stands_beside_ours(stranger):
    stranger(f"{__name__}:RoundScales")
    assert catalog.find_pass("round_scales") is RoundScales
    assert "normalize" in catalog.passes()


def test_a_recipe_can_use_it(stranger, tmp_path):
    stranger(f"{__name__}:RoundScales")
    path = tmp_path / "mine.toml"
    path.write_text('summary = "s"\nweights = "8"\n[[passes]]\nuse = "normalize"\n[[passes]]\nuse = "round_scales"\n')
    results = PassManager(catalog.build(catalog.find_recipe(str(path)))).run(graphs.workspace(graphs.chain()))
    assert [r.name for r in results] == ["normalize", "round_scales"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (f"{__name__}:NOT_A_PASS", "is no subclass of dfmpc_onnx.Pass"),
        (f"{__name__}:Impostor", "a pass named normalize exists already; give it another name"),
        (f"{__name__}:Nothing", r"cannot be imported \(AttributeError"),
        ("no_such_module_anywhere:Pass", r"cannot be imported \(ModuleNotFoundError"),
    ],
)
def test_one_that_cannot_be_used_is_refused_naming_its_entry_point(stranger, value, said):
    stranger(value)
    with pytest.raises(RecipeError, match=f"entry point round_scales of .*{said}"):
        catalog.passes()


def test_every_recipe_that_ships_is_in_an_order_that_can_run():
    assert {"paper", "closed-form", "int8"} <= set(catalog.recipes())
    for name in catalog.recipes():
        PassManager(catalog.build(catalog.find_recipe(name))).check()


def test_an_unknown_name_lists_those_there_are():
    with pytest.raises(
        RecipeError, match=r"pass 'nomalize': no such pass \(did you mean normalize\?\); `dfmpc-onnx passes` lists"
    ):
        catalog.find_pass("nomalize")
    with pytest.raises(
        RecipeError,
        match=r"recipe 'papper': no such recipe \(did you mean paper\?\); give one of .*paper, .* or a",
    ):
        catalog.find_recipe("papper")


def test_control_characters_in_a_name_are_not_echoed():
    with pytest.raises(RecipeError) as caught:
        catalog.find_recipe("\x1b[31mred")
    assert "\x1b" not in str(caught.value)


SAYS_WHAT_SWISH_IS = """
import numpy as np

from dfmpc_onnx.graph.operators import Meaning, register
from tests.test_catalog import RoundScales

__all__ = ["RoundScales"]


def swish(node):
    return lambda x: x / (1 + np.exp(-x))


register("strangers.ops", "Swish", 1, Meaning(function=swish, bounds=(-0.3, np.inf)))
"""


def test_a_strangers_package_says_what_its_operators_mean(stranger, tmp_path, monkeypatch):
    """Its module is imported before the first pass runs."""
    monkeypatch.setattr(operators, "_registry", dict(operators._registry))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "strangers_operators.py").write_text(SAYS_WHAT_SWISH_IS)
    stranger("strangers_operators:RoundScales")
    net = graphs.Net()
    x = net.node("Swish", net.norm(net.conv("x", 8)), domain="strangers.ops")
    net.channels[x] = 8
    model = net.model(net.tail(net.block(x, 8)))
    low, high = graphs.prepared(model, "estimate_ranges")[0].get(Ranges).tensors["swish1"]
    assert low >= -0.3 and high > 1


def test_a_recipe_that_ships_is_read_once_and_whoever_changes_it_changes_his_own(monkeypatch):
    first = catalog.find_recipe("int8")
    monkeypatch.setattr(catalog, "resolve", None)
    first.steps[0].options["mine"] = 1
    assert "mine" not in catalog.find_recipe("int8").steps[0].options
