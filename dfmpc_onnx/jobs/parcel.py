"""The files of a job as bytes: packed where they lie, unpacked under the same paths below a folder elsewhere.

A job reads its model, the files of weights beside that, and what its options name: images, and a recipe file with those
that it extends. Who packs reads no model, since a hostile one may bring down who does. So the first try of a job has no
files of weights; its row says which ones it lacks, and the second try has them.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from dfmpc_onnx.catalog import recipe_text
from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.files import files_of
from dfmpc_onnx.jobs.job import Job, Order
from dfmpc_onnx.model.plain_files import why_unreadable
from dfmpc_onnx.model.staging import remove_orphans
from dfmpc_onnx.model.write import save_bytes
from dfmpc_onnx.pipeline.recipe_file import base_of
from dfmpc_onnx.report.batch_row import JobRow

MOST_SENT = 2 * 10**9  # bytes of the files of one job: they pass through the scheduler's memory
Files = Mapping[str, bytes]  # by their place below a folder, with slashes


@dataclasses.dataclass(frozen=True)
class Named:
    """Files that the options of jobs name, and their bytes together."""

    paths: tuple[pathlib.Path, ...] = ()
    size: int = 0


class NamedFiles:
    """The files that the options of each job name. Many jobs name the same, so they are looked up once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Named] = {}

    def of(self, job: Job) -> Named:
        """Raises OptionError for a recipe that extends another by its whole path, which is another one elsewhere."""
        key = str(job.options.get("images", "")), str(job.options.get("recipe", ""))
        if key not in self._found:
            images, recipe = key
            paths = (*(files_of(images) if images else ()), *_recipe_files(recipe))
            self._found[key] = Named(paths, _size(paths))
        return self._found[key]


def _recipe_files(name: str) -> Iterator[pathlib.Path]:
    """A recipe file, and those that it extends."""
    folder = pathlib.Path()
    while name.endswith(".toml"):
        source = recipe_text(name, folder)
        path = pathlib.Path(os.path.realpath(folder / name))  # where a link leads: what it extends lies beside that
        yield path
        name, folder = base_of(source.text), path.parent
        if pathlib.PurePath(name).is_absolute():
            raise OptionError(
                f"dask-files bytes: {shown(str(path))} extends a recipe by its whole path; name it from its own "
                "folder, or give --dask-files shared"
            )


def check_sent(job: Job, size: int) -> None:
    """Raise OptionError where the files of a job are more than is sent. size: bytes of those beside its model."""
    size += _size([pathlib.Path(job.model)])
    if size > MOST_SENT:
        raise OptionError(
            f"dask-files bytes: the files of {shown(job.name)} are {size / 1e9:.1f} GB, and at most "
            f"{MOST_SENT / 1e9:g} GB are sent; put them on storage that the workers share, and give --dask-files shared"
        )


def pack(paths: Iterable[pathlib.Path]) -> dict[str, bytes]:
    """The plain files among some paths; of others the job says that there is no such file."""
    found = {}
    for path in paths:
        try:
            if why_unreadable(path) is None:
                found[_place(path)] = path.read_bytes()
        except OSError:
            continue
    return found


def missing_data(job: Job, row: JobRow, named: Named) -> tuple[pathlib.Path, ...]:
    """The files of weights that a try of a job lacked and that lie here beside its model.

    Raises OptionError where all files of the job are more than is sent.
    """
    folder = pathlib.Path(job.model).parent
    data: dict[str, str] = msgspec.json.decode(row.data)
    wanted = [folder / name for name, digest in data.items() if not digest and _is_inside(folder, name)]
    found = tuple(path for path in wanted if why_unreadable(path) is None)
    check_sent(job, named.size + _size(found))
    return found


def unpack(files: Files, folder: pathlib.Path) -> None:
    """Write files under their places below a folder."""
    for place, content in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def order_below(order: Order, folder: pathlib.Path) -> Order:
    """An order with the files that it reads below one folder, and those that it writes in folders of their own there.

    The output keeps its name, of which that of its weights is made.
    """
    read, written = folder / "read", folder / "written"
    options = dict(order.job.options)
    if "images" in options:
        options["images"] = str(read / _place(pathlib.Path(options["images"])))
    if str(options.get("recipe", "")).endswith(".toml"):
        options["recipe"] = str(read / _place(pathlib.Path(os.path.realpath(options["recipe"]))))
    model = read / _place(pathlib.Path(order.job.model))
    for path in (model.parent, written, folder / "report"):
        path.mkdir(parents=True, exist_ok=True)
    report = str(folder / "report" / pathlib.Path(order.report).name) if order.report else ""
    job = msgspec.structs.replace(order.job, model=str(model), options=options)
    return msgspec.structs.replace(order, job=job, output=str(written / pathlib.Path(order.output).name), report=report)


def row_of(row: JobRow, order: Order, moved: Order) -> JobRow:
    """A row of a moved order as that of the order itself: with its paths."""
    places = {moved.job.model: order.job.model}
    places |= {str(v): str(order.job.options[n]) for n, v in moved.job.options.items() if v != order.job.options[n]}
    reason = row.reason
    for path, own in sorted(places.items(), reverse=True):
        reason = reason.replace(path, own)
    return msgspec.structs.replace(
        row,
        model=order.job.model,
        options=msgspec.json.encode(order.job.options, order="sorted").decode(),
        reason=reason,
        output=order.output if row.output else "",
        report=order.report if row.report else "",
    )


def save_written(written: Files, output: str) -> None:
    """Write the files of an output, its weights first, under its name; raises OptionError."""
    path = pathlib.Path(output)
    names = sorted(map(os.path.basename, written), key=lambda name: name == path.name)
    for name in names:
        save_bytes(written[name], path.parent / name)
    if names:
        remove_orphans(path, names)


def _size(paths: Iterable[pathlib.Path]) -> int:
    return sum(path.stat().st_size for path in paths if why_unreadable(path) is None)


def _place(path: pathlib.Path) -> str:
    whole = pathlib.Path(os.path.normpath(path.absolute()))  # links are kept: weights of a link lie beside it
    return whole.relative_to(whole.anchor).as_posix()


def _is_inside(folder: pathlib.Path, name: str) -> bool:
    """Whether a file that a model names lies below its folder, as `quantize` wants it."""
    inner = pathlib.PurePath(name)
    if not name or inner.is_absolute() or ".." in inner.parts:
        return False
    try:
        return pathlib.Path(os.path.realpath(folder / inner)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):
        return False
