"""Raise the opset to the lowest one that has the types which the weights are smallest in."""

from __future__ import annotations

from typing import ClassVar

from dfmpc_onnx.errors import shown
from dfmpc_onnx.graph.float16 import OLDEST_HALF_QDQ
from dfmpc_onnx.graph.opset import ConversionRefused, convert
from dfmpc_onnx.pipeline.facts import Codes, FinalOpset
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Refusal, Rewrite
from dfmpc_onnx.pipeline.settings import Settings
from dfmpc_onnx.pipeline.shared_weights import holders_of_codes
from dfmpc_onnx.pipeline.target_rules import Target
from dfmpc_onnx.pipeline.workspace import Workspace
from dfmpc_onnx.qdq.code_formats import OLDEST_WITH_TABLES, Kind, choose_forms, opset_for


class RaiseOpset(Pass[NoOptions]):
    """Before: a float network in opset 13, with 2-bit codes beside it
    After: the same network in opset 25, converted node by node

    Why: each weight is stored in the form that makes the file smallest. 2-bit tensors need opset 25, 4-bit tensors
    opset 21, 8-bit ones 13, and so does what a table decodes, such as five ternary codes in a byte. No higher opset is
    declared than the chosen forms need, so that the file loads in as old a runtime as it can. For a target of older
    runtimes weights keep to forms of opset 13, and a model of a newer opset than those runtimes load is lowered; one
    that needs a newer opset than the forms gets that.

    Requires: codes.

    Refuses when: the converter cannot convert the graph; its weights are then stored in the forms that the graph's own
    opset has: tables in place of types from opset 13 on, 8 bits below.

    Reference: ONNX operator specification, Cast and DequantizeLinear by version.
    """

    name = "raise_opset"
    requires: ClassVar = (Codes,)
    provides: ClassVar = (FinalOpset,)

    def run(self, workspace: Workspace) -> PassResult:
        target, before = workspace.settings.target, workspace.graph.opset
        if before > target.highest_opset:
            return self._lower(workspace, target)
        holders = holders_of_codes(workspace)
        kinds = {name: Kind.of(weight) for name, weight in workspace.codes().items() if holders[name] == name}
        needed = max(opset_for(choose_forms(kinds, target.packing_opset).values()), self._lowest(workspace.settings))
        if needed <= before or not kinds:
            workspace.put(FinalOpset(before))
            return PassResult(self.name, notes=(f"opset {before} holds every weight",))
        try:
            workspace.graph = convert(workspace.graph, needed)
        except ConversionRefused as reason:
            workspace.put(FinalOpset(before))
            wide = before < OLDEST_WITH_TABLES and any(kind.bits < 8 for kind in kinds.values())
            lost = "narrow weights take 8 bits each" if wide else "tables decode what it has no type for"
            why = f"opset {before} kept, so {lost}: {shown(str(reason))}"
            # Tables hold the codes in as few bits; only what makes the file larger asks for attention.
            return PassResult(
                self.name, refusals=(Refusal("model", why, "opset-kept"),), warnings=(why,) if wide else ()
            )
        workspace.put(FinalOpset(needed))
        return PassResult(self.name, (Rewrite("model", f"opset {before} to {needed}"),))

    @staticmethod
    def _lowest(settings: Settings) -> int:
        """That the target loads, and whose QuantizeLinear takes float16 where floats are to be that."""
        halved = settings.float16 and settings.activations != "none"
        return max(settings.target.lowest_opset, OLDEST_HALF_QDQ if halved else 0)

    def _lower(self, workspace: Workspace, target: Target) -> PassResult:
        """For runtimes that are older than the model's opset."""
        before, wanted = workspace.graph.opset, target.highest_opset
        try:
            workspace.graph = convert(workspace.graph, wanted)
        except ConversionRefused as reason:
            workspace.put(FinalOpset(before))
            why = f"opset {before} kept, so the oldest runtimes of '{target.name}' do not load it: {shown(str(reason))}"
            return PassResult(self.name, refusals=(Refusal("model", why, "opset-kept"),), warnings=(why,))
        workspace.put(FinalOpset(wanted))
        return PassResult(self.name, (Rewrite("model", f"opset {before} to {wanted}"),))
