"""Quantize ONNX networks without data, and prove that the result works.

    import dfmpc_onnx

    quantized = dfmpc_onnx.quantize("model.onnx", "small.onnx", recipe="int8")
    print(quantized.report.bytes, quantized.report.fidelity)

Names are imported when they are first used, so that importing the package stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dfmpc_onnx.api.expand import Expanded as Expanded
    from dfmpc_onnx.api.expand import expand as expand
    from dfmpc_onnx.api.inspection import inspect as inspect
    from dfmpc_onnx.api.plan import Planned as Planned
    from dfmpc_onnx.api.plan import plan as plan
    from dfmpc_onnx.api.quantize import Quantized as Quantized
    from dfmpc_onnx.api.quantize import quantize as quantize
    from dfmpc_onnx.api.verify import verify as verify
    from dfmpc_onnx.errors import Defect as Defect
    from dfmpc_onnx.errors import DfmpcError as DfmpcError
    from dfmpc_onnx.errors import ModelError as ModelError
    from dfmpc_onnx.errors import OptionError as OptionError
    from dfmpc_onnx.errors import PassError as PassError
    from dfmpc_onnx.errors import PipelineError as PipelineError
    from dfmpc_onnx.errors import RecipeError as RecipeError
    from dfmpc_onnx.errors import RuntimeUnavailable as RuntimeUnavailable
    from dfmpc_onnx.errors import RunTooLong as RunTooLong
    from dfmpc_onnx.errors import UserError as UserError
    from dfmpc_onnx.pipeline.manager import Pass as Pass
    from dfmpc_onnx.pipeline.manager import PassResult as PassResult
    from dfmpc_onnx.pipeline.recipe import Recipe as Recipe

_HOMES = {
    "api.expand": ("Expanded", "expand"),
    "api.inspection": ("inspect",),
    "api.plan": ("Planned", "plan"),
    "api.quantize": ("Quantized", "quantize"),
    "api.verify": ("verify",),
    "errors": (
        "Defect",
        "DfmpcError",
        "ModelError",
        "OptionError",
        "PassError",
        "PipelineError",
        "RecipeError",
        "RunTooLong",
        "RuntimeUnavailable",
        "UserError",
    ),
    "pipeline.manager": ("Pass", "PassResult"),
    "pipeline.recipe": ("Recipe",),
}
__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
