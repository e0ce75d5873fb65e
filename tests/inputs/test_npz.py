"""An .npz that anybody may have written: one refusal, before anything is read that the memory has no room for."""

import zipfile

import numpy as np
import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.npz import read_arrays

VALUES = np.arange(6, dtype=np.float32)


def written(tmp_path, shape="(2, 3)", kind="'<f4'", version=1):
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = len(head).to_bytes(2 if version == 1 else 4, "little")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + bytes([version, 0]) + length + head + VALUES.tobytes())
    return tmp_path / "a.npz"


def edited(path, local, central, number):
    """A field of the member's two headers set to a number."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", local), (b"PK\x01\x02", central)):
        data[data.find(mark) + offset] = number
    path.write_bytes(bytes(data))
    return path


def refused(path):
    with pytest.raises(OptionError) as caught:
        read_arrays(str(path), "a.npz")
    return str(caught.value)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_numpy_writes_is_read(tmp_path, version):
    assert np.array_equal(read_arrays(str(written(tmp_path, version=version)), "a")["x"], VALUES.reshape(2, 3))
    x = np.asfortranarray(np.random.default_rng(0).standard_normal((2, 3, 4)))
    np.savez_compressed(tmp_path / "b.npz", x=x, y=np.arange(2))
    found = read_arrays(str(tmp_path / "b.npz"), "b")
    assert np.array_equal(found["x"], x) and found["y"].tolist() == [0, 1]


def test_sizes_as_python_2_wrote_them_are_read_without_a_warning(tmp_path):
    assert read_arrays(str(written(tmp_path, "(2L, 3L)")), "a")["x"].shape == (2, 3)


def test_what_is_encrypted_or_compressed_in_an_unknown_way_is_refused(tmp_path):
    assert "is encrypted" in refused(edited(written(tmp_path), 6, 8, 1))
    for method in (8, 12, 14, 99):
        assert "not an .npz" in refused(edited(written(tmp_path), 8, 10, method))


@pytest.mark.parametrize(
    "shape", ["(True, 3)", "(-1, 3)", "(1.5, 3)", "('a',)", "((1, 2), 3)", "(7, 3)", "(1,", "(" * 3000, "(2, 0)"]
)
def test_a_shape_that_is_none_or_does_not_fit_is_refused(tmp_path, shape):
    assert "not an .npz of plain arrays" in refused(written(tmp_path, shape))


@pytest.mark.parametrize("shape", [f"({10**30}, 3)", f"({10**12}, 3)", f"({'9' * 4000}, 1)", f"(0, {10**30})"])
def test_a_shape_that_no_memory_has_room_for_is_refused(tmp_path, shape):
    assert "larger than the memory there is" in refused(written(tmp_path, shape))


@pytest.mark.parametrize("kind", ["'|O'", "[('a', '<f4')]", "'<q9'", "'f4,f4'", "1", "'|V99999999999'"])
def test_a_type_that_is_not_plain_is_refused(tmp_path, kind):
    assert "not an .npz of plain arrays" in refused(written(tmp_path, kind=kind))


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{",
        b'\x93NUMPY\x01\x00\x10\x00{"descr": 1, \0\0\0\0',
        b"\x93NUMPY\x01\x00\x10\x00" + b"\xff" * 16,
        b"\x93NUMPY\x09\x00\x01\x00\n",
        b"\x80\x04K\x01.",
    ],
)
def test_a_header_that_is_broken_is_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", member)
    assert "not an .npz of plain arrays" in refused(tmp_path / "a.npz")


def test_a_bomb_is_refused_by_its_size_before_it_is_inflated(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000), np.float32))
    monkeypatch.setattr("dfmpc_onnx.inputs.npz.free_memory", lambda: 3_000_000)
    monkeypatch.setattr("numpy.frombuffer", lambda *args: pytest.fail("it was read"))
    assert "larger than the memory there is" in refused(tmp_path / "a.npz")
