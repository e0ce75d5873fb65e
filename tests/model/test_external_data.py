"""Weights beside the model: what is read, and what is refused before anything is."""

from __future__ import annotations

import os
import pathlib
import sys

import onnx
import pytest

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError
from dfmpc_onnx.model.external_data import external_tensors, read_external
from dfmpc_onnx.model.source import load
from tests import graphs

WEIGHT = "conv2.w"  # 8 x 8 x 3 x 3: 2304 bytes


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """With model.onnx and its weights.bin."""
    place = tmp_path / "folder"
    place.mkdir()
    model = graphs.chain()
    onnx.save(model, place / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    return place


def edit(folder: pathlib.Path, name: str = WEIGHT, **entries: str | None) -> onnx.TensorProto:
    """Change what a tensor states of its place; None takes an entry away."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    stated = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in stated.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return tensor


def refused(folder: pathlib.Path) -> str:
    with pytest.raises(ModelError) as caught:
        load(folder / "model.onnx")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def values(source: pathlib.Path) -> dict[str, bytes]:
    return {t.name: t.raw_data for t in load(source).model.graph.initializer}


def test_a_length_that_is_not_said_is_that_of_the_shape(folder):
    wanted = values(folder / "model.onnx")
    edit(folder, length=None)
    assert values(folder / "model.onnx") == wanted


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"length": "2300"}, "of 'conv2.w' is said to be 2300 bytes long, its shape wants 2304"),
        ({"length": str(1 << 60)}, f"is said to be {1 << 60} bytes long"),
        ({"length": "-1"}, "is badly described (offset '"),
        ({"offset": "x"}, "is badly described (offset 'x'"),
        ({"offset": "9" * 40}, "is badly described"),
        ({"offset": "٢"}, "is badly described"),
        ({"offset": str(1 << 50)}, "'weights.bin' ends before the data of 'conv2.w'"),
        ({"offset": str(1 << 50), "length": None}, "'weights.bin' ends before the data of 'conv2.w'"),
        ({"location": "/etc/hostname"}, "lies outside the model's folder; refused"),
        ({"location": "../outside.bin"}, "lies outside the model's folder; refused"),
        ({"location": "a/../../outside.bin"}, "lies outside the model's folder; refused"),
        ({"location": "link.bin"}, "lies outside the model's folder; refused"),
        ({"location": "deeper/outside.bin"}, "lies outside the model's folder; refused"),
        ({"location": "*/_ORT_MEM_ADDR_/*"}, "lies outside the model's folder; refused"),
        ({"location": "\0"}, "lies outside the model's folder; refused"),
        ({"location": ""}, "lies outside the model's folder; refused"),
        ({"location": "x" * 300}, "is missing beside the model"),
        ({"location": "circle"}, "is missing beside the model"),
        ({"location": "."}, "'.' is missing beside the model"),
        ({"location": "pipe"}, "'pipe' is missing beside the model"),
    ],
)
def test_a_place_that_cannot_be_is_refused(folder, entries, said):
    (folder.parent / "outside.bin").write_bytes(bytes(10_000))
    (folder / "link.bin").symlink_to(folder.parent / "outside.bin")
    (folder / "deeper").symlink_to(folder.parent)
    (folder / "circle").symlink_to("circle")
    os.mkfifo(folder / "pipe")  # opening it would wait for ever
    edit(folder, **entries)
    assert said in refused(folder)


def test_a_key_that_onnx_does_not_know_does_no_harm(folder):
    wanted = values(folder / "model.onnx")
    edit(folder, basepath="/etc", elsewhere="x")
    assert values(folder / "model.onnx") == wanted


def test_a_shape_that_claims_more_than_the_file_holds_is_refused_before_it_is_read(folder):
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    model.graph.initializer[0].dims[:] = [1 << 16, 1 << 16]
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert "is said to be" in refused(folder)
    edit(folder, model.graph.initializer[0].name, length=None)
    assert "ends before the data of" in refused(folder)


def test_many_tensors_of_one_place_are_refused_where_memory_has_no_room_for_all(folder, monkeypatch):
    monkeypatch.setattr("dfmpc_onnx.model.external_data.machine_memory", lambda: 4000)
    assert "takes 6.04e-06 GB, this machine has 4e-06" in refused(folder)


def test_sparse_weights_in_another_file_are_refused(folder):
    model = onnx.load(folder / "model.onnx")
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.name, sparse.values.data_type = "s", onnx.TensorProto.FLOAT
    sparse.values.data_location = onnx.TensorProto.EXTERNAL
    sparse.values.external_data.add(key="location", value="/etc/hostname")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert "sparse tensor 's' lies in another file" in refused(folder)


def test_weights_within_attributes_are_held_to_the_folder_too(folder):
    model = onnx.load(folder / "model.onnx")
    value = onnx.TensorProto(name="k", data_type=onnx.TensorProto.FLOAT, dims=[1])
    value.data_location = onnx.TensorProto.EXTERNAL
    value.external_data.add(key="location", value="../outside.bin")
    inner = onnx.helper.make_graph([onnx.helper.make_node("Constant", [], ["k"], value=value)], "inner", [], [])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], [], then_branch=inner, else_branch=inner))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    assert "lies outside the model's folder" in refused(folder)


def test_an_input_that_may_only_be_read_is_enough(folder, tmp_path):
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    for file in folder.iterdir():
        file.chmod(0o444)
    folder.chmod(0o555)
    try:
        dfmpc_onnx.quantize(folder / "model.onnx", tmp_path / "out.onnx", recipe="per-channel")
    finally:
        folder.chmod(0o755)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs files with holes")
def test_what_no_tensor_claims_is_not_read(folder):
    """A tensor at the end of a file of 40 GB, nearly all of which nobody claims."""
    before = load(folder / "model.onnx")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    data = next(p for p in folder.iterdir() if p.suffix != ".onnx")
    content, far = data.read_bytes(), 30 << 30
    with data.open("wb") as stream:
        stream.truncate(40 << 30)
        stream.seek(far)
        stream.write(content)
    for tensor in model.graph.initializer:
        stated = {entry.key: entry for entry in tensor.external_data}
        if "offset" not in stated:
            stated["offset"] = tensor.external_data.add(key="offset", value="0")
        stated["offset"].value = str(far + int(stated["offset"].value))
    (folder / "model.onnx").write_bytes(model.SerializeToString())

    class Counting:
        read = 0

        def update(self, chunk):
            Counting.read += len(chunk)

    files, size = read_external(model, external_tensors(model), folder / "model.onnx", "model", Counting())
    assert files == (data,)
    assert 0 < Counting.read == size <= len(content)
    assert load(folder / "model.onnx").size < before.size + 200  # of longer numbers


def test_a_damaged_model_that_claims_its_own_bytes_has_them_once(tmp_path: pathlib.Path) -> None:
    model, path = graphs.chain(), tmp_path / "model.onnx"
    tensor = model.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", path.name), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString() + bytes(0))
    assert load(path).size == path.stat().st_size
