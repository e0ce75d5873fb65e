"""Models written whole or not at all: checks of the output path, a temporary file, a rename."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import stat
from collections.abc import Callable

import onnx
import onnx.external_data_helper

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.model.external_data import external_tensors
from dfmpc_onnx.model.plain_files import is_folder, is_utf8, why_unreadable
from dfmpc_onnx.model.source import EXTERNAL_LIMIT, Source, may_be_replaced, size_of
from dfmpc_onnx.model.staging import data_name, publishing, remove_orphans, staging_folder


@dataclasses.dataclass(frozen=True)
class FileKind:
    """What a command writes, so that it knows its own files again. name: as in "is no ONNX model"; may_be_replaced:
    whether what lies at a path is such a file, or empty: nothing that somebody keeps for something else."""

    name: str
    may_be_replaced: Callable[[pathlib.Path], bool]


ONNX_MODEL = FileKind("ONNX model", may_be_replaced)


def check_target(
    output: str | os.PathLike[str], source: Source | None, *, force: bool = True, kind: FileKind = ONNX_MODEL
) -> pathlib.Path:
    """The output path, refused where writing there is impossible or would destroy the input.

    force: whether a file of another kind may be written over.
    """
    path = pathlib.Path(output)
    where = shown(str(path))
    if "\0" in str(path):
        raise OptionError(f"{where}: no file has such a name")
    if not is_utf8(path):
        raise OptionError(f"{where}: its name is not UTF-8, which onnxruntime cannot open; choose another")
    reason = why_unreadable(path)
    if reason == "is a folder":
        raise OptionError(f"{where}: is a folder; give a file name")
    if reason == "is a device or a pipe":  # a rename would put a file in its place
        raise OptionError(f"{where}: is a device or a pipe; give the name of a file")
    if not is_folder(path.parent):
        raise OptionError(f"{where}: folder '{shown(str(path.parent))}' does not exist; make it first")
    if reason not in (None, "no such file"):  # such as a name that is too long
        raise OptionError(f"{where}: {reason}")
    if (
        source is not None
        and source.path is not None
        and path.exists()
        and any(map(path.samefile, (source.path, *source.data_files)))
    ):
        raise OptionError(f"{where}: is the input itself; choose another output")
    if not os.access(path.parent, os.W_OK):
        raise OptionError(f"{where}: folder '{shown(str(path.parent))}' cannot be written to")
    if not force and path.exists() and not kind.may_be_replaced(path):
        raise OptionError(f"{where}: is there already, and is no {kind.name}; choose another output, or give --force")
    return path


def save(
    model: onnx.ModelProto,
    path: pathlib.Path,
    external: bool,
    check: Callable[[pathlib.Path], None] = lambda staged: None,
) -> int:
    """Write a model under its name at once, by a temporary file in the same folder and a rename.

    external: whether weights go to a file of their own beside it. That file's name carries a digest of its
    content, so that a model that stands under the old name keeps the weights it was written with. What runs that were
    killed have left of this output, and the weights of the model that it replaces, are removed. check: called
    with the temporary file, which can be loaded from where it is; where it raises, the folder stays as it was.
    Returns the bytes written. Raises OptionError where the disk refuses.
    """
    external = external or size_of(model) >= EXTERNAL_LIMIT
    renames: list[tuple[pathlib.Path, pathlib.Path]] = []
    try:
        with staging_folder(path) as scratch:
            staged = scratch / path.name
            if external:
                renames.extend(_stage_external(model, staged, path))
            with staged.open("wb") as stream:
                stream.write(model.SerializeToString(deterministic=True))
                stream.flush()
                os.fsync(stream.fileno())
            # The kernel applied the umask as it made this file; to ask for the umask is to change it, for all threads.
            mode = stat.S_IMODE(staged.stat().st_mode)
            check(staged)
            if external:  # from here, since another run may replace the output as soon as it stands there
                onnx.load_external_data_for_model(model, str(scratch))
            # The weights first: the model that names them appears last, and with it the whole.
            renames.append((staged, path))
            written = sum(source.stat().st_size for source, _ in renames)
            _publish(renames, mode, path)
    except OSError as error:
        raise OptionError(f"{shown(str(path))}: cannot be written ({error.strerror})") from None
    return written


def save_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write a text under its name at once, by a temporary file and a rename. Raises OptionError."""
    save_bytes(text.encode("utf-8"), path)


def save_bytes(content: bytes, path: str | os.PathLike[str]) -> None:
    """Write bytes under a name at once, by a temporary file and a rename. Raises OptionError."""
    target = check_target(path, None)
    try:
        with staging_folder(target) as scratch:
            whole = scratch / "content"
            whole.write_bytes(content)
            whole.replace(target)
    except OSError as error:
        raise OptionError(f"{shown(str(target))}: cannot be written ({error.strerror})") from None


def _publish(renames: list[tuple[pathlib.Path, pathlib.Path]], mode: int, path: pathlib.Path) -> None:
    """Give staged files their names, all or none."""
    with publishing(path.parent):
        fresh = [target for _, target in renames[:-1] if not target.exists()]
        try:
            for source, target in renames:
                source.chmod(mode)
                source.replace(target)
        except BaseException:  # a signal too, which may come once the model has its name
            if renames[-1][0].exists():
                for target in fresh:
                    target.unlink(missing_ok=True)
            raise
        remove_orphans(path, [target.name for _, target in renames])


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
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    name = data_name(path, digest)
    for tensor in external_tensors(model):
        next(entry for entry in tensor.external_data if entry.key == "location").value = name
    return [(data.rename(data.with_name(name)), path.parent / name)]


DATA_THRESHOLD = 1024
