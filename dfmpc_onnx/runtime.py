"""onnxruntime, imported late: sessions, providers and runs with clear errors."""

from __future__ import annotations

import importlib.util
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.errors import ModelError, OptionError, RuntimeUnavailable
from dfmpc_onnx.graph import shown

CPU = "CPUExecutionProvider"
Arrays = Mapping[str, npt.NDArray[np.generic]]


def require() -> None:
    """Raise RuntimeUnavailable where onnxruntime is not installed; imports nothing."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise RuntimeUnavailable(
            "onnxruntime is not installed; pip install 'dfmpc-onnx[cpu]' (or [gpu], or [openvino])"
        )


class Session:
    """A model loaded in onnxruntime on one provider, really used."""

    def __init__(
        self, model: onnx.ModelProto | bytes | str | os.PathLike[str], provider: str = CPU, label: str = "the model"
    ) -> None:
        require()
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)
        name = provider if provider.endswith("ExecutionProvider") else f"{provider}ExecutionProvider"
        known = {p.lower(): p for p in onnxruntime.get_available_providers()}
        if name.lower() not in known:
            listed = ", ".join(p.removesuffix("ExecutionProvider") for p in known.values())
            raise RuntimeUnavailable(f"provider '{shown(provider)}' is not in this onnxruntime; it has {listed}")
        self.provider = known[name.lower()]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        source: Any = model
        if isinstance(model, onnx.ModelProto):
            source = model.SerializeToString()
        elif isinstance(model, os.PathLike):
            source = str(pathlib.Path(model))
        try:
            self._session = onnxruntime.InferenceSession(source, options, providers=[self.provider])
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ModelError(
                f"{label}: onnxruntime {onnxruntime.__version__} cannot load it ({_cause(error)})"
            ) from None
        if self.provider not in self._session.get_providers():
            raise RuntimeUnavailable(f"provider '{shown(provider)}' cannot be used here: the session fell back to CPU")
        self.label = label

    @property
    def inputs(self) -> list[tuple[str, list[int | str | None], str]]:
        """Name, shape (dynamic dimensions as names or None) and onnxruntime type of each input."""
        return [(i.name, list(i.shape), i.type) for i in self._session.get_inputs()]

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self._session.get_outputs()]

    def run(self, feeds: Arrays, names: Sequence[str] | None = None) -> list[npt.NDArray[np.generic]]:
        """The outputs for one batch of inputs; raises ModelError where onnxruntime cannot compute it."""
        try:
            results: list[npt.NDArray[np.generic]] = self._session.run(names, dict(feeds))
        except Exception as error:
            raise ModelError(f"{self.label}: onnxruntime cannot run it ({_cause(error)})") from None
        return results


def _cause(error: Exception) -> str:
    """The line of an onnxruntime error that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0][:200] if lines else type(error).__name__)


def check_input_shapes(
    inputs: Mapping[str, Sequence[int | str | None] | None], given: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise OptionError where a given shape does not fit the model's inputs, whose shapes may be unknown."""
    for name, want in given.items():
        if name not in inputs:
            listed = ", ".join(shown(known) for known in inputs)
            raise OptionError(f"input shape for '{shown(name)}': no such input; the model has {listed}")
        shape = inputs[name]
        if shape is None:
            continue
        if len(want) != len(shape):
            raise OptionError(f"input shape for '{shown(name)}': {len(want)} dimensions given, it has {len(shape)}")
        if any(isinstance(dim, int) and 0 < dim != size for dim, size in zip(shape, want, strict=True)):
            raise OptionError(f"input shape for '{shown(name)}': {want} does not fit the model's {list(shape)}")


def input_shape(
    session: Session, given: Mapping[str, tuple[int, ...]], size: int = 224
) -> tuple[str, tuple[int, ...], str]:
    """The image-like input of a model as a concrete shape: batch 1 and `size` where dimensions are dynamic.

    Raises ModelError where the model has several inputs or one not float, OptionError where a given shape does not fit.
    """
    inputs = session.inputs
    check_input_shapes({name: shape for name, shape, _ in inputs}, given)
    if len(inputs) != 1:
        raise ModelError(f"{session.label}: it has {len(inputs)} inputs; only models with one can be compared so far")
    name, shape, kind = inputs[0]
    if kind != "tensor(float)":
        raise ModelError(f"{session.label}: its input '{shown(name)}' is {kind}, not float; it cannot be compared")
    if name in given:
        return name, given[name], "given"
    concrete = tuple(
        dim if isinstance(dim, int) and dim > 0 else 1 if axis == 0 else 3 if axis == 1 and len(shape) == 4 else size
        for axis, dim in enumerate(shape)
    )
    return name, concrete, "fixed" if concrete[1:] == tuple(shape[1:]) else "assumed"
