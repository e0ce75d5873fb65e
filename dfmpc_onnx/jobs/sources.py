"""From what a user names, files, patterns, folders and manifests, to jobs, each with a name of its own."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.jobs.given_options import SHORT_NAMES
from dfmpc_onnx.jobs.job import PLACES, Job
from dfmpc_onnx.jobs.manifest import Entry, read_manifest
from dfmpc_onnx.jobs.sweep import OptionCheck, Setting, as_typed, settings_of
from dfmpc_onnx.model.plain_files import is_folder, is_utf8

MANIFESTS = (".csv", ".toml")
WEIGHT_FILES = ("{0.name}.data", "{0.name}_data", "{0.stem}.data", "{0.stem}.bin", "{0.stem}.weights")
LONGEST_JOB_NAME = 100  # bytes: file systems take 255, and a model's data file adds to them
# Windows keeps these for devices.
RESERVED_NAMES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


@dataclasses.dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, counted from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None) -> Shard:
        """``I/N``; the whole for None. Raises OptionError."""
        if text is None:
            return cls()
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise OptionError(f"shard '{text}': not understood; give I/N, such as 1/4 for the first of four")
        return cls(int(found[1]), int(found[2]))

    @property
    def suffix(self) -> str:
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"

    def of(self, jobs: Sequence[Job]) -> list[Job]:
        """Its part of jobs, which stand in the same order on every machine."""
        return list(jobs[self.index - 1 :: self.count])


@dataclasses.dataclass(frozen=True)
class _Found:
    """A model file with its options. named: whether the name is the user's own. where: what named it, for messages;
    places: where each of its options stands. mistake: as of `Job`."""

    path: pathlib.Path
    name: str
    options: Mapping[str, Any]
    where: str = ""
    named: bool = False
    places: Mapping[str, str] = dataclasses.field(default_factory=dict)
    mistake: str = ""

    def place_of(self, message: str) -> str:
        """Where the option stands that a message begins with, by its name or its value; the model's own place where it
        is none of these."""
        begins = re.sub(r"[- ]", "_", message)
        for name in sorted(self.places, key=len, reverse=True):
            singular = next((short for short, long in SHORT_NAMES.items() if long == name), name)
            value = shown(str(self.options.get(name, "")))
            if begins.startswith((name, singular)) or (value and message.startswith(value)):
                return f"{self.places[name]}: "
        return f"{self.where}: " if self.where else ""


def find_jobs(
    sources: Sequence[str], options: Mapping[str, Any], sweep: Sequence[str], output: pathlib.Path
) -> list[Job]:
    """The jobs of a batch, by name. options: of all, where neither a manifest nor the sweep says otherwise; output:
    the batch's own folder, whose results are no models of it. Raises OptionError and RecipeError."""
    if not sources:
        raise OptionError("no model given; name files, folders, patterns such as 'nets/*.onnx', or a manifest")
    found = [model for source in sources for model in _of_source(source, output)]
    settings, check = list(settings_of(sweep)), OptionCheck()
    rows = [row for model in found for row in _under(model, options, settings, check)]
    jobs = sorted(_named(rows), key=lambda job: job.name)
    if all(job.mistake for job in jobs):
        raise OptionError(jobs[0].mistake)
    return jobs


def _under(
    model: _Found, options: Mapping[str, Any], settings: Sequence[Setting], check: OptionCheck
) -> Iterator[tuple[_Found, Setting]]:
    """A model under each setting: with the options of all, its own, and those of the sweep, which come last.

    Raises what `quantize` would where no setting is to blame, or one value of the sweep is whatever stands beside it.
    """
    usual = {**options, **model.options}
    blamed = check.blamed(usual, settings)
    if blamed is not None:
        part, error = blamed
        where = f"{as_typed(part)}: " if part else model.place_of(str(error))
        raise type(error)(f"{where}{error}")
    for setting in settings:
        mistake = check.refusal({**usual, **setting})
        said = "" if mistake is None else f"{as_typed(setting)}: {mistake}"
        yield dataclasses.replace(model, options={**usual, **setting}, mistake=said), setting


def _of_source(source: str, output: pathlib.Path) -> Iterator[_Found]:
    path = pathlib.Path(source)
    if path.suffix.lower() in MANIFESTS and not is_folder(path):
        for entry in read_manifest(path):
            yield from _of_entry(entry, path.parent, output)
        return
    yield from (_Found(file, name, {}) for file, name in _files(path, output, shown(source)))


def _of_entry(entry: Entry, folder: pathlib.Path, output: pathlib.Path) -> Iterator[_Found]:
    files = list(_files(folder / entry.path, output, f"{entry.where}: {shown(entry.path)}"))
    if entry.name and len(files) > 1:
        raise OptionError(f"{entry.where}: {len(files)} models have one name, '{shown(entry.name)}'; leave it out")
    for file, name in files:
        yield _Found(file, entry.name or name, entry.options, entry.where, bool(entry.name), entry.places)


def _files(path: pathlib.Path, output: pathlib.Path, where: str) -> Iterator[tuple[pathlib.Path, str]]:
    """The model files that a path, a folder or a pattern stands for, each with a name."""
    try:
        if is_folder(path):
            inside = [p for p in sorted(path.rglob("*.onnx")) if _may_be_a_model(p, path, output)]
            if not inside:
                raise OptionError(f"{where}: holds no .onnx file; name another folder")
            yield from ((file, str(file.relative_to(path).with_suffix(""))) for file in inside)
        elif glob.has_magic(str(path)) and not path.exists():
            pattern = path.relative_to(path.anchor) if path.anchor else path
            matching = sorted(pathlib.Path(path.anchor).glob(str(pattern)))
            matching = [p for p in matching if _may_be_a_model(p, p.parent, output)]
            if not matching:
                raise OptionError(f"{where}: no file matches; name another pattern")
            yield from ((file, file.stem) for file in matching)
        elif not path.exists():
            raise OptionError(f"{where}: no such file; name a model, a folder, a pattern or a manifest")
        else:
            yield path, path.stem
    except (OSError, ValueError) as error:  # a name that is too long, or holds NUL
        raise OptionError(f"{where}: cannot be read ({getattr(error, 'strerror', error)})") from None


def _may_be_a_model(path: pathlib.Path, folder: pathlib.Path, output: pathlib.Path) -> bool:
    """Whether what was found in a folder is a file, and neither hidden nor a result of this very batch."""
    if is_folder(path) or any(part.startswith(".") for part in path.relative_to(folder).parts):
        return False
    return not pathlib.Path(_real(path)).is_relative_to(_real(output / PLACES[0]))


def _named(rows: Sequence[tuple[_Found, Setting]]) -> Iterator[Job]:
    """Jobs, each with a name of its own; one that is given twice is one, unless the user names both."""
    jobs: dict[tuple[str, bytes, str], tuple[str, _Found]] = {}
    for model, setting in rows:
        name = _plain(model.name + "".join(f".{key.replace('_', '-')}={_word(v)}" for key, v in setting.items()))
        key = (_real(model.path), msgspec.json.encode(model.options, order="sorted"), name if model.named else "")
        jobs.setdefault(key, (name, model))
    taken: dict[str, int] = {}
    for name, _ in jobs.values():
        taken[name.casefold()] = taken.get(name.casefold(), 0) + 1
    for (real, options, _), (name, model) in jobs.items():
        if taken[name.casefold()] > 1:
            if model.named:
                raise OptionError(f"{model.where}: name '{shown(name)}' is there twice; give each a name of its own")
            name = f"{name}-{hashlib.sha256(real.encode('utf-8', 'surrogateescape') + options).hexdigest()[:8]}"
        path = str(model.path.absolute())  # as it is named: the weights of a link lie beside the link
        # A path that is not UTF-8 cannot be handed over; its job says that there is no such file.
        shown_path = path if is_utf8(path) else path.encode("utf-8", "backslashreplace").decode()
        yield Job(name, shown_path, dict(model.options), _size(path), model.mistake)


def _real(path: pathlib.Path) -> str:
    """Where a path leads; itself where its links go round in a circle."""
    return os.path.realpath(path)


def _word(value: Any) -> str:
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return pathlib.PurePath(text).stem if text.endswith(".toml") else text


def _plain(name: str) -> str:
    """A name as a file may have it everywhere, and a cell of a spreadsheet, where = or - begins a formula.

    Letters of all scripts stay. One that is too long ends in a digest.
    """
    plain = re.sub(r"[^\w.=%+-]+", "_", unicodedata.normalize("NFC", name)).lstrip(".=%+-") or "model"
    if plain.partition(".")[0].upper() in RESERVED_NAMES:
        plain = f"_{plain}"
    if len(plain.encode()) <= LONGEST_JOB_NAME:
        return plain
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    return f"{plain.encode()[: LONGEST_JOB_NAME - 9].decode(errors='ignore')}-{digest}"


def _size(path: str) -> int:
    """Bytes of a model's file, and of files beside it that are named as exporters name those of its weights.

    The model is not read for their names: a hostile one may bring down who does.
    """
    model = pathlib.Path(path)
    return sum(map(_file_size, (model, *(model.with_name(form.format(model)) for form in WEIGHT_FILES))))


def _file_size(path: pathlib.Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return 0
