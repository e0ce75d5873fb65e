"""Recipes and files written by 0.1 name passes that have other names now; both still load."""

import json

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.errors import RecipeError
from dfmpc_onnx.pipeline.manager import Pass
from dfmpc_onnx.pipeline.recipe_file import parse_recipe
from tests.commands import dfmpc
from tests.graphs import chain

# As `dfmpc-onnx recipes int4` of 0.1 printed it.
RECIPE = """\
# Four bits everywhere but in the first layer and the classifier.
summary = "4-bit weights, 8-bit activations: as mixed, at one width"
weights = "4"
activations = "8"

[[passes]]
use = "normalize"

[[passes]]
use = "pair_convolutions"

[[passes]]
use = "balance_channels"

[[passes]]
use = "estimate_statistics"

[[passes]]
use = "assign_bits"
edges = 8
folded = "low"

[[passes]]
use = "reconstruct_layers"

[[passes]]
use = "estimate_ranges"

[[passes]]
use = "spread_channels"

[[passes]]
use = "spare_layers"

[[passes]]
use = "fold_batch_norm"

[[passes]]
use = "fold_batch_norm_forward"

[[passes]]
use = "batch_norm_to_conv"

[[passes]]
use = "raise_opset"

[[passes]]
use = "exempt_activations"

[[passes]]
use = "insert_qdq"

[[passes]]
use = "pack_weights"
"""
# The metadata entry of a file that 0.1 made with it.
PASSES = (
    '["normalize","pair_convolutions","balance_channels","estimate_statistics",'
    '{"assign_bits":{"edges":8,"folded":"low"}},"reconstruct_layers","estimate_ranges","spread_channels",'
    '"spare_layers","fold_batch_norm","fold_batch_norm_forward","batch_norm_to_conv","raise_opset",'
    '"exempt_activations","insert_qdq","pack_weights"]'
)
SINCE = {
    "equalize_channels",
    "equalize_for_one_scale",
    "equalize_gates",
    "fold_for_one_scale",
    "fold_scales",
    "halve_floats",
    "integer_gates",
    "keep_scores_float",
    "keep_slow_layers_float",
    "limit_pair_sums",
    "measure_sensitivity",
    "plan_bits",
}
METADATA = {"version": "0.1.0", "recipe": "int4", "weights": "4", "activations": "8", "passes": PASSES}


def as_made(recipe):
    """What 0.1 knew of a recipe: without the passes that have come since."""
    return [(step.use, step.options) for step in recipe.steps if step.use not in SINCE]


def test_a_recipe_of_0_1_is_the_recipe_of_today_with_a_note(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text(RECIPE)
    recipe = catalog.find_recipe(str(path))
    assert as_made(recipe) == as_made(catalog.find_recipe("int4"))
    assert recipe.notes == (
        f"{path}:32: pass spare_layers is called keep_layers_float now",
        f"{path}:47: pass exempt_activations is called keep_activations_float now",
    )


def test_it_gives_the_same_network_and_the_note_is_a_warning_no_error(tmp_path):
    (tmp_path / "old.toml").write_text(RECIPE)
    old, new = (dfmpc_onnx.quantize(chain(), recipe=name) for name in (str(tmp_path / "old.toml"), "int4"))
    assert old.model.graph == new.model.graph
    said = [warning for warning in old.report.warnings if warning not in new.report.warnings]
    assert len(said) == 2 and all("is called keep_" in warning for warning in said)


def test_a_recipe_that_extends_may_use_the_old_names(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "mixed"\nwithout = ["exempt_activations"]\n')
    assert "keep_activations_float" not in [s.use for s in catalog.find_recipe(str(tmp_path / "mine.toml")).steps]


def test_a_recipe_made_in_python_may_use_them_too():
    built = catalog.build(parse_recipe(RECIPE, "old", "old.toml"))
    assert [step.name for step in built][8::5] == ["keep_layers_float", "keep_activations_float"]
    assert dfmpc("passes", "spare_layers").stdout == dfmpc("passes", "keep_layers_float").stdout


@pytest.fixture
def file_of_0_1(tmp_path):
    model = dfmpc_onnx.quantize(chain(), recipe="int4", check=False).model
    onnx.helper.set_model_props(model, {f"dfmpc_onnx.{key}": value for key, value in METADATA.items()})
    onnx.save(model, tmp_path / "old.onnx")
    return tmp_path / "old.onnx"


def test_the_recipe_that_a_file_of_0_1_states_can_be_printed_and_used(file_of_0_1, tmp_path):
    page = dfmpc("recipes", file_of_0_1)
    assert page.exit_code == 0, page.stderr
    (tmp_path / "again.toml").write_text(page.stdout)
    again = catalog.find_recipe(str(tmp_path / "again.toml"))
    assert as_made(again) == as_made(catalog.find_recipe("int4")) and again.notes == ()
    assert (again.weights, again.activations) == ("4", "8")
    assert dfmpc_onnx.inspect(file_of_0_1).metadata["passes"].startswith("[")


def test_a_file_of_today_states_the_recipe_in_full_with_its_fallback(tmp_path):
    out = tmp_path / "out.onnx"
    dfmpc_onnx.quantize(chain(), out, recipe="closed-form", check=False)
    stated = {p.key: p.value for p in onnx.load(out).metadata_props}["dfmpc_onnx.passes"]
    (step,) = (item["reconstruct_layers"] for item in json.loads(stated) if "reconstruct_layers" in item)
    assert step["fallback"][0] == {"quantize_weights": {"ternary": "optimal"}}
    assert 'use = "quantize_weights"' in dfmpc("recipes", out).stdout


def test_a_file_that_states_none_is_a_mistake_in_one_line(tmp_path):
    onnx.save(chain(), tmp_path / "float.onnx")
    result = dfmpc("recipes", tmp_path / "float.onnx")
    assert result.exit_code == 2 and "states no recipe" in result.stderr


@pytest.mark.parametrize("stated", ["", "[3]", '[{"a": 1}]', "[{}]", '[{"a": {"fallback": 3}}]', '[{"a": ' * 9999])
def test_a_file_that_states_nonsense_is_one_line_too(file_of_0_1, stated):
    model = onnx.load(file_of_0_1)
    next(p for p in model.metadata_props if p.key == "dfmpc_onnx.passes").value = stated
    onnx.save(model, file_of_0_1)
    result = dfmpc("recipes", file_of_0_1)
    assert result.exit_code == 2 and "states no recipe" in result.stderr


def test_no_strangers_pass_takes_a_former_name(monkeypatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **query: [Entry()])
    catalog.passes.cache_clear()
    with pytest.raises(RecipeError, match="a pass named spare_layers exists already"):
        catalog.passes()
    monkeypatch.undo()
    catalog.passes.cache_clear()


class Entry:
    name, value, dist = "spare", "m:Spare", None

    def load(self):
        return type("Spare", (Pass,), {"name": "spare_layers"})
