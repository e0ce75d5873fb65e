"""Settings of all layers together, by a run for each."""

import pytest

from dfmpc_onnx.pipeline.facts import Sensitivity
from dfmpc_onnx.pipeline.manager import PassManager
from dfmpc_onnx.quantization.joint_damage import JointDamage
from dfmpc_onnx.quantization.statistics_source import statistics_source
from tests import graphs


@pytest.fixture(scope="module")
def judged():
    model = graphs.residual()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    space = graphs.workspace(model, "auto")
    PassManager(graphs.pipeline("measure_sensitivity", "mixed")).run(space)
    return space, JointDamage(space, statistics_source(space, "images", 0))


def test_more_bits_in_every_layer_do_less(judged):
    space, joint = judged
    names = [name for row in space.get(Sensitivity).rows for name in row.layers]
    damages = [joint(dict.fromkeys(names, bits)) for bits in (2, 3, 4, 6, 8)]
    assert damages == sorted(damages, reverse=True) and damages[-1] < 0.001
    assert joint({}) == 0


def test_together_layers_do_about_what_they_do_one_by_one(judged):
    space, joint = judged
    rows = space.get(Sensitivity).rows
    single = sum(next(w.damage for w in row.widths if w.bits == 5) for row in rows)
    together = joint({name: 5 for row in rows for name in row.layers})
    assert single / 3 < together < 3 * single


def test_the_same_setting_does_the_same(judged):
    space, joint = judged
    setting = {row.layers[0]: "ternary" for row in space.get(Sensitivity).rows}
    assert joint(setting) == joint(setting) > 0
