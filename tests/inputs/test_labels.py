"""labels.csv as spreadsheets write it, and as nobody should."""

import os

import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.inputs.labels import MOST_TABLE_BYTES, read_labels


@pytest.mark.parametrize(
    "text",
    [
        b"file,label\na.png,3\n",
        b"\xef\xbb\xbffile,label\r\na.png,3\r\n",
        b"file;label\na.png;3\n",
        b"label\tfile\n3\ta.png\n",
        b'file, label\n"a.png", 3\n',
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text):
    (tmp_path / "labels.csv").write_bytes(text)
    assert read_labels(tmp_path, "here") == {"a.png": 3}


def test_no_table_is_no_mistake(tmp_path):
    assert read_labels(tmp_path, "here") is None


def refused(folder):
    with pytest.raises(OptionError) as caught:
        read_labels(folder, "here")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,label\na.png,3\n".encode("utf-16"), "not a text file in UTF-8"),
        (b"file,label\na.png,1\0\n", "must have the columns"),
        (b"file,label\na.png," + b"9" * 400, "must have the columns"),
        (b"file,label\na.png," + b"9" * 5000, "must have the columns"),
        (b"file,label\n" + b"a" * 10**6, "must have the columns"),
        (b"file,label\na.png\n", "must have the columns"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, said):
    (tmp_path / "labels.csv").write_bytes(text)
    assert said in refused(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_plain_file_is_never_opened(tmp_path):
    def folder():
        (tmp_path / "labels.csv").mkdir()

    def itself():
        (tmp_path / "labels.csv").symlink_to("labels.csv")

    def nothing():
        (tmp_path / "labels.csv").symlink_to("nowhere")

    def device():
        (tmp_path / "labels.csv").symlink_to("/dev/zero")

    def huge():
        with (tmp_path / "labels.csv").open("wb") as stream:
            stream.truncate(MOST_TABLE_BYTES + 1)

    def pipe():
        os.mkfifo(tmp_path / "labels.csv")

    for make, said in (
        (folder, "is a folder"),
        (itself, "symbolic links"),
        (nothing, "is a link to nothing"),
        (device, "is a device or a pipe"),
        (huge, "is larger than 64 MiB"),
        (pipe, "is a device or a pipe"),
    ):
        make()
        assert said in refused(tmp_path)
        table = tmp_path / "labels.csv"
        table.rmdir() if make is folder else table.unlink()
