from dfmpc_onnx.evaluation.run_time import fastest_run, slower
from dfmpc_onnx.inputs.samples import check_images
from dfmpc_onnx.runtime.session import Session
from tests import graphs


def test_only_what_is_clearly_slower_is_said():
    (said,) = slower(0.010, 0.018)
    assert "18.0 ms, 1.8 times as long as the float model" in said and "--activations none" in said
    assert slower(0.010, 0.012) == ()
    assert slower(0.010, 0.005) == ()


def test_runs_too_short_to_be_timed_say_nothing():
    assert slower(0.0001, 0.001) == ()


def test_a_few_runs_are_timed():
    model = graphs.chain()
    space = graphs.workspace(model)
    assert 0 < fastest_run(Session(model), check_images(space.inputs, 0, 2)) < 10
