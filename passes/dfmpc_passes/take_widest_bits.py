"""Give the widest codes to layers whose width a measured error was to choose, where nothing measures it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from dfmpc_onnx.pipeline.facts import BitPlan, LayerBits
from dfmpc_onnx.pipeline.manager import NoOptions, Pass, PassResult, Rewrite
from dfmpc_onnx.pipeline.workspace import Workspace

WIDEST_BITS = LayerBits(8, "8-bit", "no error was measured to choose by")


class TakeWidestBits(Pass[NoOptions]):
    """Before: a bit plan with layers whose width their measured error is to choose (--weights auto)
    After: 8 bits for these layers

    Why: the fallback of a pass that measures has no error to choose by, and 8 bits lose the least. A plan that states
    every width stays as it is.

    Requires: a bit plan.

    Refuses when: never.

    Reference: docs/method.md, section 8.
    """

    name = "take_widest_bits"
    requires: ClassVar = (BitPlan,)
    provides: ClassVar = (BitPlan,)

    def run(self, workspace: Workspace) -> PassResult:
        plan = workspace.get(BitPlan)
        unmeasured = [name for name, bits in plan.layers.items() if bits.role == "auto"]
        workspace.put(dataclasses.replace(plan, layers={**plan.layers, **dict.fromkeys(unmeasured, WIDEST_BITS)}))
        return PassResult(self.name, tuple(Rewrite(name, f"{WIDEST_BITS.bits} bits") for name in unmeasured))
