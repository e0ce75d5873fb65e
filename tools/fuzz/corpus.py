"""What once failed: small models of ours in a folder, each with its options and the reason, run before all others."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from tools.fuzz.trial import Case

FOLDER = pathlib.Path(__file__).parent / "corpus"
LARGEST = 20_000  # bytes of a model: the corpus is read by everyone who clones the project
FIELDS = {"why", "kind", "options", "least_sqnr", "varying", "ordinary"}


def names(folder: pathlib.Path = FOLDER) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.onnx"))


def read(name: str, folder: pathlib.Path = FOLDER) -> Case:
    """The case of a name; files that it needs beside the model stand there as NAME.FILE."""
    held: dict[str, Any] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if unknown := held.keys() - FIELDS:
        raise ValueError(f"{name}.json: {', '.join(sorted(unknown))}: not known; there are {', '.join(sorted(FIELDS))}")
    beside = {path.name.removeprefix(f"{name}."): path.read_bytes() for path in folder.glob(f"{name}.*")}
    model = beside.pop("onnx")
    del beside["json"]
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in held["options"].items()}
    kind, varying = held.get("kind", "corpus"), tuple(held.get("varying", ()))
    return Case(kind, name, model, options, held.get("least_sqnr"), beside, varying, held.get("ordinary", False))


def keep(case: Case, name: str, why: str, folder: pathlib.Path = FOLDER, largest: int = LARGEST) -> pathlib.Path:
    """Write a case that failed into the corpus; raises ValueError where it is too large, or its name is taken."""
    total = len(case.model) + sum(map(len, case.beside.values()))
    if total > largest:
        raise ValueError(f"{name}: {total} bytes; the corpus takes {largest}: build the fault smaller")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    if path.exists():
        raise ValueError(f"{path}: is there already")
    held = {"why": why, "kind": case.kind, "options": case.options, "least_sqnr": case.least_sqnr}
    path.write_bytes(case.model)
    for file, data in case.beside.items():
        (folder / f"{name}.{file}").write_bytes(data)
    text = json.dumps({**held, "varying": case.varying, "ordinary": case.ordinary}, indent=2, ensure_ascii=False)
    path.with_suffix(".json").write_text(f"{text}\n", encoding="utf-8")
    return path
