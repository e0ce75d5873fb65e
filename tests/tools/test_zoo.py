import subprocess
import sys

import onnx

from tests import graphs
from tests.commands import ROOT, environment


def zoo(*arguments):
    command = [sys.executable, "-W", "error", str(ROOT / "tools/zoo.py"), "--no-backend", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment())


def test_a_model_is_quantized_or_refused_in_one_line(tmp_path):
    onnx.save(graphs.chain(), tmp_path / "good.onnx")
    onnx.save(graphs.Net(shape=(1, 4)).model(), tmp_path / "bad.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    done = zoo(tmp_path)
    assert done.returncode == 0, done.stderr
    header, _, bad, good, text, _, total = done.stdout.splitlines()
    assert header.startswith("| model | layers | quantized |")
    assert bad.startswith("| bad |  |  | the model: ") and text.startswith(
        "| text |  |  | the model: not an ONNX model"
    )
    assert good.startswith("| good | 4 | 4 |  | ")
    assert total == "3 models: 1 quantized, 0 with no layer quantized, 2 refused, 0 raised"


def test_layers_are_refused_with_how_many_and_without_names(tmp_path):
    net = graphs.Net()
    x = net.block("x", 4)
    up = net.node("ConvTranspose", x, net.weight("up.w", graphs.np.ones((4, 2, 2, 2), graphs.np.float32)), group=2)
    onnx.save(net.model(up), tmp_path / "up.onnx")
    line = zoo(tmp_path).stdout.splitlines()[2]
    assert line.startswith("| up | 2 | 1 | 1 x a grouped ConvTranspose")
