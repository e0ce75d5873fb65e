"""Providers beside the CPU's: whether they really ran, and differences in steps of the output's scale."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import RuntimeUnavailable
from dfmpc_onnx.evaluation.provider_use import ProviderUse, StepDifference, output_scales, provider_use
from dfmpc_onnx.inputs.samples import Samples
from dfmpc_onnx.runtime.session import CPU_PROVIDER, Session
from tests import graphs
from tests.commands import assert_refused, dfmpc

FEEDS = Samples({"x": graphs.input_of(graphs.chain())[None]}, 1, "seeded numbers")


def test_a_profile_counts_the_nodes_that_ran_on_each_provider(tmp_path: pathlib.Path) -> None:
    session = Session(graphs.chain(), profile=tmp_path / "profile")
    session.run({"x": graphs.input_of(graphs.chain())})
    ran = session.profile_counts()
    assert set(ran) == {CPU_PROVIDER} and ran[CPU_PROVIDER] >= 4


def test_the_same_provider_is_no_step_away() -> None:
    model = graphs.chain()
    use = provider_use(model, model, CPU_PROVIDER, "it", FEEDS)
    assert (use.steps, use.mean_steps) == (0.0, 0.0) and use.nodes[CPU_PROVIDER] >= 4


def test_a_provider_that_ran_no_node_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "profile_counts", lambda self: {"OtherExecutionProvider": 7})
    with pytest.raises(RuntimeUnavailable, match="it: provider 'CPU' ran none of its nodes, Other ran them all"):
        provider_use(graphs.chain(), graphs.chain(), CPU_PROVIDER, "it", FEEDS)


def steps(scale: float | None, *pairs: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    found = StepDifference(scale)
    for want, got in pairs:
        found.add(want, got)
    return found.worst / found.step, found.total / found.step / found.count


def test_steps_are_of_the_outputs_own_scale_or_of_its_range() -> None:
    want = np.array([[0.0, 5.1]])
    assert steps(0.02, (want, want + 0.04)) == (pytest.approx(2.0), pytest.approx(2.0))
    assert steps(None, (want, want + 0.04)) == (pytest.approx(2.0), pytest.approx(2.0))
    assert steps(None, (want[:, :1], want[:, :1] + 0.04), (want[:, 1:], want[:, 1:])) == (
        pytest.approx(2.0),
        pytest.approx(1.0),
    )
    assert steps(None, (np.zeros((1, 2)), np.ones((1, 2)))) == (1, 1)
    assert np.isnan(steps(1.0, (want, want * np.nan))[0])


def test_outputs_of_any_size_are_survived_and_those_without_numbers_named() -> None:
    """As many values as are positive, and a list of tensors."""
    net = graphs.Net((1, 6))
    sizes = net.weight("sizes", np.array([4, 2]))
    parts = graphs.helper.make_node("SplitToSequence", ["x", sizes], ["parts"], name="parts", axis=1)
    model = net.model(net.node("NonZero", net.node("Relu", "x")), net.node("Relu", "x"))
    model.graph.output[0].type.tensor_type.elem_type = graphs.TensorProto.INT64
    model.graph.node.append(parts)
    model.graph.output.append(graphs.helper.make_tensor_sequence_value_info("parts", graphs.TensorProto.FLOAT, None))
    runs = np.random.default_rng(0).standard_normal((5, 1, 6)).astype(np.float32)
    use = provider_use(model, model, CPU_PROVIDER, "it", Samples({"x": runs}, 5, ""))
    assert (use.steps, use.mean_steps, use.not_compared) == (0.0, 0.0, ("parts",))


def test_the_scale_of_a_dequantized_output_is_known() -> None:
    net = graphs.Net()
    x = net.block("x", 4)
    made = dfmpc_onnx.quantize(net.model(net.block(x, 4), x), None, "per-channel", weights="8", check=False).model
    first, second = output_scales(made)
    assert first is not None and second is not None and first > 0
    assert output_scales(graphs.chain()) == [None]


def test_verify_prints_where_nodes_ran_and_exits_1_beyond_max_steps(
    quantized: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU provider in the role of another: the only one that is there everywhere."""
    use = ProviderUse({"GpuExecutionProvider": 9, CPU_PROVIDER: 1}, 2.5, 0.25)
    monkeypatch.setattr("dfmpc_onnx.api.verify.provider_use", lambda *args: use)
    monkeypatch.setattr("dfmpc_onnx.api.verify.CPU_PROVIDER", "AnotherExecutionProvider")
    command = ("verify", quantized.with_name("model.onnx"), quantized)
    result = dfmpc(*command)
    assert "CPU: 9 nodes on Gpu, 1 nodes on CPU; at most 2.5 steps from the CPU provider" in result.stdout
    assert (result.exit_code, dfmpc(*command, "--max-steps", "2.5").exit_code) == (0, 0)
    failed = dfmpc(*command, "--max-steps", 2, "--json")
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)["providers"][0]["use"]["steps"] == 2.5
    assert "2.5 steps from the CPU provider are more than --max-steps 2" in failed.stderr


def test_a_provider_that_is_not_there_is_one_line(quantized: pathlib.Path) -> None:
    model = quantized.with_name("model.onnx")
    assert_refused(dfmpc("verify", model, quantized, "--provider", "abacus"), "'abacus' is not in this onnxruntime")
