import pathlib
import re
import subprocess
import sys

import onnx
import pytest
from PIL import Image

from tests import graphs
from tests.commands import environment
from tests.tools import nets


def zoo(*arguments):
    run = pathlib.Path(arguments[0]) / ".run"  # hidden, so that its models are not those of the folder
    command = [sys.executable, "-W", "error", "-m", "tools.zoo", "--no-backend", "--run", run, *map(str, arguments)]
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
    assert "[[model]]\npath = " in (tmp_path / ".run" / "zoo.toml").read_text()
    assert (tmp_path / ".run" / "models" / "good.onnx").is_file()


def test_layers_are_refused_with_how_many_and_without_names(tmp_path):
    net = graphs.Net()
    x = net.block("x", 4)
    up = net.node("ConvTranspose", x, net.weight("up.w", graphs.np.ones((4, 2, 2, 2), graphs.np.float32)), group=2)
    onnx.save(net.model(up), tmp_path / "up.onnx")
    line = zoo(tmp_path).stdout.splitlines()[2]
    assert line.startswith("| up | 2 | 1 | 1 x a grouped ConvTranspose")


@pytest.fixture
def pictures(tmp_path):
    for kind in ("text", "faces"):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        Image.fromarray(nets.page()).save(tmp_path / "pictures" / kind / "a.png")
    return tmp_path / "pictures"


def cells(done):
    """By model what stands in each column."""
    assert done.returncode == 0, done.stderr
    header, _, *lines = (line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|"))
    return {line[0]: dict(zip(header, line, strict=True)) for line in lines}


def test_models_are_measured_on_pictures_of_what_they_are_for(tmp_path, pictures):
    onnx.save(nets.detector(), tmp_path / "ch_PP-OCRv4_det_infer.onnx")
    onnx.save(nets.reader(), tmp_path / "ch_PP-OCRv4_rec_infer.onnx")
    onnx.save(nets.faces(), tmp_path / "320n.onnx")
    onnx.save(graphs.chain(), tmp_path / "other.onnx")
    found = cells(zoo(tmp_path, "--pictures", pictures, "--images", pictures / "text"))
    text, reader = found["ch_PP-OCRv4_det_infer"], found["ch_PP-OCRv4_rec_infer"]
    assert text["boxes matched"].endswith(f"; text: {nets.BARS} of {nets.BARS}")
    assert re.fullmatch(r"lines read alike: \d of 4, characters: \d+\.\d %", reader["boxes matched"])
    assert re.search(r"; faces: \d+ of [1-9]\d*$", found["320n"]["boxes matched"])
    own = "SQNR dB, its own pictures"
    assert all(float(found[name][own]) > 0 for name in found if name != "other")
    # The photographs given are the tiles of text, too; the reader's own pictures are the lines on them.
    assert text[own] == text["SQNR dB, photographs"] and reader[own] != reader["SQNR dB, photographs"]
    assert found["other"][own] == "" and found["other"]["SQNR dB, photographs"] != ""


def test_a_reader_without_a_detector_has_no_lines(tmp_path, pictures):
    onnx.save(nets.reader(), tmp_path / "ch_PP-OCRv4_rec_infer.onnx")
    done = zoo(tmp_path, "--pictures", pictures)
    (found,) = cells(done).values()
    assert (found["SQNR dB, its own pictures"], found["boxes matched"]) == ("", "")
    assert "no text detector among the models" in done.stderr


def test_a_detector_left_out_by_name_still_finds_the_lines(tmp_path, pictures):
    onnx.save(nets.detector(), tmp_path / "ch_PP-OCRv4_det_infer.onnx")
    onnx.save(nets.reader(), tmp_path / "ch_PP-OCRv4_rec_infer.onnx")
    (found,) = cells(zoo(tmp_path, "--pictures", pictures, "--only", "*rec*")).values()
    assert found["boxes matched"].startswith("lines read alike: ")


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "faces").mkdir()
    done = zoo(tmp_path, "--pictures", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert "holds no text/; tools/data/fetch_pictures.py fills it" in done.stderr.splitlines()[-1]
