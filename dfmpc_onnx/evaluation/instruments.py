"""Instruments that run the network: what each pass costs in fidelity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.evaluation.fidelity import outputs
from dfmpc_onnx.evaluation.output_differences import sqnr
from dfmpc_onnx.graph.exchange import to_model
from dfmpc_onnx.pipeline.manager import PassResult
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.runtime.session import Session


class FidelityAfterEachPass:
    """SQNR in dB of the network after each pass against the one that the pipeline began with, on given inputs."""

    def __init__(self, x: npt.NDArray[np.float32]) -> None:
        self.x = x
        self.sqnr_db: list[tuple[str, float]] = []
        self._reference: list[npt.NDArray[np.float64]] | None = None

    def before(self, name: str, workspace: Workspace) -> None:
        if self._reference is None:
            self._reference = outputs(Session(to_model(workspace.graph)), self.x)

    def after(self, name: str, workspace: Workspace, result: PassResult) -> None:
        assert self._reference is not None  # before() of the first pass has set it
        now = outputs(Session(to_model(workspace.graph), label=f"the graph after {name}"), self.x)
        self.sqnr_db.append((name, sqnr(self._reference, now)))
