from dfmpc_onnx import catalog
from dfmpc_onnx.pipeline.facts import BitPlan
from dfmpc_onnx.pipeline.manager import PassManager
from tests import graphs


def plans(weights, layers=()):
    """The plan before and after, and the result."""
    found = []
    for upto in ("assign_bits", "take_widest_bits"):
        space = graphs.workspace(graphs.chain(), weights, layers=layers)
        steps = graphs.pipeline("assign_bits")
        if upto == "take_widest_bits":
            steps.append(catalog.find_pass("take_widest_bits")())
        result = PassManager(steps).run(space)[-1]
        found.append(space.get(BitPlan).layers)
    return *found, result


def test_layers_whose_width_was_to_be_measured_get_eight_bits():
    before, after, result = plans("auto", ["conv3=4"])
    assert before["conv2"].role == "auto" and before["conv3"].bits == 4
    assert (after["conv2"].bits, after["conv2"].role) == (8, "8-bit")
    assert after["conv2"].why == "no error was measured to choose by"
    assert after["conv3"] == before["conv3"]
    assert [rewrite.site for rewrite in result.rewrites] == ["conv1", "conv2", "gemm1"]


def test_a_plan_that_states_every_width_stays():
    before, after, result = plans("2/6")
    assert before == after and result.rewrites == ()
