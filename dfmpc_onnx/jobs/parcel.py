"""The files of a job as bytes: packed where they lie, unpacked below a folder elsewhere.

A job reads its model, the files of weights beside that, and what its options name: images, and a recipe file with those
that it extends. Who packs reads no model, since a hostile one may bring down who does. So the first try of a job has no
files of weights; its row says which ones it lacks, and the second try has them.
"""

from __future__ import annotations

import dataclasses
import html
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
MODEL, IMAGES, RECIPES = "model", "images", "recipes"  # the folders there


@dataclasses.dataclass(frozen=True)
class Named:
    """Files that the options of jobs name, by their places. options: the places of what each option names. size: of
    all, in bytes."""

    files: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    size: int = 0


class NamedFiles:
    """The files that the options of each job name. Many jobs name the same, so they are looked up once."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], Named] = {}

    def of(self, job: Job) -> Named:
        """Raises OptionError for a recipe that extends another by its whole path, which is another one elsewhere."""
        images, recipe = str(job.options.get("images", "")), str(job.options.get("recipe", ""))
        if (images, recipe) not in self._found:
            files: dict[str, pathlib.Path] = {}
            options: dict[str, str] = {}
            if images:
                options["images"] = _add_images(files, pathlib.Path(os.path.normpath(images)))
            if recipe.endswith(".toml"):
                options["recipe"] = _add_recipes(files, recipe)
            self._found[images, recipe] = Named(files, options, _size(files.values()))
        return self._found[images, recipe]


def _add_images(files: dict[str, pathlib.Path], source: pathlib.Path) -> str:
    """A folder's pictures and labels, or an .npz; the place of the folder or file, which keeps its name."""
    place = f"{IMAGES}/{source.name}"
    for path in files_of(source):
        files[place if path == source else f"{place}/{path.name}"] = path
    return place


def _add_recipes(files: dict[str, pathlib.Path], name: str) -> str:
    """A recipe file and those that it extends, as they lie to each other; the place of the first."""
    paths = list(_recipe_files(name))
    folder = os.path.commonpath([path.parent for path in paths])
    places = [f"{RECIPES}/{path.relative_to(folder).as_posix()}" for path in paths]
    files.update(zip(places, paths, strict=True))
    return places[0]


def _recipe_files(name: str) -> Iterator[pathlib.Path]:
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


def model_files(job: Job, data: Iterable[str] = ()) -> dict[str, pathlib.Path]:
    """A model and files of its weights, which it names from its own folder, by their places."""
    model = pathlib.Path(job.model)
    return {f"{MODEL}/{pathlib.PurePath(name).as_posix()}": model.parent / name for name in (model.name, *data)}


def check_sent(job: Job, size: int) -> None:
    """Raise OptionError where the files of a job are more than is sent. size: bytes of those beside its model."""
    size += _size([pathlib.Path(job.model)])
    if size > MOST_SENT:
        raise OptionError(
            f"dask-files bytes: the files of {shown(job.name)} are {size / 1e9:.1f} GB, and at most "
            f"{MOST_SENT / 1e9:g} GB are sent; put them on storage that the workers share, and give --dask-files shared"
        )


def pack(files: Mapping[str, pathlib.Path]) -> dict[str, bytes]:
    """The plain ones among some files; of others the job says that there is no such file."""
    found = {}
    for place, path in files.items():
        try:
            if why_unreadable(path) is None:
                found[place] = path.read_bytes()
        except OSError:
            continue
    return found


def missing_data(job: Job, row: JobRow, named: Named) -> tuple[str, ...]:
    """The files of weights that a try of a job lacked and that lie here beside its model, by the model's names.

    Raises OptionError where all files of the job are more than is sent.
    """
    folder = pathlib.Path(job.model).parent
    data: dict[str, str] = msgspec.json.decode(row.data)
    found = tuple(name for name, digest in data.items() if not digest and _is_here(folder, name))
    check_sent(job, named.size + _size(folder / name for name in found))
    return found


def unpack(files: Files, folder: pathlib.Path) -> None:
    """Write files under their places below a folder."""
    for place, content in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def order_below(order: Order, options: Mapping[str, str], folder: pathlib.Path) -> Order:
    """An order for files below a folder: those that it reads at their places, those that it writes in folders of their
    own. options: the places of what options name.

    The output keeps its name, of which that of its weights is made.
    """
    job, places = order.job, {name: str(folder / place) for name, place in options.items()}
    model = folder / MODEL / pathlib.Path(job.model).name
    output, report = (
        folder / name / pathlib.Path(p).name for name, p in (("out", order.output), ("page", order.report))
    )
    for path in (model, output, report):
        path.parent.mkdir(parents=True, exist_ok=True)
    moved = msgspec.structs.replace(job, model=str(model), options=job.options | places)
    return msgspec.structs.replace(order, job=moved, output=str(output), report=str(report) if order.report else "")


def row_of(row: JobRow, order: Order, moved: Order) -> JobRow:
    """A row of a moved order as that of the order itself: with its paths."""
    reason = row.reason
    for path, own in _own_paths(order, moved).items():
        reason = reason.replace(path, own).replace(shown(path), shown(own))
    return msgspec.structs.replace(
        row,
        model=order.job.model,
        options=msgspec.json.encode(order.job.options, order="sorted").decode(),
        reason=reason,
        output=order.output if row.output else "",
        report=order.report if row.report else "",
    )


def page_of(page: bytes, order: Order, moved: Order) -> bytes:
    """The HTML report of a moved order with the paths of the order itself, as commands in it name them."""
    for path, own in _own_paths(order, moved).items():
        for form in (str, html.escape):
            page = page.replace(form(path).encode(), form(own).encode())
    return page


def _own_paths(order: Order, moved: Order) -> dict[str, str]:
    """The paths of an order by those of the moved one, those of files below folders first."""
    pairs = [(moved.job.model, order.job.model), (moved.output, order.output), (moved.report, order.report)]
    pairs += [(str(path), str(order.job.options[name])) for name, path in moved.job.options.items()]
    return {path: own for path, own in sorted(pairs, reverse=True) if path and path != own}


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


def _is_here(folder: pathlib.Path, name: str) -> bool:
    """Whether a file that a model names is a plain one below its folder, as `quantize` wants it."""
    inner = pathlib.PurePath(name)
    if not name or inner.is_absolute() or ".." in inner.parts:
        return False
    try:
        inside = pathlib.Path(os.path.realpath(folder / inner)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):
        return False
    return inside and why_unreadable(folder / inner) is None
