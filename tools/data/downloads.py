"""What the tools that fetch things of third parties share: whether a file is the expected one, and writing it whole."""

from __future__ import annotations

import hashlib
import http.client
import pathlib
import sys
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]


class FetchError(Exception):
    """Something could not be fetched, or is not what was expected; says which and why."""


def digest(path: pathlib.Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check(content: bytes, sha256: str, what: str) -> None:
    """Raises FetchError where content has another SHA-256 than expected. what: it, to name it."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise FetchError(f"{what} has SHA-256 {found}, expected {sha256}")


def write(path: pathlib.Path, content: bytes) -> None:
    """The file is there whole, or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def make_folder(folder: pathlib.Path, what: str) -> bool:
    """Make a folder outside the repository, where nothing of third parties belongs; says why where that cannot be."""
    try:
        if folder.is_relative_to(ROOT):
            raise FetchError(f"{folder} lies in the repository; {what} may not be committed, so give another folder")
        folder.mkdir(parents=True, exist_ok=True)
    except (FetchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return False
    return True


def get(url: str, what: str, timeout: float = 60.0) -> bytes:
    """What an address answers. what: it, to name it; timeout: seconds without a byte. Raises FetchError."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            content: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(f"{what}: could not download {url} ({error})") from None
    return content
