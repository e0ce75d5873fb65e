import dataclasses

import pytest

from dfmpc_onnx import catalog
from dfmpc_onnx.errors import RecipeError
from dfmpc_onnx.pipeline.facts import BitPlan
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.pipeline.plan_file import PlannedLayer, TableEntry
from dfmpc_onnx.pipeline.weight_plan import StatedWidths
from tests import graphs


def applied(*entries, layers=(), sha256="", model_sha="", **options):
    space = graphs.workspace(graphs.chain(), "auto", layers=layers)
    space.sha256 = model_sha
    PassManager(graphs.pipeline("assign_bits")).run(space)
    kind = catalog.find_pass("apply_plan")
    planned = [PlannedLayer(layer, bits) for layer, bits in entries]
    step = kind(kind.Options(layers=planned, sha256=sha256, lines=[7, 11, 15], file="plan.toml", **options))
    PassManager([step]).run(space)
    return {name: bits.bits for name, bits in space.get(BitPlan).layers.items()}


def test_every_layer_gets_its_width():
    assert applied(("conv1", 8), ("conv2", "ternary"), ("conv3", 4), ("gemm1", "float")) == {
        "conv1": 8,
        "conv2": "ternary",
        "conv3": 4,
        "gemm1": "float",
    }


def test_a_pattern_matches_several_and_a_name_goes_before_it():
    assert applied(("conv2", 3), ("*", 5), ("gemm*", 6)) == {"conv1": 5, "conv2": 3, "conv3": 5, "gemm1": 6}


def test_what_the_user_asks_for_with_layer_stays():
    assert applied(("*", 4), layers=["conv3=7"])["conv3"] == 7


def test_a_pattern_that_matches_nothing_is_a_mistake_with_its_line():
    with pytest.raises(RecipeError, match=r"plan\.toml:11: layer 'relu\*' matches no layer; there are 'conv1'"):
        applied(("*", 4), ("relu*", 3))


def test_a_layer_without_an_entry_is_a_mistake():
    with pytest.raises(RecipeError, match=r"plan\.toml: says nothing of 'gemm1'; add an entry"):
        applied(("conv*", 4))


def test_a_plan_for_another_model_is_refused_with_the_difference():
    shapes = {"conv1": [8, 3, 3, 3], "conv2": [16, 8, 3, 3], "fc": [5, 8]}
    with pytest.raises(RecipeError) as caught:
        applied(("*", 4), sha256="ab" * 32, model_sha="cd" * 32, shapes=shapes, model="other.onnx")
    assert str(caught.value) == (
        "plan.toml: made for another model ('other.onnx', sha256 abababababab..., here cdcdcdcdcdcd...): it has no "
        "layer 'fc'; 'conv2' is [8, 8, 3, 3], in the plan [16, 8, 3, 3]"
    )


def test_without_its_sha256_a_plan_must_still_fit():
    with pytest.raises(
        RecipeError, match=r"plan\.toml: does not fit this model: 'conv2' is \[8, 8, 3, 3\], in the plan"
    ):
        applied(("*", 4), shapes={"conv1": [8, 3, 3, 3], "conv2": [16, 8, 3, 3]})
    assert applied(("*", 4), shapes={"conv1": [8, 3, 3, 3]})["conv1"] == 4


def test_an_entry_of_a_layer_that_stays_in_float_is_warned_of():
    space = graphs.workspace(graphs.chain(), "auto")
    PassManager(graphs.pipeline("assign_bits")).run(space)
    layers = space.get(BitPlan).layers
    kept = {"conv1": dataclasses.replace(layers["conv1"], bits="float", role="float", why="its weight is computed")}
    space.put(dataclasses.replace(space.get(BitPlan), layers=layers | kept))
    kind = catalog.find_pass("apply_plan")
    step = kind(kind.Options(layers=[PlannedLayer("conv1", 4), PlannedLayer("*", 4)], file="plan.toml"))
    (said,) = step.run(space).warnings
    assert said == "plan.toml: the entry of 'conv1' has no effect; the layer stays in float: its weight is computed"


def test_a_plan_for_another_model_that_fits_says_how_to_use_it():
    with pytest.raises(RecipeError, match="all layers of the plan fit; to use it, remove its line sha256"):
        applied(("*", 4), sha256="ab" * 32, model_sha="cd" * 32, shapes={"conv1": [8, 3, 3, 3]})
    assert applied(("*", 4), sha256="", model_sha="cd" * 32)["conv1"] == 4
    assert applied(("*", 4), sha256="cd" * 32, model_sha="cd" * 32)["conv1"] == 4


def test_what_the_table_of_the_plan_says_of_the_widths_is_kept():
    table = [
        TableEntry([name], [8, 8, 3, 3], 8, [0.5, 0.1, 0], [0.3, 0.02, 0], [9, 36, 288]) for name in ("conv2", "conv3")
    ]
    space = graphs.workspace(graphs.chain(), "auto", layers=["conv3=7"])
    PassManager(graphs.pipeline("assign_bits")).run(space)
    kind = catalog.find_pass("apply_plan")
    options = kind.Options(layers=[PlannedLayer("*", 4)], path="my/plan.toml", table=table, widths=[2, 4, "float"])
    PassManager([kind(options)]).run(space)
    stated = space.get(StatedWidths)
    assert stated.path == "my/plan.toml"
    assert [(row.layers, width) for row, width in stated.rows] == [(("conv2",), 4)]  # 7 bits, of --layer, it has not
