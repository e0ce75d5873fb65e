"""Which targets exist: ours, one module each, and those of other packages by the entry point ``dfmpc_onnx.targets``.

A module here is called as its target, and holds it under that name in capitals. An entry point names a
`dfmpc_onnx.Target`::

    [project.entry-points."dfmpc_onnx.targets"]
    my_npu = "my_package.my_npu:MY_NPU"
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping

from dfmpc_onnx.errors import OptionError, did_you_mean, printable
from dfmpc_onnx.pipeline.target_rules import Target, without_source

TARGET_ENTRY_POINT = "dfmpc_onnx.targets"


def _ours() -> dict[str, Target]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [getattr(importlib.import_module(f"{__name__}.{name}"), name.upper()) for name in names]
    return {target.name: target for target in found}


TARGETS: Mapping[str, Target] = _ours()
CPU_TARGET = TARGETS["cpu"]


@functools.cache
def targets() -> Mapping[str, Target]:
    """Every target by name; raises OptionError where another package's cannot be loaded or takes a name of ours."""
    found = dict(TARGETS)
    for entry in importlib.metadata.entry_points(group=TARGET_ENTRY_POINT):
        origin = f"entry point {entry.name} of {entry.dist.name if entry.dist else 'an unknown distribution'}"
        try:
            target = entry.load()
        except Exception as error:
            raise OptionError(f"{origin}: cannot be imported ({type(error).__name__}: {error})") from None
        if not isinstance(target, Target):
            raise OptionError(f"{origin}: '{entry.value}' is no dfmpc_onnx.Target")
        if target.name in found or target.name != target.name.lower():
            raise OptionError(f"{origin}: '{printable(target.name)}' is taken, or not lower case; give another name")
        if missing := without_source(target):
            raise OptionError(f"{origin}: no source for {', '.join(missing)}; name one in the target's sources")
        found[target.name] = target
    return found


def parse_target(name: str) -> Target:
    """A target by its name, in any case; raises OptionError."""
    known = targets()
    if name.lower() not in known:
        near = did_you_mean(name, known)
        raise OptionError(f"target '{printable(name)}': not known{near}; give one of {', '.join(known)}")
    return known[name.lower()]
