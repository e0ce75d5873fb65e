"""Fetching pictures, with archives made here: no network."""

import hashlib
import io
import tarfile
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tests.commands import held
from tools.data import fetch_pictures
from tools.data.fetch_pictures import SOURCES, FetchError, Source, fetch, present, unpacked


def picture(height=400, width=700, suffix="PNG"):
    """Black strokes on white."""
    pixels = np.full((height, width, 3), 255, np.uint8)
    pixels[:, ::5] = 0
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, suffix)
    return stream.getvalue()


def archive(*members):
    """A source archive. members: name, and content or what a link leads to."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def source(content, kind="text", pictures=None):
    sha = hashlib.sha256(content).hexdigest()
    return Source("thing", "1.0", "MIT", kind, "aa/bb/cc", sha, pictures or {"page": "tests/page.png"})


def serve(monkeypatch, content):
    """What answers instead of the network; the addresses that were asked for."""
    asked = []

    def answer(url, timeout):
        asked.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    return asked


GOOD = archive(("thing-1.0/tests/page.png", picture()), ("thing-1.0/setup.py", b"raise SystemExit('never run')"))


def test_only_the_pictures_are_written_as_tiles(tmp_path, monkeypatch):
    asked = serve(monkeypatch, GOOD)
    files, fresh = fetch(source(GOOD), tmp_path)
    assert fresh and asked == ["https://files.pythonhosted.org/packages/aa/bb/cc/thing-1.0.tar.gz"]
    assert files == ["text/thing-page-1.png", "text/thing-page-2.png"]
    assert held(tmp_path).keys() == {"text", ".thing.json", *files}
    for file in files:
        with Image.open(tmp_path / file) as tile:
            assert (tile.size, tile.mode) == ((320, 320), "RGB")


def test_faces_stay_whole(tmp_path, monkeypatch):
    content = archive(("thing-1.0/tests/page.png", picture(50, 70, "JPEG")))
    serve(monkeypatch, content)
    assert fetch(source(content, "faces"), tmp_path) == (["faces/thing-page.png"], True)
    with Image.open(tmp_path / "faces/thing-page.png") as face:
        assert (face.size, face.format) == ((70, 50), "PNG")


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(tmp_path, monkeypatch):
    asked = serve(monkeypatch, GOOD)
    files, _ = fetch(source(GOOD), tmp_path)
    before = held(tmp_path)
    assert fetch(source(GOOD), tmp_path) == (files, False) and len(asked) == 1
    (tmp_path / files[0]).write_bytes(b"damaged")
    assert fetch(source(GOOD), tmp_path) == (files, True) and held(tmp_path) == before
    (tmp_path / files[1]).unlink()
    assert fetch(source(GOOD), tmp_path) == (files, True) and held(tmp_path) == before
    for record in ("", "[]", '{"wanted": 1, "files": []}', "{}"):
        (tmp_path / ".thing.json").write_text(record)
        assert present(source(GOOD), tmp_path) == []
    fetch(source(GOOD), tmp_path)
    assert present(source(GOOD, pictures={"other": "tests/page.png"}), tmp_path) == []


def test_an_archive_of_another_digest_is_refused(tmp_path, monkeypatch):
    serve(monkeypatch, GOOD + b" ")
    with pytest.raises(FetchError, match=r"thing 1\.0: the archive has SHA-256 .*, expected "):
        fetch(source(GOOD), tmp_path)
    assert held(tmp_path) == {}


def test_no_path_in_an_archive_leads_out_of_the_folder(tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    bad = "../../evil.png"
    content = archive(
        ("../evil.png", picture()),
        (f"{tmp_path}/evil.png", picture()),
        (f"thing-1.0/{bad}", picture()),
        ("thing-1.0/tests/page.png", picture()),
    )
    serve(monkeypatch, content)
    # Even one that is asked for is only read, and written under our name.
    fetch(source(content, pictures={"page": "tests/page.png", "other": bad}), folder)
    names = {f"text/thing-{name}-{n}.png" for name in ("page", "other") for n in (1, 2)}
    assert held(folder).keys() == {"text", ".thing.json", *names}
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive(("thing-1.0/tests/page.png", "/etc/passwd")), r"tests/page\.png is not a file of at most"),
        (archive(("thing-1.0/other", b"")), r"the archive holds no tests/page\.png"),
        (b"no archive", "the archive cannot be read"),
        (GOOD[:200], "the archive (cannot be read|holds no)"),
    ],
    ids=["link", "another file", "no archive", "cut short"],  # a gzip file holds the time
)
def test_an_archive_without_the_picture_is_refused(content, said):
    with pytest.raises(FetchError, match=f"^thing 1\\.0: {said}"):
        unpacked(source(content), content)


def test_a_picture_too_large_to_be_one_of_ours_is_refused(monkeypatch):
    monkeypatch.setattr(fetch_pictures, "LARGEST", 2**10)
    with pytest.raises(FetchError, match="is not a file of at most"):
        unpacked(source(GOOD), GOOD)


def test_what_is_no_picture_is_refused(tmp_path, monkeypatch):
    content = archive(("thing-1.0/tests/page.png", picture()[:100]))
    serve(monkeypatch, content)
    with pytest.raises(FetchError, match=r"tests/page\.png is not a picture"):
        fetch(source(content), tmp_path)
    assert held(tmp_path) == {}


def test_a_failed_download_is_one_line_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    good, gone = source(GOOD), Source("gone", "2.0", "MIT", "faces", "x", "00" * 32, {"a": "a.png"})

    def answer(url, timeout):
        if "gone" in url:
            raise urllib.error.URLError("no route")
        return io.BytesIO(GOOD)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(fetch_pictures, "SOURCES", (gone, good))
    monkeypatch.setattr("sys.argv", ["fetch_pictures.py", str(tmp_path / "new")])
    assert fetch_pictures.main() == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "error: gone 2.0: could not download https://files.pythonhosted.org/packages/x/gone-2.0.tar.gz "
        "(<urlopen error no route>)"
    ]
    assert said.out.splitlines() == [
        "thing 1.0: 2 tiles, MIT",
        f"{(tmp_path / 'new').resolve()}: 2 tiles of text, 0 photographs of faces",
    ]


def test_what_is_no_longer_wanted_is_removed(tmp_path, monkeypatch):
    serve(monkeypatch, GOOD)
    monkeypatch.setattr(fetch_pictures, "SOURCES", (source(GOOD),))
    monkeypatch.setattr("sys.argv", ["fetch_pictures.py", str(tmp_path)])
    fetch(source(GOOD, pictures={"older": "tests/page.png"}), tmp_path)
    (tmp_path / "text/mine.png").write_bytes(b"")
    (tmp_path / ".other.json").write_text('{"files": {"../out.png": ""}, "wanted": ""}')
    (tmp_path / ".mine.json").write_text("[1]")
    assert fetch_pictures.main() == 0
    names = {"text/thing-page-1.png", "text/thing-page-2.png", "text/mine.png"}
    assert held(tmp_path).keys() == {"text", ".thing.json", ".mine.json", *names}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr("sys.argv", ["fetch_pictures.py", str(tmp_path / "file")])
    assert fetch_pictures.main() == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_folder_in_the_repository_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fetch_pictures.py", str(fetch_pictures.pathlib.Path(__file__).parent / "new")])
    assert fetch_pictures.main() == 2
    assert "lies in the repository" in capsys.readouterr().err


def test_every_release_is_pinned_and_no_two_files_have_one_name():
    for item in SOURCES:
        assert len(bytes.fromhex(item.sha256)) == 32 and item.kind in fetch_pictures.KINDS
        assert len(set(item.pictures.values())) == len(item.pictures)
        assert all(name.replace("-", "").isalnum() for name in item.pictures)
    assert len({item.name for item in SOURCES}) == len(SOURCES)
