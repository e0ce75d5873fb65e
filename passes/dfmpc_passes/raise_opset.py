"""Raise the opset to the lowest one whose types hold the packed weights."""

from __future__ import annotations

from typing import ClassVar

from dfmpc_onnx.facts import Codes, Raised
from dfmpc_onnx.graph import shown
from dfmpc_onnx.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.opset import ConversionRefused, convert
from dfmpc_onnx.storage import opset_for
from dfmpc_onnx.workspace import Workspace


class RaiseOpset(Pass[NoOptions]):
    """Before: a float network in opset 13, with 2-bit codes beside it
    After: the same network in opset 25, converted node by node

    Why: 2-bit tensors need opset 25, 4-bit tensors opset 21, 8-bit ones 13. No higher opset is declared than the
    codes need, so that the file loads in as old a runtime as it can.

    Requires: codes.

    Refuses when: the converter cannot convert the graph; its weights are then stored in the widest type that the
    graph's own opset has.

    Reference: ONNX operator specification, Cast and DequantizeLinear by version.
    """

    name = "raise_opset"
    requires: ClassVar = (Codes,)
    provides: ClassVar = (Raised,)

    def run(self, workspace: Workspace) -> PassResult:
        before = workspace.graph.opset
        needed = max((opset_for(w) for w in workspace.get(Codes).weights.values()), default=before)
        if needed <= before:
            workspace.put(Raised(before))
            return PassResult(self.name, notes=(f"opset {before} holds every weight",))
        try:
            workspace.graph = convert(workspace.graph, needed)
        except ConversionRefused as reason:
            workspace.put(Raised(before, str(reason)))
            why = f"opset {before} kept, so narrow weights take 8 bits each: {shown(str(reason))}"
            return PassResult(self.name, refusals=(Refusal("model", why),), warnings=(why,))
        workspace.put(Raised(needed))
        return PassResult(self.name, (Rewrite("model", f"opset {before} to {needed}"),))
