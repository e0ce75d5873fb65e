"""What a file for each target declares: no fault for onnx.checker, no opset and IR version above what it needs."""

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.pipeline.targets import TARGETS
from tests import graphs

# Of 8-bit weights: QuantizeLinear with an axis came with opset 13, of 16 bits with 21, of float16 scales with 19.
LOWEST = {"qnn": 21, "tensorrt": 19, "vitisai": 17}


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_passes_the_full_check_at_the_lowest_opset_and_ir(name: str) -> None:
    made = dfmpc_onnx.quantize(graphs.chain(), None, "per-channel", weights="8", target=name, check=False).model
    onnx.checker.check_model(made, full_check=True)
    opsets = {opset.domain: opset.version for opset in made.opset_import}
    assert opsets[""] == LOWEST.get(name, 13)
    assert opsets[""] <= TARGETS[name].highest_opset
    standard = [opset for opset in made.opset_import if opset.domain == ""]
    assert made.ir_version == onnx.helper.find_min_ir_version_for(standard)
