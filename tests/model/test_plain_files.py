import os

import pytest

from dfmpc_onnx.model.plain_files import is_utf8, why_unreadable


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_cannot_be_read_to_its_end_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"1234")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    assert why_unreadable(tmp_path / "file") is None
    for name, said in (
        ("none", "no such file"),
        ("", "is a folder"),
        ("pipe", "is a device or a pipe"),
        ("circle", "cannot be read (Too many levels of symbolic links)"),
        ("n" * 256, "cannot be read (File name too long)"),
        ("a\0b", "no file has such a name"),
    ):
        assert why_unreadable(tmp_path / name) == said
    with (tmp_path / "file").open("wb") as stream:
        stream.truncate(2**21)
    assert why_unreadable(tmp_path / "file", 2**20) == "is larger than 1 MiB"


def test_a_name_that_is_not_utf_8_is_none_for_onnxruntime():
    assert is_utf8("näme.onnx")
    assert not is_utf8(os.fsdecode(b"n\xffme.onnx"))
