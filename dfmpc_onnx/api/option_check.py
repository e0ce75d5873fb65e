"""Options of `quantize` checked before any model is read: for who has many models, and one mistake."""

from __future__ import annotations

from typing import Any

from dfmpc_onnx import catalog
from dfmpc_onnx.api.boundary import ARGUMENTS
from dfmpc_onnx.api.intake import parse_settings, with_budget, with_float16
from dfmpc_onnx.api.time_limit import check_timed, with_time_limit
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.image_places import check_place
from dfmpc_onnx.inputs.preprocess import AUTO
from dfmpc_onnx.pipeline.deadline import Deadline
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE
from dfmpc_onnx.pipeline.settings import Settings, WeightBudget


def check_settings(settings: Settings, *, check: bool, timed: bool, errors: bool) -> None:
    """Raise OptionError where no images are at their path, a limit on time can change nothing, a target cannot keep to
    a size, or errors of layers would have no inputs to be measured on."""
    if errors and not check:
        raise OptionError("layer_errors: they are measured on the inputs of the check; leave check=False out")
    check_place(settings.images)
    if settings.target.quantizers == "qonnx" and (settings.budget.size, settings.budget.share) != (None, None):
        raise OptionError("max-size: a file for qonnx holds its weights as floats; limit --mean-bits instead")
    if timed:
        check_timed(settings)


def check_options(**options: Any) -> None:
    """Raise what `quantize` would raise for these options whatever the model is: OptionError or RecipeError."""
    given = {name: ARGUMENTS[name](name, value) if name in ARGUMENTS else value for name, value in options.items()}
    Deadline(given.get("max_seconds"))
    limit = given.get("max_latency")
    recipe = with_time_limit(catalog.find_recipe(given.get("recipe", DEFAULT_RECIPE)), limit)
    catalog.build(recipe)
    names = ("weights", "activations", "images", "reduce_range")
    usual: dict[str, Any] = dict.fromkeys(names) | {"layers": (), "input_shapes": (), "input_ranges": ()}
    usual |= {"preprocess": AUTO, "seed": 0, "target": "cpu"}
    settings = parse_settings(recipe, **{name: given.get(name, value) for name, value in usual.items()})
    settings = with_float16(settings, given.get("fp16"))
    budget = WeightBudget.parse(
        given.get("max_size"), given.get("mean_bits"), given.get("min_sqnr"), given.get("max_float_layers", 0)
    )
    if not budget.only_sqnr:
        settings = with_budget(settings, budget, "weights" if "weights" in given else f"recipe {recipe.name}")
    check = given.get("check", True) or given.get("min_sqnr") is not None
    check_settings(settings, check=check, timed=limit is not None, errors=given.get("layer_errors", False))
