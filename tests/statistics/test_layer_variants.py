"""Variants of a network, one weight changed in each, that advance together."""

import copy

import numpy as np
import pytest

from dfmpc_onnx.graph.query import nodes_by_name
from dfmpc_onnx.numerics.output_loss import output_loss
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.quantization.sensitivity import ChangedWeights
from dfmpc_onnx.statistics import layer_variants
from dfmpc_onnx.statistics.clipping import OwnTensors
from dfmpc_onnx.statistics.layer_variants import LayerVariants
from dfmpc_onnx.statistics.walk import walk
from tests import graphs


def images(count=6):
    return {"x": np.random.default_rng(3).standard_normal((count, 3, 8, 8)).astype(np.float32)}


def free(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    return model


def prepared(model):
    space = graphs.workspace(free(model), "auto")
    PassManager(graphs.pipeline("assign_bits", "mixed")).run(space)
    return space


def disturbed(space, names, size=0.05):
    generator = np.random.default_rng(7)
    nodes = nodes_by_name(space.graph)
    found = {}
    for name in names:
        weight = np.asarray(nodes[name].inputs[1].values)
        noise = size * weight.std() * generator.standard_normal(weight.shape)
        found[name] = (weight + noise).astype(np.float32)
    return found


def walked(space, weights, **options):
    engine = LayerVariants(space.graph, images(), **options)
    walk(space.graph, engine, ChangedWeights(weights), frozenset(weights))
    return engine


LAYERS = ("conv1", "conv2", "conv3", "gemm1")


def without_norms():
    net = graphs.Net(("n", 3, 8, 8))
    x = net.relu(net.conv("x", 6))
    x = net.relu(net.node("Add", net.conv(x, 6), x))
    return net.model(net.tail(net.relu(net.conv(x, 6))))


def test_each_variant_is_the_network_with_that_weight_alone():
    """The slow reference: the whole network is run again for each layer."""
    space = prepared(without_norms())
    weights = disturbed(space, LAYERS)
    (output,) = walked(space, weights).outputs()
    assert set(output.hats) == set(LAYERS)
    nodes = nodes_by_name(space.graph)
    assert np.allclose(output.plain, graphs.run(space.graph, images()["x"])[0], atol=1e-4)
    for name, weight in weights.items():
        kept = nodes[name].inputs[1].values
        nodes[name].inputs[1].values = weight
        (want,) = graphs.run(space.graph, images()["x"])
        nodes[name].inputs[1].values = kept
        assert np.allclose(output.hats[name], want, atol=1e-4)
        assert not np.allclose(output.hats[name], output.plain, atol=1e-4)


def test_layers_of_one_variant_change_together():
    space = prepared(without_norms())
    weights = disturbed(space, LAYERS)
    (output,) = walked(space, weights, variant_of=lambda layer: "all").outputs()
    nodes = nodes_by_name(space.graph)
    for name, weight in weights.items():
        nodes[name].inputs[1].values = weight
    assert np.allclose(output.hats["all"], graphs.run(space.graph, images()["x"])[0], atol=1e-4)


@pytest.mark.parametrize("norms", ["batch", "exported"])
def test_behind_a_normalization_a_variant_has_the_deviation_of_the_float_network(norms):
    space = prepared(graphs.chain())
    seen = {}

    class Watching(LayerVariants):
        def affine(self, node, plain, hat):
            found = super().affine(node, plain, hat)
            seen[node.name] = copy.deepcopy(found)  # a Relu behind works in this memory
            return found

    weights = disturbed(space, LAYERS, size=0.5)
    engine = Watching(space.graph, images(), norms=norms)
    walk(space.graph, engine, ChangedWeights(weights), frozenset(weights))
    first = next(iter(seen.values()))
    assert set(first.hats) == {"conv1"}
    for found in seen.values():
        for hat in found.hats.values():
            for moment in (np.mean, np.std):
                assert np.allclose(moment(hat, (0, 2, 3)), moment(found.plain, (0, 2, 3)), atol=0.02)


@pytest.mark.parametrize("network", sorted(graphs.ALL))
def test_the_graph_stays_as_it_is_and_so_does_the_float_network(network):
    space = prepared(graphs.ALL[network]())
    before = graphs.snapshot(space.graph)
    names = [n.name for n in space.graph.nodes if n.op in ("Conv", "Gemm")]
    engine = walked(space, disturbed(space, names), norms="exported")
    assert graphs.snapshot(space.graph) == before
    (want,) = graphs.run(space.graph, images()["x"])
    assert any(np.allclose(value.plain, want, atol=1e-3) for value in engine.outputs())


def test_where_memory_is_short_variants_wait_for_the_next_walk(monkeypatch):
    space = prepared(graphs.chain())
    weights = disturbed(space, LAYERS)
    together = walked(space, weights).losses_of()
    monkeypatch.setattr(layer_variants, "MOST_LIVE", 0)
    found, waiting, walks = {}, set(LAYERS), 0
    while waiting:
        engine = LayerVariants(space.graph, images())
        walk(space.graph, engine, ChangedWeights(weights), frozenset(waiting))
        found |= engine.losses_of()
        waiting, walks = set(engine.postponed), walks + 1
    assert walks == len(LAYERS)
    assert {n: lost[0].share_of_variance for n, lost in found.items()} == pytest.approx(
        {n: lost[0].share_of_variance for n, lost in together.items()}
    )


def test_the_mean_of_an_output_that_no_normalization_follows_is_corrected():
    net = graphs.Net(("n", 3, 8, 8))
    space = prepared(net.model(net.conv("x", 6)))
    weights = {"conv1": np.asarray(nodes_by_name(space.graph)["conv1"].inputs[1].values) * np.float32(1.5)}
    x = {"x": images(64)["x"] + 3}

    def shift(centred):
        engine = LayerVariants(space.graph, x, centred=centred)
        walk(space.graph, engine, ChangedWeights(weights), frozenset(weights))
        (output,) = engine.outputs()
        return np.abs((output.hats["conv1"] - output.plain).mean((0, 2, 3))).max()

    assert shift({"conv1"}) < 0.05 * shift(())


def test_variants_whose_outputs_would_not_fit_wait_in_the_middle_of_a_walk(monkeypatch):
    """They fit where they start; behind an enlarged map two of them do."""
    net = graphs.Net(("n", 3, 8, 8))
    x = net.relu(net.conv(net.relu(net.conv(net.relu(net.conv("x", 6)), 6)), 6))
    x = net.node("Resize", x, "", net.weight("scales", np.array([1, 1, 4, 4], np.float32)))
    space = prepared(net.model(net.conv(x, 2)))
    weights = disturbed(space, [n.name for n in space.graph.nodes if n.op == "Conv"])
    together = walked(space, weights).losses_of()
    monkeypatch.setattr(layer_variants, "MOST_LIVE", 2 * 6 * 6 * 32 * 32 * 4)
    found, waiting, walks = {}, set(weights), 0
    while waiting:
        engine = LayerVariants(space.graph, images())
        walk(space.graph, engine, ChangedWeights(weights), frozenset(waiting))
        found |= {name: lost for name, lost in engine.losses_of().items() if name not in engine.postponed}
        waiting, walks = set(engine.postponed), walks + 1
    assert walks > 1
    assert {n: lost[0].share_of_variance for n, lost in found.items()} == pytest.approx(
        {n: lost[0].share_of_variance for n, lost in together.items()}
    )


def reader(places, characters, *, squashed=True):
    """A network of text: at each place a MatMul into the characters, from four numbers."""
    net = graphs.Net(("n", 3, 8, 8))
    x = net.relu(net.conv(net.relu(net.conv("x", 6)), 4))
    shape = net.weight("shape", np.array([0, 4, -1], np.int64))
    x = net.node("Transpose", net.node("Reshape", x, shape), perm=[0, 2, 1])
    x = net.node("Slice", x, *(net.weight(k, np.array([v], np.int64)) for k, v in (("s", 0), ("e", places), ("a", 1))))
    x = net.node("MatMul", x, net.weight("head", random_weight(4, characters)))
    x = net.node("Add", x, net.weight("bias", random_weight(characters)))
    return net.model(net.node("Softmax", x, axis=2) if squashed else x)


def random_weight(*shape):
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("places", "characters"), [(7, 50), (60, 20)], ids=["pooled", "channels"])
@pytest.mark.parametrize("squashed", [True, False])
def test_no_variant_is_run_through_a_wide_linear_map_at_the_end(places, characters, squashed):
    """And what it loses is what the outputs show: the classes may be pooled, or be the channels of the loss."""
    space = prepared(reader(places, characters, squashed=squashed))
    weights = disturbed(space, ("conv1", "conv2"))
    wide = []

    class Watching(LayerVariants):
        def other(self, node):
            found = super().other(node)
            wide.extend(value for value in found if value.plain.shape[-1] == characters and value.hats)
            return found

    engine = Watching(space.graph, images())
    walk(space.graph, engine, ChangedWeights(weights), frozenset(weights))
    assert not wide
    (output,) = engine.outputs()
    losses = engine.losses_of()
    assert set(losses) == set(output.hats) == set(weights)
    for name, (lost,) in losses.items():
        want = output_loss(output.plain, output.hats[name])
        assert 0 < lost.share_of_variance == pytest.approx(want.share_of_variance, rel=1e-4)


def test_the_linear_map_itself_is_run_where_its_weight_is_changed():
    space = prepared(reader(7, 50))
    (head,) = (node.name for node in space.graph.nodes if node.op == "MatMul")
    weights = disturbed(space, ("conv1", head))
    nodes = nodes_by_name(space.graph)
    for variant_of in (lambda layer: layer, lambda layer: "all"):
        engine = walked(space, weights, variant_of=variant_of)
        (output,) = engine.outputs()
        assert set(engine.losses_of()) == set(output.hats) == {variant_of(name) for name in weights}
    engine = walked(space, weights, variant_of=lambda layer: "all")
    hat = engine.outputs()[0].hats["all"]
    for name, weight in weights.items():
        nodes[name].inputs[1].values = weight
    scores = graphs.run(space.graph, images()["x"])[0]
    shown = np.exp(hat - hat.max(-1, keepdims=True))
    assert np.allclose(shown / shown.sum(-1, keepdims=True), scores, atol=1e-4)


@pytest.mark.parametrize("act", ["relu", "clip"])
def test_what_clips_in_place_makes_the_same_as_a_run(act, monkeypatch):
    net, x = graphs.Net(("n", 3, 8, 8)), "x"
    for _ in range(3):
        x = getattr(net, act)(net.norm(net.conv(x, 6)))
    space = prepared(net.model(net.tail(x)))
    weights = disturbed(space, ("conv1", "conv2", "conv3"))
    given = images()
    found = walked(space, weights).outputs()
    monkeypatch.setattr(OwnTensors, "bounds", lambda *_: None)
    for one, other in zip(found, walked(space, weights).outputs(), strict=True):
        assert np.array_equal(one.plain, other.plain) and one.hats.keys() == other.hats.keys()
        assert all(np.array_equal(hat, other.hats[name]) for name, hat in one.hats.items())
    assert np.array_equal(given["x"], images()["x"])
