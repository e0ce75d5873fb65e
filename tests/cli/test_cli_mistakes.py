"""A user's mistake is one line on stderr and exit 2, and leaves the folder as it was."""

from __future__ import annotations

import io
import os
import pathlib
import sys
import zipfile
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import dfmpc_onnx
from dfmpc_onnx import catalog
from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.graph import exchange
from dfmpc_passes import Compensate
from tests.commands import assert_refused, dfmpc, held
from tests.graphs import Net, chain


def _with_nan(tensor: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor).copy()
    values.flat[1] = np.nan
    return numpy_helper.from_array(values, tensor.name)


def _not_onnx(path: pathlib.Path) -> None:
    path.write_text("This is no model.\n")


def _empty(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def _truncated(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _missing(path: pathlib.Path) -> None:
    path.unlink()


def _folder(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def _without_conv(path: pathlib.Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[1, 3] x) => (float[1, 3] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), path)


def _nan(path: pathlib.Path) -> None:
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(_with_nan(model.graph.initializer[0]))
    onnx.save(model, path)


def _opset(version: int) -> Callable[[pathlib.Path], None]:
    def change(path: pathlib.Path) -> None:
        model = onnx.load(path)
        model.opset_import[0].version = version
        onnx.save(model, path)

    return change


def _external(keep: int) -> Callable[[pathlib.Path], None]:
    def change(path: pathlib.Path) -> None:
        onnx.save_model(chain(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        weights = path.with_name("weights.bin")
        if keep:
            weights.write_bytes(weights.read_bytes()[:keep])
        else:
            weights.unlink()

    return change


def _external_elsewhere(path: pathlib.Path) -> None:
    model = onnx.load(path)
    onnx.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, path)
    path.write_bytes(path.read_bytes().replace(b"weights.bin", b"../ghts.bin"))


def _invalid(path: pathlib.Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].input[0] = "nowhere"
    onnx.save(model, path)


def _type_99(path: pathlib.Path) -> None:
    model = onnx.load(path)
    model.graph.initializer[0].data_type = 99
    onnx.save(model, path)


def _values_missing(path: pathlib.Path) -> None:
    model = onnx.load(path)
    model.graph.initializer[0].ClearField("raw_data")
    onnx.save(model, path)


def _negative_dimension(path: pathlib.Path) -> None:
    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = -1
    onnx.save(model, path)


def _input_of_type(number: int) -> Callable[[pathlib.Path], None]:
    def change(path: pathlib.Path) -> None:
        model = onnx.load(path)
        model.graph.input[0].type.tensor_type.elem_type = number
        onnx.save(model, path)

    return change


def _empty_pads(path: pathlib.Path) -> None:
    model = onnx.load(path)
    next(a for a in model.graph.node[0].attribute if a.name == "pads").ints[:] = []
    onnx.save(model, path)


def _wrong_width(path: pathlib.Path) -> None:
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if t.name == "gemm1.w")
    weight.CopyFrom(numpy_helper.from_array(np.ones((5, 7), np.float32), weight.name))
    onnx.save(model, path)


def _cycle(path: pathlib.Path) -> None:
    model = onnx.load(path)
    model.graph.node[0].input[0] = model.graph.node[3].output[0]
    onnx.save(model, path)


def _cannot_run(path: pathlib.Path) -> None:
    """A sum of maps of 8x8 and 6x6, behind an operator whose shape cannot be followed."""
    net = Net()
    hidden = net.node("Gelu", net.block("x", 8), domain="com.microsoft")
    smaller = net.node("Slice", net.relu(hidden), *(net.weight(f"s{v}", np.array([v])) for v in (0, 6, 2)))
    x = net.node("Add", net.conv(smaller, 8), net.relu(hidden))
    onnx.save(net.model(net.tail(net.block(x, 8))), path)


def _input_without_shape(path: pathlib.Path) -> None:
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)


def _undecodable_name(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"conv2", b"conv\xff"))


BAD_MODELS = {
    "text": (_not_onnx, "not an ONNX model"),
    "an empty file": (_empty, "not an ONNX model"),
    "cut short": (_truncated, "cut short"),
    "no such file": (_missing, "no such file"),
    "a folder": (_folder, "is a folder"),
    "without a Conv": (_without_conv, "no Conv"),
    "NaN in a weight": (_nan, "'conv1.w' of Conv 'conv1' holds NaN"),
    "no opset": (_opset(0), "opset 0 is none; the file is damaged"),
    "opset too new": (_opset(99), "opset 99 is newer than onnxruntime runs"),
    "operators that its opset does not have": (_opset(1), "not a valid ONNX model"),
    "external data missing": (_external(0), "'weights.bin' is missing"),
    "external data cut short": (_external(400), "external data"),
    "external data elsewhere": (_external_elsewhere, "lies outside the model's folder"),
    "a graph that breaks the specification": (_invalid, "nowhere"),
    "a weight of no known type": (_type_99, "'conv1.w' is of type 99, which ONNX"),
    "a weight without values": (_values_missing, "the data of 'conv1.w' holds 0 of 216 values"),
    "a weight of negative size": (_negative_dimension, "'conv1.w' has a negative dimension"),
    "an input of no type": (_input_of_type(0), "'x' has no type"),
    "an input of unknown type": (_input_of_type(99), "'x' is of a type that ONNX"),
    "an attribute of no type": (_empty_pads, "not a valid ONNX model"),
    "a matrix of the wrong width": (_wrong_width, "Gemm 'gemm1' is made for 7 channels, but 'flatten1' has 8"),
    "nodes in a circle": (_cycle, "not a valid ONNX model"),
    "an input without shape": (_input_without_shape, "input 'x' has no shape; export the model with one"),
    "a name that is not UTF-8": (_undecodable_name, "not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_a_model_that_cannot_be_used_is_refused(model_file: pathlib.Path, case: str) -> None:
    spoil, saying = BAD_MODELS[case]
    spoil(model_file)
    before = held(model_file.parent)
    assert_refused(dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx")), saying, "model.onnx")
    assert held(model_file.parent) == before


def test_a_pass_may_fail_on_a_model_that_onnxruntime_cannot_run_either(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Compensate, workspace: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Compensate, "run", run)
    _cannot_run(model_file)
    before = held(model_file.parent)
    command = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--recipe", "per-channel"]
    assert_refused(dfmpc(*command), "model.onnx: onnxruntime", "cannot load it")
    assert held(model_file.parent) == before


def test_a_result_may_not_load_where_the_model_cannot_run_either(
    model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A BatchNormalization whose gamma is a computed map: the model loads, since nothing says its shape."""
    serialize = exchange.to_model

    def broken(*args: object) -> onnx.ModelProto:
        model = serialize(*args)
        model.graph.node[-1].op_type = "Gemmm"
        return model

    monkeypatch.setattr("dfmpc_onnx.api.builds.to_model", broken)
    net = Net()
    x = net.node("Gelu", net.norm(net.conv("x", 8)), domain="com.microsoft")
    y = net.norm(net.conv(net.relu(x), 8))
    net.nodes[-1].input[1] = x
    onnx.save(net.model(net.tail(net.relu(y))), model_file)
    before = held(model_file.parent)
    result = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), "--recipe", "per-channel")
    assert_refused(result, "model.onnx: onnxruntime cannot run it")
    assert held(model_file.parent) == before


@pytest.mark.parametrize("case", ["text", "cut short", "no such file", "opset too new", "external data missing"])
@pytest.mark.parametrize("place", ["inspect", "verify float", "verify quantized"])
def test_every_command_refuses_it_alike(
    model_file: pathlib.Path, quantized: pathlib.Path, case: str, place: str
) -> None:
    spoil, saying = BAD_MODELS[case]
    spoil(quantized)
    files = {
        "inspect": [quantized],
        "verify float": [quantized, model_file],
        "verify quantized": [model_file, quantized],
    }
    assert_refused(dfmpc(place.split()[0], *files[place]), saying)


def test_a_model_cut_short_anywhere_never_ends_in_a_defect(model_file: pathlib.Path) -> None:
    whole = model_file.read_bytes()
    for length in [*range(200), *range(200, len(whole), 97)]:
        model_file.write_bytes(whole[:length])
        assert dfmpc("inspect", model_file, "--json").exit_code == 2, f"{length} of {len(whole)} bytes"


BAD_OPTIONS = {
    "recipe unknown": (["--recipe", "papr"], ["recipe 'papr'", *catalog.recipes()]),
    "recipe file missing": (["--recipe", "absent.toml"], ["'absent.toml'", "no such file"]),
    "nine bits": (["--weights", "9"], ["weights '9'", "2 to 8"]),
    "one bit": (["--weights", "2/1"], ["weights '2/1'"]),
    "ternary high": (["--weights", "2/ternary"], ["weights '2/ternary'"]),
    "no bits": (["--weights", ""], ["weights ''"]),
    "activations": (["--activations", "fuor"], ["activations 'fuor'", "4, 8, 16, auto or none"]),
    "layer without bits": (["--layer", "conv1"], ["layer 'conv1'", "GLOB=BITS"]),
    "layer with bad bits": (["--layer", "conv1=16"], ["layer 'conv1=16'"]),
    "layer that matches nothing": (["--layer", "block*=4"], ["'block*=4'", "conv1, conv2, conv3"]),
    "preprocess unknown": (["--preprocess", "imagnet"], ["preprocess 'imagnet'", "imagenet, lite, keras"]),
    "preprocess of two channels": (
        ["--preprocess", "1,2/3,4"],
        ["preprocess '1,2/3,4'", "'x' has 3 channels; give 1 or 3"],
    ),
    "preprocess of unequal lists": (["--preprocess", "1,2/3,4,5"], ["preprocess '1,2/3,4,5'"]),
    "an option that steers a terminal": (["--weights", "2\n\x1b[2J\x9b2J"], ["weights '2??[2J?2J'"]),
    "dump into a file": (["--dump", __file__], ["dump folder", "cannot be made", "give another"]),
    "dump into a folder in no folder": (["--dump", "absent/graphs"], ["dump folder 'absent/graphs'", "cannot be made"]),
    "preprocess dividing by 0": (["--preprocess", "127/0"], ["preprocess '127/0'"]),
    "preprocess with NaN": (["--preprocess", "nan/1"], ["preprocess 'nan/1'"]),
    "input shape of empty name": (["--input-shape", ":1x3x8x8"], ["input shape ':1x3x8x8'", "NAME:1x3x224x224"]),
    "input shape without name that does not fit": (["--input-shape", "1x3x9x9"], ["(1, 3, 9, 9)", "[1, 3, 8, 8]"]),
    "input shape with 0": (["--input-shape", "x:0x3x8x8"], ["input shape 'x:0x3x8x8'"]),
    "input shape of no input": (["--input-shape", "y:1x3x8x8"], ["'y'", "no such input", "x"]),
    "input shape that does not fit": (["--input-shape", "x:1x3x9x9"], ["(1, 3, 9, 9)", "[1, 3, 8, 8]"]),
    "input shape of other rank": (["--input-shape", "x:3x8x8"], ["3 dimensions given, it has 4"]),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option_is_refused(model_file: pathlib.Path, case: str) -> None:
    options, saying = BAD_OPTIONS[case]
    before = held(model_file.parent)
    assert_refused(dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), *options), *saying)
    assert held(model_file.parent) == before


HEAD = 'summary = "mine"\nweights = "2/6"\n'
BAD_RECIPES = {
    "not TOML": ("weights = ", [":1: not valid TOML"]),
    "not UTF-8": (b"\xff", ["UTF-8"]),
    "unknown key": (f'{HEAD}wieghts = "4"\npasses = []\n', [":3: unknown key 'wieghts'"]),
    "missing key": ('weights = "2/6"\npasses = []\n', ["missing key 'summary'"]),
    "wrong type": ('summary = "mine"\nweights = 4\npasses = []\n', [":2: expected 'str', got 'int' at 'weights'"]),
    "bits": ('summary = "mine"\nweights = "12"\npasses = []\n', [":2: weights '12'"]),
    "activations": (f"{HEAD}activations = 32\npasses = []\n", [":3: activations '32'"]),
    "unknown pass": (f'{HEAD}[[passes]]\nuse = "normalise"\n', [":3: pass 'normalise'", "normalize"]),
    "pass without name": (f"{HEAD}[[passes]]\nlambda1 = 1.0\n", [":3: a pass needs its name"]),
    "unknown option": (f'{HEAD}[[passes]]\nuse = "assign_bits"\nedge = 8\n', [":5: pass assign_bits: ", "'edge'"]),
    "wrong type of option": (f'{HEAD}[[passes]]\nuse = "assign_bits"\nedges = "8"\n', [":5: ", "'edges'"]),
    "wrong order": (f'{HEAD}[[passes]]\nuse = "assign_bits"\n', ["assign_bits", "add pair_convolutions before it"]),
}


@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_mistake_in_a_recipe_is_refused_with_its_position(model_file: pathlib.Path, case: str) -> None:
    text, saying = BAD_RECIPES[case]
    recipe = model_file.with_name("mine.toml")
    recipe.write_bytes(text if isinstance(text, bytes) else text.encode())
    before = held(model_file.parent)
    result = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"), "--recipe", recipe)
    assert_refused(result, *saying, *(["mine.toml"] if case != "wrong order" else []))
    assert held(model_file.parent) == before


def _same(model: pathlib.Path) -> pathlib.Path:
    return model.parent / "." / model.name


def _symlink(model: pathlib.Path) -> pathlib.Path:
    link = model.with_name("link.onnx")
    link.symlink_to(model)
    return link


def _hardlink(model: pathlib.Path) -> pathlib.Path:
    link = model.with_name("link.onnx")
    link.hardlink_to(model)
    return link


def _nowhere(model: pathlib.Path) -> pathlib.Path:
    return model.parent / "absent" / "out.onnx"


BAD_OUTPUTS = {
    "the input": (_same, "is the input itself"),
    "a symbolic link to it": (_symlink, "is the input itself"),
    "a hard link to it": (_hardlink, "is the input itself"),
    "a folder": (lambda model: model.parent, "is a folder"),
    "in no folder": (_nowhere, "absent' does not exist"),
    "below a file": (lambda model: model / "out.onnx", "does not exist"),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused(model_file: pathlib.Path, case: str) -> None:
    place, saying = BAD_OUTPUTS[case]
    out = place(model_file)
    before = held(model_file.parent)
    assert_refused(dfmpc("quantize", model_file, "-o", out), saying)
    assert held(model_file.parent) == before


def test_external_weights_of_the_input_are_never_overwritten(model_file: pathlib.Path) -> None:
    onnx.save_model(chain(), model_file, save_as_external_data=True, location="out.onnx", size_threshold=0)
    before = held(model_file.parent)
    assert_refused(dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx")), "input")
    assert held(model_file.parent) == before


def test_without_onnxruntime_nothing_is_written(model_file: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if not installed: import fails, find_spec is None
    before = held(model_file.parent)
    for command in (
        ["quantize", model_file, "-o", model_file.with_name("out.onnx")],
        ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--recipe", "int8"],
        ["verify", model_file, model_file],
    ):
        assert_refused(dfmpc(*command), "onnxruntime is not installed", "pip install onnxruntime")
    assert held(model_file.parent) == before


def test_a_provider_that_is_not_there_is_refused(model_file: pathlib.Path, quantized: pathlib.Path) -> None:
    assert_refused(dfmpc("verify", model_file, quantized, "--provider", "Abacus"), "'Abacus'", "it has", "CPU")


def test_outputs_that_do_not_compare_are_refused(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "other.onnx")
    assert_refused(dfmpc("verify", model_file, tmp_path / "other.onnx"), "other shapes")


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


PIXELS = np.zeros((4, 8, 8, 3), np.uint8)
BAD_IMAGES = {
    "without x": ({"images": PIXELS}, "no array 'x'"),
    "no images": ({"x": PIXELS[:0]}, "no images"),
    "other size": ({"x": PIXELS[:, :5]}, "do not fit"),
    "other channels": ({"x": np.zeros((4, 7, 8, 8), np.float32)}, "do not fit"),
    "one image alone": ({"x": PIXELS[0]}, "[n, height, width, channels]"),
    "other type": ({"x": PIXELS.astype(np.int64)}, "x is int64"),
    "not finite": ({"x": np.full((4, 3, 8, 8), np.nan, np.float32)}, "NaN"),
    "labels of other length": ({"x": PIXELS, "y": np.arange(3)}, "y must hold"),
    "labels not whole": ({"x": PIXELS, "y": np.zeros(4)}, "y must hold"),
    "labels below 0": ({"x": PIXELS, "y": np.array([0, 1, 2, -1])}, "labels from -1 to 2"),
    "labels of other classes": (
        {"x": PIXELS, "y": np.array([0, 1, 2, 900])},
        "labels run to 900, and the model has 5 classes",
    ),
    "pickled": ({"x": np.array([None])}, "plain arrays"),
    "one number": ({"x": np.float32(3)}, "x is a single number"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_an_npz_that_does_not_fit_is_refused(model_file: pathlib.Path, tmp_path: pathlib.Path, case: str) -> None:
    arrays, saying = BAD_IMAGES[case]
    np.savez(tmp_path / "images.npz", **arrays)
    assert_refused(dfmpc("verify", model_file, model_file, "--images", tmp_path / "images.npz"), saying)
    if not case.startswith("labels"):  # which quantize does not look at
        make = ["quantize", model_file, "-o", model_file.with_name("out.onnx"), "--recipe", "int8"]
        assert_refused(dfmpc(*make, "--images", tmp_path / "images.npz"), saying)


def test_a_model_of_one_dimension_takes_a_number_for_an_image(tmp_path: pathlib.Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 13]> g (float[5] x) => (float[5] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    np.savez(tmp_path / "a.npz", x=np.ones(4, np.float32))
    assert dfmpc("verify", tmp_path / "m.onnx", tmp_path / "m.onnx", "--images", tmp_path / "a.npz").exit_code == 0


def test_arrays_that_no_memory_has_room_for_are_refused(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A header of a few bytes claims 700 TB."""
    head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3, 8, 8), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head)
    assert_refused(
        dfmpc("verify", model_file, model_file, "--images", tmp_path / "a.npz"), "a.npz: its arrays are larger"
    )


@pytest.mark.parametrize(
    ("files", "saying"),
    [
        ({}, "no image files"),
        ({"notes.txt": b"hello"}, "no image files"),
        ({"a.png": b"not a picture"}, "a.png: not an image"),
        ({"a.png": None, "labels.csv": b"file,label\nb.png,1\n"}, "no row for 'a.png'"),
        ({"a.png": None, "labels.csv": b"file,label\na.png,cat\n"}, "file and label"),
        ({"a.png": None, "labels.csv": b"name,class\na.png,1\n"}, "file and label"),
    ],
)
def test_a_folder_that_does_not_serve_is_refused(
    model_file: pathlib.Path, tmp_path: pathlib.Path, files: dict[str, bytes | None], saying: str
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, content in files.items():
        if content is None:
            Image.fromarray(PIXELS[0]).save(folder / name)
        else:
            (folder / name).write_bytes(content)
    assert_refused(dfmpc("verify", model_file, model_file, "--images", folder), saying)


def _zip(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("x.npy", content)
    return stream.getvalue()


NOT_NPZ = {"missing": None, "empty": b"", "text": b"hello", "a cut zip": b"PK\x03\x04 cut", "an npy": _npy(PIXELS)}
NOT_NPZ["a zip of something else"] = _zip(b"hello")


@pytest.mark.parametrize("content", NOT_NPZ.values(), ids=NOT_NPZ.keys())
def test_a_file_that_is_no_npz_is_refused(
    model_file: pathlib.Path, tmp_path: pathlib.Path, content: bytes | None
) -> None:
    images = tmp_path / "images.npz"
    if content is not None:
        images.write_bytes(content)
    assert_refused(dfmpc("verify", model_file, model_file, "--images", images), "images.npz")


@pytest.mark.parametrize("command", ["passes", "recipes"])
def test_an_unknown_name_is_refused_with_those_there_are(command: str) -> None:
    assert_refused(dfmpc(command, "nonesuch"), "'nonesuch'", "normalize" if command == "passes" else "give one of")


@pytest.mark.parametrize("words", [["a\nb\x9b\x1b"], ["--a\nb\x9b\x1b"], ["passes", "--a\nb\x9b\x1b"]])
def test_an_unknown_command_or_option_is_shown_as_data(words: list[str]) -> None:
    result = dfmpc(*words)
    assert_refused(result, "no such ", "--help'")
    assert not set("\x9b\x1b") & set(result.output)


@pytest.mark.parametrize(
    ("words", "saying"),
    [
        (["quantize"], "missing argument 'MODEL'; see 'main quantize --help'"),
        (["quantize", "m.onnx"], "missing option '-o' / '--output'; see 'main quantize --help'"),
        (["quantize", "m.onnx", "-o", "o.onnx", "--seed", "-1"], "invalid value for '--seed': -1 is not in the range"),
        (["quantize", "m.onnx", "--layer"], "option '--layer' requires an argument; write --layer GLOB=BITS, see"),
        (["plan", "m.onnx", "--pareto"], "option '--pareto' requires an argument; write --pareto N, see"),
        (["verify", "m.onnx", "o.onnx", "p.onnx"], "got unexpected extra argument (p.onnx); see 'main verify --help'"),
        (["verify", "m.onnx", "o.onnx", "--min-sqnr", "x"], "invalid value for '--min-sqnr': 'x' is not a number; see"),
        (["verify", "m.onnx", "o.onnx", "--count", "1.5"], "invalid value for '--count': '1.5' is not a whole number"),
        (
            ["quantize", "m.onnx", "-o", "o.onnx", "--max-seconds", "1m"],
            "invalid value for '--max-seconds': '1m' is not a",
        ),
        (["images", "-o", "a.png", "--size", "4"], "invalid value for '--size': 4 is not in the range"),
    ],
)
def test_a_wrong_use_is_one_line_too(words: list[str], saying: str) -> None:
    assert_refused(dfmpc(*words), f"error: {saying}")


def test_no_word_at_all_gets_the_help() -> None:
    result = dfmpc()
    assert result.exit_code == 2
    assert "Examples:\n" in result.output and "\n  quantize " in result.output


def test_an_interruption_is_no_failed_threshold(monkeypatch: pytest.MonkeyPatch, model_file: pathlib.Path) -> None:
    def inspect(model: str, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("dfmpc_onnx.api.inspection.inspect", inspect)
    result = dfmpc("inspect", model_file)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


def test_a_device_is_not_replaced_by_a_file(model_file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert_refused(dfmpc("quantize", model_file, "-o", pipe, "--recipe", "paper"), "pipe: is a device or a pipe")
    assert pipe.is_fifo()


def test_an_output_of_the_longest_name_that_a_folder_takes(model_file: pathlib.Path) -> None:
    out = model_file.with_name(f"{'n' * 250}.onnx")
    assert dfmpc("quantize", model_file, "-o", out, "--recipe", "paper").exit_code == 0
    assert out.is_file()


def test_a_name_that_no_file_has_is_refused(model_file: pathlib.Path) -> None:
    with pytest.raises(OptionError, match="no file has such a name"):
        dfmpc_onnx.quantize(model_file, "a\0b", "paper")


def test_a_hostile_name_is_shown_as_data_in_an_error(model_file: pathlib.Path) -> None:
    model = chain()
    model.graph.node[0].name = "[red]\x1b[31m\nx"
    model.graph.initializer[0].CopyFrom(_with_nan(model.graph.initializer[0]))
    onnx.save(model, model_file)
    result = dfmpc("quantize", model_file, "-o", model_file.with_name("out.onnx"))
    assert_refused(result, "[red]?[31m?x")


@pytest.mark.parametrize(
    ("images", "saying"),
    [
        ("absent", "absent: no such file or folder of images"),
        ("empty", "empty: holds no image files"),
        ("other.npz", "other.npz: holds no array 'x'"),
        ("notes.txt", "notes.txt: not an .npz of plain arrays"),
    ],
)
def test_images_that_cannot_be_are_refused_before_the_model_is_read(
    tmp_path: pathlib.Path, images: str, saying: str
) -> None:
    """The network could take minutes before the images are opened."""
    (tmp_path / "empty").mkdir()
    np.savez(tmp_path / "other.npz", y=np.arange(3))
    (tmp_path / "notes.txt").write_text("no archive\n")
    _not_onnx(tmp_path / "model.onnx")
    model, given = tmp_path / "model.onnx", ("--images", tmp_path / images)
    assert_refused(dfmpc("quantize", model, "-o", tmp_path / "out.onnx", *given), saying)
    assert_refused(dfmpc("plan", model, *given), saying)
    assert_refused(dfmpc("verify", model, model, *given), saying)


@pytest.mark.parametrize(
    "arguments", [["plan", "m.onnx", "--pareto"], ["quantize", "m.onnx", "-o"], ["verify", "m.onnx", "--count"]]
)
def test_an_option_without_its_value_names_the_help_of_its_command(arguments: list[str]) -> None:
    assert_refused(dfmpc(*arguments), "requires an argument", f" {arguments[0]} --help'")


def test_of_near_options_only_the_nearest_are_suggested() -> None:
    result = dfmpc("quantize", "m.onnx", "-o", "out.onnx", "--recipie", "int8")
    assert_refused(result, "no such option", "did you mean '--recipe'?")
    assert "--force" not in result.stderr
