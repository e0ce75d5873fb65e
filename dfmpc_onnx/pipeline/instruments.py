"""Instruments that watch a pipeline: how long each pass takes, what it leaves, what it costs in fidelity."""

from __future__ import annotations

import os
import pathlib
import re
import time
from collections.abc import Collection

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.model.source import Source
from dfmpc_onnx.model.write import check_target, save
from dfmpc_onnx.pipeline.facts import Layers
from dfmpc_onnx.pipeline.manager import PassResult
from dfmpc_onnx.pipeline.workspace import Workspace


class Timing:
    """Wall-clock seconds of each pass, in order."""

    def __init__(self) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._began = 0.0

    def before(self, name: str, workspace: Workspace) -> None:
        self._began = time.perf_counter()

    def after(self, name: str, workspace: Workspace, result: PassResult) -> None:
        self.seconds.append((name, time.perf_counter() - self._began))


class PassSteps:
    """Makes each pass a step of the workspace's progress. by_layer: the names of those that go layer by layer."""

    def __init__(self, by_layer: Collection[str] = ()) -> None:
        self._by_layer = by_layer

    def before(self, name: str, workspace: Workspace) -> None:
        layers = workspace.find(Layers) if name in self._by_layer else None
        workspace.progress.begin(name, len(layers.quantizable) if layers else 0)

    def after(self, name: str, workspace: Workspace, result: PassResult) -> None:
        """Nothing to tell."""


class Dump:
    """Writes the graph after each pass to ``folder/NN_name.onnx``; the folder is made if it is not there.

    source: the model that the pipeline began with, which is never written over. Raises OptionError.
    """

    def __init__(self, folder: str | os.PathLike[str], source: Source | None = None) -> None:
        self._folder = pathlib.Path(folder)
        self._source = source
        self._count = 0
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            where = shown(str(self._folder))
            raise OptionError(f"dump folder '{where}': cannot be made ({error.strerror}); give another") from None

    def before(self, name: str, workspace: Workspace) -> None:
        """Nothing to do."""

    def after(self, name: str, workspace: Workspace, result: PassResult) -> None:
        self._count += 1
        plain = re.sub(r"[^\w.-]", "_", name)  # another package's pass may be called anything
        path = check_target(self._folder / f"{self._count:02d}_{plain}.onnx", self._source)
        save(to_model(workspace.graph), path, external=False)
