"""onnxruntime, imported late: sessions, providers and runs with clear errors."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
import os
import pathlib
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from dfmpc_onnx.errors import CannotRun, ModelError, NoSuchType, RuntimeUnavailable, RunTooLong, TooLittleMemory, shown
from dfmpc_onnx.model.source import EXTERNAL_LIMIT, size_of
from dfmpc_onnx.model.unbounded_loops import has_loop
from dfmpc_onnx.model.write import save
from dfmpc_onnx.runtime.providers import Provider, find_provider
from dfmpc_onnx.runtime.threads import thread_count

CPU_PROVIDER = "CPUExecutionProvider"
LOOP_SECONDS = 600.0  # for one run of a model that holds a Loop; what holds none ends by itself and has no limit
WITHOUT_NUMPY = ("bfloat16", "float8", "float4")  # how types begin that onnxruntime exchanges with nobody in Python
Loadable = onnx.ModelProto | bytes | str | os.PathLike[str]
_LIMIT: contextvars.ContextVar[float | None] = contextvars.ContextVar("dfmpc_onnx.loops", default=None)
Feeds = Mapping[str, npt.NDArray[np.generic]]


def require() -> ModuleType:
    """onnxruntime, imported; raises RuntimeUnavailable where it is not installed, or installed but broken."""
    remedy = "pip install onnxruntime (or onnxruntime-gpu)"
    try:
        import onnxruntime
    except Exception as error:  # a broken one raises ImportError, OSError and others, as its native library pleases
        if isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime":
            raise RuntimeUnavailable(f"onnxruntime is not installed; {remedy}") from None
        raise RuntimeUnavailable(
            f"onnxruntime is installed but cannot be imported ({_cause(error)}); uninstall it and {remedy}"
        ) from None
    if not hasattr(onnxruntime, "InferenceSession"):  # what is left of a package when its files were deleted
        raise RuntimeUnavailable(f"onnxruntime is installed but empty; uninstall it and {remedy}")
    found: ModuleType = onnxruntime
    return found


def version() -> str:
    """The version of onnxruntime, or "none" where there is none that can be imported."""
    try:
        return str(require().__version__)
    except RuntimeUnavailable:
        return "none"


class Session:
    """A model loaded in onnxruntime on one provider, really used."""

    def __init__(
        self,
        model: Loadable,
        provider: str = CPU_PROVIDER,
        label: str = "the model",
        profile: pathlib.Path | None = None,
        threads: int | None = None,
        rewritten: pathlib.Path | None = None,
        *,
        spinning: bool = False,
    ) -> None:
        """profile: where to write a profile of the runs to, for `profile_counts` and `profile_events`. threads: how
        many it may take; None: as many as the call around asks for (`runtime.threads`), or as the machine has.
        rewritten: where to write the model as this session runs it, laid out for this very processor. spinning: whether
        idle threads wait for work in a loop, as those of a program's own sessions do; for what measures its time.
        """
        onnxruntime = require()
        options = _options(onnxruntime, threads, spinning=spinning)  # first: it silences what looks for devices
        found = find_provider(onnxruntime, provider)
        self.provider = found.name
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        if rewritten is not None:
            options.optimized_model_filepath = str(rewritten)
        with contextlib.ExitStack() as stack:
            source = _loadable(model, stack)
            try:
                providers = _providers(onnxruntime, found, options)
                # Its own fallback would print to standard output, and try the same again.
                self._session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=0)
            except Exception as error:  # onnxruntime's exceptions have no common public base
                raise _kind_of(error)(
                    f"{label}: onnxruntime {onnxruntime.__version__} cannot load it ({_cause(error)})"
                ) from None
        if self.provider not in self._session.get_providers():
            raise RuntimeUnavailable(f"provider '{shown(provider)}' cannot be used here: the session fell back to CPU")
        self.label = label
        self._may_not_end = has_loop(model)

    @property
    def inputs(self) -> list[tuple[str, list[int | str | None], str]]:
        """Name, shape (dynamic dimensions as names or None) and onnxruntime type of each input."""
        return [(i.name, list(i.shape), i.type) for i in self._session.get_inputs()]

    @property
    def outputs(self) -> list[str]:
        return [o.name for o in self._session.get_outputs()]

    @property
    def output_shapes(self) -> list[tuple[str, list[int | str | None]]]:
        """Name and shape of each output (dynamic dimensions as names or None); empty for what is no tensor."""
        return [(o.name, list(o.shape or ())) for o in self._session.get_outputs()]

    def check_types(self) -> None:
        """Raise NoSuchType where an input or output is of a type that numpy does not have: it can be neither fed nor
        read.
        """
        for role, values in (("input", self._session.get_inputs()), ("output", self._session.get_outputs())):
            for value in values:
                kind = value.type.removeprefix("tensor(").removesuffix(")")
                if kind.startswith(WITHOUT_NUMPY):
                    raise NoSuchType(
                        f"{self.label}: its {role} '{shown(value.name)}' is of {kind}, which numpy has not"
                    )

    def run(self, feeds: Feeds, names: Sequence[str] | None = None) -> list[npt.NDArray[np.generic]]:
        """The outputs for one batch of inputs; raises CannotRun where onnxruntime cannot compute it.

        Raises RunTooLong where a model with a Loop takes more than LOOP_SECONDS, or what `limit_loops` says.
        """
        seconds = _LIMIT.get() or LOOP_SECONDS
        options = require().RunOptions() if self._may_not_end else None
        try:
            with _stopped_after(seconds, options):
                results: list[npt.NDArray[np.generic]] = self._session.run(names, dict(feeds), options)
        except Exception as error:
            if options is not None and options.terminate:
                raise RunTooLong(
                    f"{self.label}: a run did not end within {seconds:g} s; a Loop in it may never end: give it a "
                    "trip count, correct its condition, or take it out of the model"
                ) from None
            raise _kind_of(error, CannotRun)(f"{self.label}: onnxruntime cannot run it ({_cause(error)})") from None
        return results

    def profile_counts(self) -> dict[str, int]:
        """How many nodes each provider has run since the session was made with a profile, by provider; once."""
        ran = {(e["name"], e["args"]["provider"]) for e in self.profile_events() if e.get("args", {}).get("provider")}
        return dict(Counter(provider for _, provider in sorted(ran)))

    def profile_events(self) -> list[dict[str, Any]]:
        """What onnxruntime noted of each run, in order, since the session was made with a profile; once."""
        events: list[dict[str, Any]] = json.loads(pathlib.Path(self._session.end_profiling()).read_text())
        return events


@contextlib.contextmanager
def limit_loops(seconds: float | None) -> Iterator[None]:
    """Within the block a run of a model with a Loop gets so many seconds, LOOP_SECONDS at most; of None, those."""
    token = _LIMIT.set(None if seconds is None else min(seconds, LOOP_SECONDS))
    try:
        yield
    finally:
        _LIMIT.reset(token)


@contextlib.contextmanager
def _stopped_after(seconds: float, options: Any) -> Iterator[None]:
    """Within the block the run that has these options ends with an error after so many seconds; of None, never."""
    if options is None:
        yield
        return
    options.log_severity_level = 4

    def stop() -> None:
        options.terminate = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _options(onnxruntime: ModuleType, threads: int | None = None, *, spinning: bool = False) -> Any:
    """Options of a session of its own: silent, and with so many threads."""
    _silence(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not spinning:  # between short runs, of which most of the work here consists, it would take all cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    count = threads or thread_count()
    if count is not None:
        options.intra_op_num_threads = count
        options.inter_op_num_threads = 1  # nodes run one after the other in any case
    return options


@functools.cache
def _silence(onnxruntime: ModuleType) -> None:
    """Silence what onnxruntime says before a session has a logger of its own.

    That logger is the process's, so it is set once: what a program sets for itself afterwards stays.
    """
    onnxruntime.set_default_logger_severity(4)


def _providers(onnxruntime: ModuleType, found: Provider, options: Any) -> list[str] | None:
    """What a session is to be given: a provider that is built in, and for TensorRT the one that takes on the GPU what
    TensorRT leaves. None for a plug-in, which goes into the options with its device.
    """
    if found.device is not None:
        options.add_provider_for_devices([found.device], {})
        return None
    helper = "CUDAExecutionProvider"
    helped = found.name.startswith("Tensorrt") and helper in onnxruntime.get_available_providers()
    return [found.name, helper] if helped else [found.name]


def optimized_model(model: Loadable, label: str = "the model", *, fused: bool = True) -> onnx.ModelProto:
    """The model as onnxruntime rewrites it for its CPU provider before it lays tensors out for this very processor.

    fused: False for what it does before it makes integer and other fused kernels: constants are folded, and
    BatchNormalizations into layers.

    Weights that lie in a file beside the model are left there: what is rewritten names them, without their values.
    Raises ModelError where it cannot be loaded, or is too large for onnxruntime to write.
    """
    onnxruntime = require()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "optimized.onnx"
        options = _options(onnxruntime)
        levels = onnxruntime.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if fused else levels.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        try:
            with contextlib.ExitStack() as stack:
                source = _loadable(model, stack)
                onnxruntime.InferenceSession(source, options, providers=[CPU_PROVIDER], enable_fallback=0)
            return onnx.load(path, load_external_data=not fused)
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ModelError(
                f"{label}: onnxruntime {onnxruntime.__version__} cannot load and rewrite it ({_cause(error)})"
            ) from None


def _loadable(model: Loadable, stack: contextlib.ExitStack) -> Any:
    """A model as onnxruntime takes it."""
    if isinstance(model, onnx.ModelProto):
        return _serialize(model, stack)
    return str(pathlib.Path(model)) if isinstance(model, os.PathLike) else model


def _serialize(model: onnx.ModelProto, stack: contextlib.ExitStack) -> bytes | str:
    """What a session can be made of: the model's bytes, or where protobuf cannot hold them the path of a file."""
    if size_of(model) < EXTERNAL_LIMIT:
        content: bytes = model.SerializeToString()
        return content
    # The cleanup may fail where a file in use cannot be deleted.
    folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    path = pathlib.Path(folder) / "model.onnx"
    save(model, path, external=True)
    return str(path)


def _kind_of(error: Exception, usual: type[ModelError] = ModelError) -> type[ModelError]:
    """What an error of onnxruntime's is for a caller, who cannot tell by its class. usual: where memory was enough."""
    lacks_memory = "bfc_arena" in str(error) or "Failed to allocate memory" in str(error)
    return TooLittleMemory if lacks_memory else usual


def _cause(error: Exception) -> str:
    """The line of an error of onnxruntime's that says what is wrong."""
    if _kind_of(error) is TooLittleMemory:
        return "it could not allocate the memory for it"  # which stands at the end of a line too long to print
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shown(lines[0][:200] if lines else type(error).__name__)
