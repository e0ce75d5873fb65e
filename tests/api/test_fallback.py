"""A network whose covariances cannot be followed, by a recipe that names a fallback for that."""

import json

import pytest

import dfmpc_onnx
from dfmpc_onnx.model.metadata import metadata_of
from tests.graphs import Net

FALLBACK = ["quantize_weights", "recalibrate_batch_norm", "compensate"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What closed-form makes of it, and the folder of its dumps."""
    net = Net(("n", 3, 8, 8))
    x = net.block(net.node("Erf", net.block("x", 8)), 8)
    folder = tmp_path_factory.mktemp("dump")
    return dfmpc_onnx.quantize(net.model(net.tail(net.block(x, 8))), recipe="closed-form", dump=folder), folder


def test_the_report_has_the_reason_as_a_warning_and_as_a_refusal(made):
    report = made[0].report
    why = "covariances cannot be followed (no rule for Erf)"
    assert any(warning.startswith(why) for warning in report.warnings)
    (refusal,) = (r for r in report.refusals if r.code == "covariances-unknown")
    assert (refusal.site, refusal.reason, refusal.by) == ("model", why, "reconstruct_layers")


def test_report_and_dumps_have_the_passes_that_ran(made):
    names = [step.name for step in made[0].report.passes]
    start = names.index("reconstruct_layers")
    assert names[start + 1 : start + 1 + len(FALLBACK)] == FALLBACK
    assert sorted(path.stem for path in made[1].iterdir()) == [f"{n:02d}_{name}" for n, name in enumerate(names, 1)]


def test_the_file_states_what_ran_in_place_of_what(made):
    assert json.loads(metadata_of(made[0].model)["fallbacks"]) == [{"reconstruct_layers": FALLBACK}]


def test_the_network_agrees(made):
    assert made[0].report.count("low") and made[0].report.fidelity.sqnr_db > 10
