"""The line that names learned images: only where few bits lose something that they could bring back."""

import io

import msgspec
import pytest
from rich.console import Console

import dfmpc_onnx
from dfmpc_onnx.report.text import report_table
from tests.graphs import Net, chain

TIP = "dfmpc-onnx images --learn zeroq MODEL -o learned.npz"


def report_of(model, weights):
    return dfmpc_onnx.quantize(model, weights=weights, preprocess="imagenet").report


def said(report, level):
    verdict = msgspec.structs.replace(report.verdict, level=level)
    stream = io.StringIO()
    report_table(msgspec.structs.replace(report, verdict=verdict), "-", Console(file=stream, width=80))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    return " ".join(stream.getvalue().split())


@pytest.mark.parametrize(
    ("weights", "level", "named"), [("2/6", "bad", True), ("2/6", "good", False), ("8", "bad", False)]
)
def test_few_bits_that_lose_much_name_it(weights, level, named):
    assert (TIP in said(report_of(chain(), weights), level)) == named


def test_without_batch_normalizations_nothing_can_be_learned():
    net = Net()
    report = report_of(net.model(net.tail(net.relu(net.conv(net.relu(net.conv("x", 8)), 8)))), "2/6")
    assert not report.learnable and TIP not in said(report, "bad")
