"""What a job depends on, as a digest: a job whose key and files of weights are as they were is done already."""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

import msgspec

from dfmpc_onnx import catalog
from dfmpc_onnx.inputs import files
from dfmpc_onnx.jobs.given_options import REPORT
from dfmpc_onnx.jobs.job import Job
from dfmpc_onnx.model.plain_files import why_unreadable
from dfmpc_onnx.pipeline.recipe import DEFAULT_RECIPE, to_record
from dfmpc_onnx.report.batch_row import JobRow


def file_digest(path: pathlib.Path) -> str:
    """The SHA-256 of a plain file; empty where it is none, or cannot be read."""
    try:
        if why_unreadable(path) is not None:
            return ""
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        return ""


def data_digest(folder: pathlib.Path, name: str) -> str:
    """The SHA-256 of a file of weights beside a model; empty where it is none, or lies elsewhere."""
    inner = pathlib.PurePath(name)
    return "" if inner.is_absolute() or ".." in inner.parts else file_digest(folder / inner)


class Keys:
    """Keys of jobs; what several share, a model or images, is read once. version: of this package; folder: that of the
    batch."""

    def __init__(self, version: str, folder: pathlib.Path) -> None:
        self._version, self._folder = version, folder
        self._digests: dict[str, str] = {}

    def key(self, job: Job) -> str:
        """SHA-256 over the model's file, the options with the content of what they name, and the version.

        Whether there is a report changes nothing of the result, so it is no part of the key.
        """
        named = {"model": self._of_file(job.model), "version": self._version, "name": job.name}
        options = {name: self._content(name, value) for name, value in sorted(job.options.items()) if name != REPORT}
        options["recipe"] = self._recipe(str(job.options.get("recipe", DEFAULT_RECIPE)))
        return hashlib.sha256(msgspec.json.encode({**named, "options": options}, order="sorted")).hexdigest()

    def is_done(self, job: Job, key: str, row: JobRow) -> bool:
        """Whether a row tells of this job, whose files of weights and output are still as it says, and whose report is
        there if one is wanted."""
        if row.key != key:
            return False
        if row.written and job.options.get(REPORT) and not (row.report and (self._folder / row.report).is_file()):
            return False
        if row.written and file_digest(self._folder / row.output) != row.sha256:
            return False
        folder = pathlib.Path(job.model).parent
        data: dict[str, str] = msgspec.json.decode(row.data)
        return all(self._of_data(folder, name) == digest for name, digest in data.items())

    def _of_file(self, path: str) -> str:
        if path not in self._digests:
            self._digests[path] = file_digest(pathlib.Path(path))
        return self._digests[path]

    def _of_data(self, folder: pathlib.Path, name: str) -> str:
        path = str(folder / name)
        if path not in self._digests:
            self._digests[path] = data_digest(folder, name)
        return self._digests[path]

    def _content(self, name: str, value: Any) -> Any:
        if name != "images":
            return value
        if str(value) not in self._digests:
            self._digests[str(value)] = files.digest(value)
        return self._digests[str(value)]

    def _recipe(self, name: str) -> Any:
        """A recipe as it is in full, whatever files it comes from."""
        recipe = catalog.find_recipe(name)
        steps = [to_record(step) for step in recipe.steps]
        return [recipe.name, str(recipe.weight_bits), recipe.activation_bits, recipe.reduce_range, steps]
