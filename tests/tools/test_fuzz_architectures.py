"""The second grammar: architectures that run, weights as training leaves them, habits that change no output."""

from __future__ import annotations

import dataclasses
import pathlib
import random

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from dfmpc_onnx import memory
from dfmpc_onnx.pipeline.targets import TARGETS
from tests.graphs import Net
from tools.fuzz import architectures, export_habits, stored_numbers
from tools.fuzz.architectures import ARCHITECTURES, drawn_architecture, trained
from tools.fuzz.export import Export
from tools.fuzz.export_habits import exported
from tools.fuzz.options import options_for
from tools.fuzz.training import Traits, measured, run
from tools.fuzz.trial import GOOD, tried

# onnxruntime refuses names twice, and some stale shapes; half precision rounds
CHANGING = {"names_twice", "stale_shapes", "half_precision", "more_outputs", "bytes_input", "quantized_before"}


def outputs(model: onnx.ModelProto, folder: pathlib.Path, batch: int = 1) -> list[np.ndarray]:
    """On one normal input for each float input, inputs of open sizes taken as 16."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    values = np.random.default_rng(0)
    feeds = {
        x.name: values.standard_normal([d if isinstance(d, int) else 0 for d in x.shape]).astype(np.float32)
        for x in session.get_inputs()
    }
    return session.run(None, feeds)


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_an_architecture_runs_and_has_the_shapes_that_its_builder_says(kind):
    for seed in range(4):
        build, model = trained(kind, random.Random(seed))
        onnx.checker.check_model(model)
        assert sum(tensor.ByteSize() for tensor in model.graph.initializer) < 600_000
        for index, (name, found) in enumerate(zip(build.outputs, run(model), strict=False)):
            if index not in build.varying and build.shapes.get(name):
                assert found.shape == build.shapes[name]


@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_an_architecture_is_quantized_and_agrees_or_is_refused(kind, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 6 << 30)
    case = next(case for case in (drawn_architecture(3, number) for number in range(200)) if case.kind == kind)
    with memory.limit_memory():
        found = tried(case)
    assert found.outcome in GOOD, f"{case.source}, {case.options}: {found.place}: {found.detail}"


def test_a_number_makes_the_same_case_again():
    cases = [drawn_architecture(7, number) for number in range(10)]
    assert cases == [drawn_architecture(7, number) for number in range(10)]
    assert cases[0] != drawn_architecture(8, 0)


def test_normalizations_hold_the_mean_and_variance_of_what_they_read():
    net = Net((16, 3, 8, 8))
    y = net.conv("x", 4, bias=True)
    model = net.model(net.norm(y), y)
    ((mean, variance),) = measured(model).values()
    x = run(model)[1]
    np.testing.assert_allclose(mean, x.mean(axis=(0, 2, 3)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, x.var(axis=(0, 2, 3)), rtol=1e-4)


def test_what_training_leaves_is_drawn_of_every_kind():
    values = np.random.default_rng(0)
    plain = {"dead": 0.0, "outlying": 0.0, "doubled": 0.0, "heavy": False, "scaled": False, "off": 1.0, "epsilon": 1e-5}

    def weight(**given: float) -> np.ndarray:
        return Traits(**{**plain, **given}).weight(values, (40, 8, 3, 3), 72)

    def reach(rows: np.ndarray) -> np.ndarray:
        return np.abs(rows).max(axis=(1, 2, 3))

    assert reach(weight()).max() < 3 * reach(weight()).min()
    assert reach(weight(dead=0.5)).min() <= 1e-4
    assert reach(weight(outlying=0.5)).max() > 3 * np.median(reach(weight()))
    doubled = weight(doubled=0.5).reshape(40, -1)
    assert (np.abs(np.corrcoef(doubled)) > 0.999).sum() > 40
    assert {Traits.drawn(random.Random(seed)).ordinary for seed in range(50)} == {True, False}


@pytest.mark.parametrize("habit", sorted({h.__name__ for h in export_habits.HABITS} - CHANGING))
def test_a_habit_changes_no_output(habit, tmp_path):
    changed = 0
    for seed, kind in enumerate(["resnet", "unet", "vit", "two inputs"]):
        build, model = trained(kind, random.Random(seed))
        want, plain = outputs(model, tmp_path), model.SerializeToString()
        export = Export(model, build, random.Random(seed))
        getattr(export_habits, habit)(export)
        changed += model.SerializeToString() != plain
        opened = onnx.ModelProto.FromString(model.SerializeToString())
        before = onnx.ModelProto.FromString(plain)
        for stated, known in zip(opened.graph.input, before.graph.input, strict=False):
            stated.type.CopyFrom(known.type)
        for found, wanted in zip(outputs(opened, tmp_path), want, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
    assert changed


def test_half_precision_runs_and_is_near():
    for seed in range(6):
        build, model = trained("resnet", random.Random(seed))
        export = Export(model, build, random.Random(seed))
        want = run(model)
        assert stored_numbers.half_precision(export)
        assert any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
        if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            assert run(model)[0].shape == want[0].shape


def test_weights_lie_beside_the_model(tmp_path):
    build, model = trained("resnet", random.Random(1))
    want = outputs(model, tmp_path)
    export = Export(model, build, random.Random(1))
    weights = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    stored_numbers.external_data(export)
    for name, data in export.beside.items():
        (tmp_path / name).write_bytes(data)
    assert len(export.beside[stored_numbers.DATA]) > 0.9 * sum(map(np.size, weights)) * 4
    np.testing.assert_array_equal(outputs(model, tmp_path)[0], want[0])


def test_a_folded_network_gives_what_it_gave():
    """Folding is drawn last, so the same seed with another share makes the same network with it and without."""
    folded = kept = 0
    for seed in range(12):
        _, model = trained("resnet", random.Random(seed))
        norms = any(node.op_type == "BatchNormalization" for node in model.graph.node)
        kept, folded = kept + norms, folded + (not norms)
        names = {name for node in model.graph.node for name in node.input}
        assert {tensor.name for tensor in model.graph.initializer} <= names
    assert folded and kept


def test_dead_filters_have_no_variance():
    for seed in range(60):
        build, model = trained("inverted", random.Random(seed))
        held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
        if build.traits.dead and norms and any((held[node.input[4]] < 1e-9).any() for node in norms):
            return
    raise AssertionError("no network with a dead filter")


def test_every_option_and_every_habit_is_drawn():
    rng, options, habits = random.Random(0), [], set()
    build, model = trained("resnet", rng)
    for seed in range(300):
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        written = exported(copy, build, random.Random(seed))
        habits |= set(written.habits)
        drawn, _, images = options_for(model, [], rng)
        assert ("images" in drawn) == (images is not None)
        options.append(drawn)
    assert {h.__name__ for h in export_habits.HABITS} | {"external_data"} == habits
    keys = {"recipe", "weights", "activations", "target", "reduce_range", "layers", "preprocess", "seed", "threads"}
    assert {key for drawn in options for key in drawn} == keys | {"check", "images", "input_shapes"}
    assert {drawn["target"] for drawn in options if "target" in drawn} == set(TARGETS)


def test_scales_that_cancel_change_no_output(monkeypatch):
    """Between a layer and its normalization, and between two layers with a Relu between them."""
    plain = Traits(0.0, 0.0, 0.0, False, False, 1.0, 1e-12)
    spread = 0.0
    for kind in ("resnet", "two-stage", "stn", "fpn"):
        for seed in range(3):
            found = []
            for scaled in (False, True):
                traits = dataclasses.replace(plain, scaled=scaled)
                monkeypatch.setattr(Traits, "drawn", classmethod(lambda cls, rng, traits=traits: traits))
                monkeypatch.setattr(architectures, "folds", lambda rng, seed=seed: seed == 0)
                build, model = trained(kind, random.Random(seed))
                found.append(run(model))
            weights = [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 4]
            spread = max(spread, *(np.ptp(np.log(np.abs(w).max(axis=(1, 2, 3)) + 1e-30)) for w in weights))
            for index, (a, b) in enumerate(zip(*found, strict=True)):
                if index not in build.varying:
                    np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2 * np.abs(a).max())
    assert spread > 5
