"""Execution providers by name: those built into onnxruntime, and plug-ins, which are packages beside it.

A plug-in package is a module with `get_library_path` and `get_ep_names`. Its library is registered once in a process,
when its provider is asked for; then onnxruntime lists the devices of this machine that it takes.

Source: https://onnxruntime.ai/docs/execution-providers/plugin-ep-libraries
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pkgutil
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from dfmpc_onnx.errors import RuntimeUnavailable, did_you_mean, shown

PROVIDER_SUFFIX = "ExecutionProvider"
PLUGIN_PREFIX = "onnxruntime_ep_"  # how modules of plug-ins are named
PLUGIN_MODULES = ("onnxruntime_qnn",)  # those that are not
DEVICE_KINDS = ("CPU", "GPU", "NPU")
_LOCK = threading.Lock()  # a library is registered for the process


@dataclasses.dataclass(frozen=True)
class ProviderPackage:
    """Where a provider comes from that not every onnxruntime has.

    name: of the package that has it; plugin: whether beside onnxruntime, else in its place. kinds: of its devices those
    that run a file, the preferred one first. otherwise: what to do where no device is found.
    """

    name: str
    plugin: bool = True
    kinds: tuple[str, ...] = DEVICE_KINDS
    otherwise: str = ""


PROVIDER_PACKAGES: Mapping[str, ProviderPackage] = {
    "CUDAExecutionProvider": ProviderPackage("onnxruntime-gpu", plugin=False),
    "TensorrtExecutionProvider": ProviderPackage("onnxruntime-gpu", plugin=False),
    "DmlExecutionProvider": ProviderPackage("onnxruntime-directml", plugin=False),
    "NvTensorRTRTXExecutionProvider": ProviderPackage("onnxruntime-ep-nv-tensorrt-rtx", kinds=("GPU",)),
    "OpenVINOExecutionProvider": ProviderPackage(
        "onnxruntime-ep-openvino",
        otherwise="; install onnxruntime-openvino in place of onnxruntime on a processor that is not Intel's",
    ),
    "QNNExecutionProvider": ProviderPackage(
        "onnxruntime-qnn", kinds=("NPU",), otherwise="; run it on a device with a Hexagon NPU"
    ),
    "WebGpuExecutionProvider": ProviderPackage(
        "onnxruntime-ep-webgpu", kinds=("GPU",), otherwise="; install a GPU's driver, with the Vulkan loader on Linux"
    ),
}


@dataclasses.dataclass(frozen=True)
class Provider:
    """A provider that can be asked for. device: that a plug-in runs on, onnxruntime's own object; None: it is built
    in.
    """

    name: str
    device: Any = None


def find_provider(onnxruntime: ModuleType, wanted: str) -> Provider:
    """A provider by its name in any case, with or without its suffix, registered where it is a plug-in.

    Raises RuntimeUnavailable where it is not there: it is not known, its package is missing or cannot be loaded, or
    no device here is one that it takes.
    """
    key = _key(wanted)
    for name in onnxruntime.get_available_providers():
        # What a program has registered itself is listed as well, and has devices.
        if _key(name) == key and name not in _registered(onnxruntime):
            return Provider(name)
    for module in plugin_modules():
        for name in _names_of(module):
            if _key(name) == key:
                return _plugged_in(onnxruntime, module, name)
    raise RuntimeUnavailable(_not_there(onnxruntime, wanted))


def provider_names(onnxruntime: ModuleType) -> list[str]:
    """Short names of the providers that can be asked for, those of plug-ins last; no library is registered."""
    names = [*onnxruntime.get_available_providers(), *(n for m in plugin_modules() for n in _names_of(m))]
    return list(dict.fromkeys(name.removesuffix(PROVIDER_SUFFIX) for name in names))


def plugin_modules() -> Iterator[ModuleType]:
    """The modules of the plug-in packages that are installed, in the order of their names; broken ones left out."""
    found = {info.name for info in pkgutil.iter_modules() if info.name.startswith(PLUGIN_PREFIX)}
    for name in sorted(found | set(PLUGIN_MODULES)):
        with contextlib.suppress(Exception):  # a broken one raises what it pleases; its provider is then not there
            module = importlib.import_module(name)
            if hasattr(module, "get_library_path") and hasattr(module, "get_ep_names"):
                yield module


def _plugged_in(onnxruntime: ModuleType, module: ModuleType, name: str) -> Provider:
    """The provider of a plug-in on the device that is taken for it."""
    package = PROVIDER_PACKAGES.get(name, ProviderPackage(module.__name__.replace("_", "-")))
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise RuntimeUnavailable(
            f"provider '{_short(name)}': onnxruntime {onnxruntime.__version__} takes no plug-ins such as "
            f"{package.name}; install onnxruntime 1.24 or newer"
        )
    with _LOCK:
        if not _devices(onnxruntime, name):
            _register(onnxruntime, module, name, package)
        devices = [d for d in _devices(onnxruntime, name) if d.device.type.name in package.kinds]
    if not devices:
        raise RuntimeUnavailable(
            f"provider '{_short(name)}': {package.name} is installed, and finds no device here that it takes"
            + package.otherwise
        )
    return Provider(name, min(devices, key=lambda d: package.kinds.index(d.device.type.name)))


def _register(onnxruntime: ModuleType, module: ModuleType, name: str, package: ProviderPackage) -> None:
    try:
        # The provider of onnxruntime-qnn is called what its library is registered as.
        onnxruntime.register_execution_provider_library(name, module.get_library_path())
    except Exception as error:  # onnxruntime's exceptions have no common public base
        if "already registered" in str(error):
            return
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise RuntimeUnavailable(
            f"provider '{_short(name)}': {package.name} is installed, and onnxruntime {onnxruntime.__version__} "
            f"cannot load it ({shown(lines[0][:200])})"
        ) from None


def _devices(onnxruntime: ModuleType, name: str) -> list[Any]:
    """Devices of a registered plug-in's provider; not those that stand for a device elsewhere, to compile for it."""
    return [
        device
        for device in onnxruntime.get_ep_devices()
        if device.ep_name == name and device.device.metadata.get("is_virtual") != "1"
    ]


def _registered(onnxruntime: ModuleType) -> set[str]:
    """Names of the providers that come from libraries of their own."""
    if not hasattr(onnxruntime, "get_ep_devices"):
        return set()
    return {d.ep_name for d in onnxruntime.get_ep_devices() if d.ep_metadata.get("library_path")}


def _not_there(onnxruntime: ModuleType, wanted: str) -> str:
    known = {_key(name): package for name, package in PROVIDER_PACKAGES.items()}
    package = known.get(_key(wanted))
    if package is None:
        names = provider_names(onnxruntime)
        near = did_you_mean(wanted, [name.lower() for name in (*names, *PROVIDER_PACKAGES)])
        what = f"provider '{shown(wanted)}' is not in this onnxruntime"
        return f"{what}; it has {', '.join(names)}; give one of these{near}"
    remedy = "" if package.plugin else "uninstall onnxruntime and "
    return f"provider '{shown(wanted)}' is not installed; {remedy}pip install {package.name}"


def _names_of(module: ModuleType) -> list[str]:
    return [str(name) for name in module.get_ep_names()]


def _key(name: str) -> str:
    """A name as it is compared."""
    return name.lower().removesuffix(PROVIDER_SUFFIX.lower())


def _short(name: str) -> str:
    return shown(name.removesuffix(PROVIDER_SUFFIX))
