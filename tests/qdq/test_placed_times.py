"""Whether a file is slower than its float model, by the times of kernels."""

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.recipe import Recipe
from tests import graphs


def large_maps() -> graphs.Net:
    """Few channels on large maps, each float again for a Sigmoid: integers cost more than they save."""
    net = graphs.Net((1, 3, 192, 192))
    x = net.block("x", 4, bias=True)
    for _ in range(3):
        x = net.node("Sigmoid", net.norm(net.conv(x, 4)))
    return net


def without_search() -> Recipe:
    """int8 in which nothing keeps slow layers in float."""
    import msgspec

    recipe = catalog.find_recipe("int8")
    steps = tuple(step for step in recipe.steps if step.use not in ("keep_slow_layers_float", "keep_scores_float"))
    return msgspec.structs.replace(recipe, steps=steps)


def lines(recipe: str | Recipe) -> list[str]:
    net = large_maps()
    made = dfmpc_onnx.quantize(net.model(net.tail("sigmoid3")), recipe=recipe, preprocess="imagenet", threads=1)
    return [said for said in made.report.warnings if "times as long as in floats" in said]


def test_a_file_that_is_slower_by_the_table_says_so_and_always_the_same():
    first, second = lines(without_search()), lines(without_search())
    assert len(first) == 1 and first == second and "--activations none" in first[0]


def test_where_slow_layers_stay_in_float_nothing_is_to_be_said():
    assert lines("int8") == []


def test_the_verdict_needs_no_clock(monkeypatch):
    """The closing check of one file on a busy and on an idle machine says the same."""
    import dfmpc_onnx.api.closing_check as module

    assert not any(hasattr(module, name) for name in ("fastest_run", "slower", "time"))
