import os
import pathlib

import numpy as np
import onnx
import pytest
from google.protobuf.message import EncodeError

import dfmpc_onnx
from dfmpc_onnx.errors import ModelError, OptionError
from dfmpc_onnx.graph.exchange import to_graph, to_model
from dfmpc_onnx.model.metadata import metadata_of
from dfmpc_onnx.model.source import load, size_of
from dfmpc_onnx.model.write import check_target, save
from dfmpc_onnx.runtime.session import Session
from tests import graphs


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(graphs.chain(), path)
    return path


@pytest.fixture
def external(tmp_path):
    """A model whose weights lie in weights.bin beside it."""
    path = tmp_path / "model.onnx"
    onnx.save(graphs.chain(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def test_a_path_bytes_and_a_proto_are_the_same_model(file):
    read = [load(file), load(str(file)), load(file.read_bytes()), load(onnx.load(file))]
    assert len({graphs.snapshot(to_graph(s)) for s in read}) == 1
    assert len({s.sha256 for s in read[:3]}) == 1
    assert [s.label for s in read[1:3]] == [str(file), "the given model"]


def test_the_source_is_never_written_to(file):
    before, model = file.read_bytes(), graphs.residual()
    held = model.SerializeToString(deterministic=True)
    dfmpc_onnx.quantize(file, check=False)
    dfmpc_onnx.quantize(model, recipe="int8", check=False)
    assert file.read_bytes() == before
    assert model.SerializeToString(deterministic=True) == held


def refused(source, tmp_path=None):
    with pytest.raises(ModelError) as caught:
        to_graph(load(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_file_a_folder_an_empty_file_a_text(tmp_path):
    assert refused(tmp_path / "none.onnx").endswith("none.onnx: no such file")
    assert "is a folder" in refused(tmp_path)
    for content in (b"", b"hello world, this is no model"):
        (tmp_path / "m.onnx").write_bytes(content)
        assert "not an ONNX model" in refused(tmp_path / "m.onnx")


def test_a_file_cut_short_anywhere_is_refused(file):
    data = file.read_bytes()
    for end in range(0, len(data), 97):
        assert "not" in refused(data[:end])


def test_a_weight_that_holds_too_few_bytes_is_refused():
    model = graphs.chain()
    weight = next(t for t in model.graph.initializer if t.name == "conv2.w")
    weight.raw_data = weight.raw_data[:-4]
    assert refused(model) == "the given model: the data of 'conv2.w' holds 2300 of 2304 bytes"


@pytest.mark.parametrize("opset", [27, 99])
def test_an_opset_that_onnxruntime_does_not_run_yet_is_refused(opset):
    model = graphs.chain()
    model.opset_import[0].version = opset
    assert f"opset {opset} is newer" in refused(model)


def test_a_graph_without_nodes_is_refused():
    model = graphs.chain()
    del model.graph.node[:]
    assert "no nodes" in refused(model)


def test_what_breaks_the_specification_is_refused():
    model = graphs.chain()
    model.graph.node[0].op_type = "Convv"
    assert "not a valid ONNX model" in refused(model)
    model = graphs.chain()
    model.graph.node[0].input[0] = "nowhere"
    assert "not a valid ONNX model" in refused(model)


def test_initializers_listed_as_inputs_as_ir_version_3_demands():
    graph = to_graph(load(graphs.old(listed=True)))
    assert [t.name for t in graph.inputs] == ["x"]
    assert to_model(graph).ir_version >= 4


# External data


def test_external_data_makes_the_round_trip(external, tmp_path):
    source = load(external)
    assert source.external
    assert source.size == external.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    want = graphs.run(graphs.chain())[0]
    assert np.array_equal(graphs.run(to_graph(source))[0], want)
    out = tmp_path / "out"
    out.mkdir()
    written = save(graphs.chain(), out / "copy.onnx", external=True)
    model, data = sorted(out.iterdir())
    assert model.name == "copy.onnx" and data.name.startswith("copy.onnx.") and data.suffix == ".data"
    assert written == model.stat().st_size + data.stat().st_size
    assert np.array_equal(graphs.run(onnx.load(model))[0], want)


def test_a_change_of_the_external_data_changes_the_digest(external, tmp_path):
    before = load(external).sha256
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert load(external).sha256 != before


def test_external_data_that_is_missing_or_cut_short(external, tmp_path):
    data = tmp_path / "weights.bin"
    data.write_bytes(data.read_bytes()[:-100])
    assert "external data" in refused(external) or "holds" in refused(external)
    data.unlink()
    assert "external data file 'weights.bin' is missing beside the model" in refused(external)


def relocated(path, location):
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = location
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_external_data_outside_the_folder_is_refused(external, tmp_path, kind):
    folder = tmp_path / "inner"
    folder.mkdir()
    model = external.rename(folder / "model.onnx")
    outside = tmp_path / "weights.bin"
    location = {"parent": "../weights.bin", "absolute": str(outside), "link": "link.bin"}[kind]
    if kind == "link":
        (folder / "link.bin").symlink_to(outside)
    relocated(model, location)
    assert "lies outside the model's folder; refused" in refused(model)


def test_bytes_and_protos_whose_weights_lie_elsewhere_are_refused(external, tmp_path, monkeypatch):
    assert "give the model's path instead" in refused(external.read_bytes())
    monkeypatch.chdir(tmp_path.parent)
    refused(onnx.load(external, load_external_data=False))


# Writing


def test_the_output_must_be_a_file_in_a_folder_that_is_there_and_not_the_input(file, tmp_path):
    source = load(file)
    link = tmp_path / "link.onnx"
    link.symlink_to(file)
    for target, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "none" / "out.onnx", "does not exist; make it first"),
        (file, "is the input itself"),
        (link, "is the input itself"),
    ):
        with pytest.raises(OptionError, match=said):
            check_target(target, source)
    assert check_target(tmp_path / "out.onnx", source) == tmp_path / "out.onnx"


def test_the_inputs_external_data_is_the_input_too(external, tmp_path):
    with pytest.raises(OptionError, match="is the input itself"):
        check_target(tmp_path / "weights.bin", load(external))


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, external):
    path = tmp_path / "out.onnx"
    path.write_bytes(b"the old file")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    if step == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        monkeypatch.setattr(pathlib.Path, "replace", full)
    with pytest.raises(OptionError, match="cannot be written \\(No space left on device\\)"):
        save(graphs.chain(), path, external)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_writes_the_same_bytes_again_with_the_usual_rights(tmp_path):
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    assert save(graphs.chain(), first, False) == first.stat().st_size
    save(graphs.chain(), second, False)
    assert first.read_bytes() == second.read_bytes()
    (tmp_path / "plain").touch()
    assert first.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert len(list(tmp_path.iterdir())) == 3


def test_properties_of_the_source_survive_beside_ours():
    model = graphs.chain()
    onnx.helper.set_model_props(model, {"author": "somebody"})
    model.doc_string, model.model_version = "about it", 7
    source = load(model)
    written = to_model(to_graph(source), source, {"recipe": "int8"})
    assert (written.doc_string, written.model_version) == ("about it", 7)
    assert {p.key: p.value for p in written.metadata_props} == {"author": "somebody", "dfmpc_onnx.recipe": "int8"}
    assert metadata_of(written) == {"recipe": "int8"}
    assert metadata_of(model) == {}


# Models larger than protobuf holds: the limit is lowered, since no test can afford 2 GiB


@pytest.fixture
def tiny_limit(monkeypatch):
    """As if protobuf held but 3,000 bytes: serializing a larger model raises."""
    for module in ("model.source", "model.write", "runtime.session"):
        monkeypatch.setattr(f"dfmpc_onnx.{module}.EXTERNAL_LIMIT", 3000)


def test_a_model_too_large_for_one_file_is_written_in_two(tiny_limit, tmp_path):
    made = dfmpc_onnx.quantize(graphs.chain(), tmp_path / "out.onnx", recipe="int8", layers=["*=float"])
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".data", ".onnx"]
    assert made.report.fidelity.sqnr_db > 100
    assert made.report.bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_a_model_too_large_for_one_file_runs_from_memory(tiny_limit):
    model = graphs.chain()
    (got,) = Session(model).run({"x": graphs.input_of(model)})
    assert graphs.relative([got], graphs.run(model)) < 1e-5
    assert all(t.raw_data for t in model.graph.initializer)  # it is whole again


def test_the_size_of_a_model_that_cannot_be_serialized_is_that_of_its_weights(monkeypatch):
    class Huge:
        graph = graphs.chain().graph
        functions = ()
        training_info = ()

        def ByteSize(self):  # noqa: N802
            raise EncodeError("Failed to serialize proto")

    assert size_of(Huge()) == sum(len(t.raw_data) for t in Huge.graph.initializer)


def test_a_single_tensor_larger_than_protobuf_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("dfmpc_onnx.model.tensor_checks.LARGEST_TENSOR_BYTES", 2000)
    assert "'conv2.w' holds 0.00 GB; a single tensor may hold 2 GiB, so split it" in refused(graphs.chain())


# The two names of the standard domain, and types that are no tensors


def test_the_standard_domain_by_its_other_name():
    model = graphs.chain()
    model.opset_import[0].domain = "ai.onnx"
    model.graph.node[0].domain = "ai.onnx"
    written = to_model(to_graph(load(model)))
    assert [(o.domain, o.version) for o in written.opset_import] == [("", 13)]
    assert graphs.relative(graphs.run(written), graphs.run(graphs.chain())) == 0


def test_the_standard_domain_by_both_names():
    model = graphs.chain()
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 13))
    assert len(to_model(to_graph(load(model))).opset_import) == 1
    model.opset_import[1].version = 14
    assert refused(model) == "the given model: declares opsets 13, 14 at once; export it again"


def test_inputs_of_optional_type_are_refused_by_name():
    model = graphs.chain()
    model.opset_import[0].version = 15
    kind = onnx.helper.make_optional_type_proto(onnx.helper.make_tensor_type_proto(1, [1]))
    model.graph.input.append(onnx.helper.make_value_info("maybe", kind))
    assert "input or output 'maybe' is of optional type" in refused(model)


def test_what_is_said_of_an_output_counts_more_than_what_is_said_of_it_elsewhere():
    model = graphs.chain()
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("gemm1", onnx.TensorProto.FLOAT16, [1, 5]))
    assert to_graph(load(model)).outputs[0].dtype == np.float32


# What is stored in a way that nothing reads


def test_a_tensor_in_segments_is_refused():
    model = graphs.chain()
    model.graph.initializer[0].segment.begin = 1
    assert refused(model).endswith("is stored in segments, which no runtime reads")


def test_a_weight_of_text_is_refused():
    model = graphs.chain()
    weight = next(t for t in model.graph.initializer if t.name == "conv2.w")
    values = [b"1"] * int(np.prod(weight.dims))
    weight.CopyFrom(onnx.helper.make_tensor(weight.name, onnx.TensorProto.STRING, weight.dims, values))
    with pytest.raises(ModelError, match=r"'conv2\.w' of Conv 'conv2' holds text"):
        dfmpc_onnx.quantize(model, recipe="int8")


@pytest.mark.parametrize("place", ["domain", "producer_name", "metadata"])
def test_what_a_model_says_of_itself_must_be_utf_8(place):
    model = graphs.chain()
    if place == "metadata":
        onnx.helper.set_model_props(model, {"author": "somebody"})
    else:
        setattr(model, place, "somebody")
    assert "not UTF-8" in refused(model.SerializeToString().replace(b"somebody", b"some\xffody"))


def test_a_name_that_onnxruntime_cannot_open_is_refused(file, tmp_path):
    odd = tmp_path / os.fsdecode(b"n\xffme.onnx")
    with pytest.raises(OptionError, match="its name is not UTF-8"):
        check_target(odd, load(file))
    file.rename(odd)
    assert "its name is not UTF-8" in refused(odd)


def test_a_name_that_is_too_long_is_refused(file, tmp_path):
    with pytest.raises(OptionError, match="File name too long"):
        check_target(tmp_path / ("n" * 256), load(file))
    with pytest.raises(OptionError, match="does not exist"):
        check_target(tmp_path / ("n" * 256) / "out.onnx", load(file))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "is a device or a pipe; give the path of an .onnx file" in refused(tmp_path / "pipe.onnx")
