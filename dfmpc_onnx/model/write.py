"""Models written whole or not at all: checks of the output path, a temporary file, a rename."""

from __future__ import annotations

import hashlib
import os
import pathlib
import stat
import tempfile
from collections.abc import Callable

import onnx
import onnx.external_data_helper

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.model.external_data import external_tensors
from dfmpc_onnx.model.source import EXTERNAL_LIMIT, Source, size_of


def check_target(output: str | os.PathLike[str], source: Source | None) -> pathlib.Path:
    """The output path, refused where writing there is impossible or would destroy the input."""
    path = pathlib.Path(output)
    where = shown(str(path))
    if "\0" in str(path):
        raise OptionError(f"{where}: no file has such a name")
    if path.is_dir():
        raise OptionError(f"{where}: is a folder; give a file name")
    if path.exists() and not path.is_file():  # a rename would put a file in its place
        raise OptionError(f"{where}: is a device or a pipe; give the name of a file")
    if not path.parent.is_dir():
        raise OptionError(f"{where}: folder '{shown(str(path.parent))}' does not exist; make it first")
    if (
        source is not None
        and source.path is not None
        and path.exists()
        and any(map(path.samefile, (source.path, *source.data_files)))
    ):
        raise OptionError(f"{where}: is the input itself; choose another output")
    if not os.access(path.parent, os.W_OK):
        raise OptionError(f"{where}: folder '{shown(str(path.parent))}' cannot be written to")
    return path


def save(
    model: onnx.ModelProto,
    path: pathlib.Path,
    external: bool,
    check: Callable[[pathlib.Path], None] = lambda staged: None,
) -> int:
    """Write a model under its name at once, by a temporary file in the same folder and a rename.

    external: whether weights go to a file of their own beside it. That file's name carries a digest of its
    content, so that a model that stands under the old name keeps the weights it was written with. check: called
    with the temporary file, which can be loaded from where it is; where it raises, the folder stays as it was.
    Returns the bytes written. Raises OptionError where the disk refuses.
    """
    external = external or size_of(model) >= EXTERNAL_LIMIT
    renames: list[tuple[pathlib.Path, pathlib.Path]] = []
    written = 0
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name[:40]}.", dir=path.parent) as scratch:
            staged = pathlib.Path(scratch) / path.name
            if external:
                renames.extend(_stage_external(model, staged, path))
            with staged.open("wb") as stream:
                stream.write(model.SerializeToString(deterministic=True))
                stream.flush()
                os.fsync(stream.fileno())
            # The kernel applied the umask as it made this file; to ask for the umask is to change it, for all threads.
            mode = stat.S_IMODE(staged.stat().st_mode)
            check(staged)
            # The weights first: the model that names them appears last, and with it the whole.
            renames.append((staged, path))
            fresh = [target for _, target in renames[:-1] if not target.exists()]
            written = sum(source.stat().st_size for source, _ in renames)
            try:
                for source, target in renames:
                    source.chmod(mode)
                    source.replace(target)
            except OSError:
                for target in fresh:
                    target.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise OptionError(f"{shown(str(path))}: cannot be written ({error.strerror})") from None
    if external:
        onnx.load_external_data_for_model(model, str(path.parent))
    return written


def _stage_external(
    model: onnx.ModelProto, staged: pathlib.Path, path: pathlib.Path
) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Write the weights beside the staged model; returns the file and the name that it is to get."""
    onnx.convert_model_to_external_data(model, True, "weights", size_threshold=DATA_THRESHOLD)
    onnx.external_data_helper.write_external_data_tensors(model, str(staged.parent))
    data = staged.parent / "weights"
    if not data.exists():
        return []
    with data.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
        os.fsync(stream.fileno())
    name = f"{path.name}.{digest}.data"
    for tensor in external_tensors(model):
        next(entry for entry in tensor.external_data if entry.key == "location").value = name
    return [(data.rename(data.with_name(name)), path.parent / name)]


DATA_THRESHOLD = 1024
