"""Options of `quantize` checked before any model is read: for who has many models, and one mistake."""

from __future__ import annotations

from typing import Any

from dfmpc_onnx import catalog
from dfmpc_onnx.api.boundary import ARGUMENTS
from dfmpc_onnx.api.intake import parse_settings, with_budget
from dfmpc_onnx.api.time_limit import check_timed, with_time_limit
from dfmpc_onnx.inputs.image_places import check_place
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE
from dfmpc_onnx.pipeline.settings import WeightBudget


def check_options(**options: Any) -> None:
    """Raise what `quantize` would raise for these options whatever the model is: OptionError or RecipeError."""
    given = {name: ARGUMENTS[name](name, value) if name in ARGUMENTS else value for name, value in options.items()}
    limit = given.get("max_latency")
    recipe = with_time_limit(catalog.find_recipe(given.get("recipe", DEFAULT_RECIPE)), limit)
    catalog.build(recipe)
    names = ("weights", "activations", "images", "reduce_range")
    usual: dict[str, Any] = dict.fromkeys(names) | {"layers": (), "input_shapes": (), "input_ranges": ()}
    usual |= {"preprocess": AUTO, "seed": 0, "target": "cpu"}
    settings = parse_settings(recipe, **{name: given.get(name, value) for name, value in usual.items()})
    budget = WeightBudget.parse(
        given.get("max_size"), given.get("mean_bits"), given.get("min_sqnr"), given.get("max_float_layers", 0)
    )
    if not budget.only_sqnr:
        with_budget(settings, budget, "weights" if "weights" in given else f"recipe {recipe.name}")
    check_place(settings.images)
    if limit is not None:
        check_timed(settings)
