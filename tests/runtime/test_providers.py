"""Providers built into onnxruntime, and plug-ins beside it: found by name, registered once, or one line that helps."""

from __future__ import annotations

import pathlib
import sys
import types
from collections.abc import Mapping

import onnxruntime
import pytest

from dfmpc_onnx.errors import RuntimeUnavailable
from dfmpc_onnx.runtime.providers import find_provider, provider_names
from dfmpc_onnx.runtime.session import Session
from tests import graphs

ABACUS = "AbacusExecutionProvider"


def device(name: str, kind: str = "GPU", library: str = "", **metadata: str) -> types.SimpleNamespace:
    hardware = types.SimpleNamespace(type=types.SimpleNamespace(name=kind), metadata=metadata)
    return types.SimpleNamespace(
        ep_name=name, device=hardware, ep_metadata={"library_path": library} if library else {}
    )


class Onnxruntime(types.ModuleType):
    """An onnxruntime with the CPU provider, which finds these devices once a library is registered."""

    __version__ = "1.32.0"

    def __init__(self, *found: types.SimpleNamespace, refusal: str = "", more: tuple[str, ...] = ()) -> None:
        super().__init__("onnxruntime")
        self.found, self.refusal, self.more = found, refusal, more
        self.registered: list[tuple[str, str]] = []

    def get_available_providers(self) -> list[str]:
        listed = [d.ep_name for d in self.found] if self.registered else []
        return ["CPUExecutionProvider", *self.more, *listed]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        if self.refusal:
            raise RuntimeError(self.refusal)
        assert name not in dict(self.registered), "registered twice"
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[types.SimpleNamespace]:
        return [device("CPUExecutionProvider", "CPU"), *(self.found if self.registered else ())]


def install(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path, modules: Mapping[str, str]) -> None:
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(folder)


def plugin(name: str, path: str = "lib.so") -> str:
    return f"def get_ep_names(): return ['{name}']\ndef get_library_path(): return '{path}'\n"


@pytest.fixture
def abacus(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    install(monkeypatch, tmp_path, {"onnxruntime_ep_abacus": plugin(ABACUS)})


@pytest.mark.usefixtures("abacus")
@pytest.mark.parametrize("wanted", ["abacus", "Abacus", "ABACUSExecutionProvider"])
def test_a_plugin_goes_by_its_short_name_and_is_registered_once(wanted: str) -> None:
    runtime = Onnxruntime(device(ABACUS, library="lib.so"))
    for _ in range(2):
        found = find_provider(runtime, wanted)
        assert (found.name, found.device) == (ABACUS, runtime.found[0])
    assert runtime.registered == [(ABACUS, "lib.so")]


@pytest.mark.usefixtures("abacus")
def test_what_is_built_in_is_preferred_and_has_no_device() -> None:
    runtime = Onnxruntime(more=(ABACUS,))
    assert find_provider(runtime, "abacus").device is None
    assert not runtime.registered


@pytest.mark.usefixtures("abacus")
def test_a_device_to_compile_for_is_no_device_to_run_on() -> None:
    with pytest.raises(RuntimeUnavailable, match=r"'Abacus': onnxruntime-ep-abacus is installed, and finds no device"):
        find_provider(Onnxruntime(device(ABACUS, library="lib.so", is_virtual="1")), "abacus")


@pytest.mark.usefixtures("abacus")
def test_a_library_that_does_not_load_says_why_in_one_line() -> None:
    with pytest.raises(RuntimeUnavailable, match=r"onnxruntime 1.32.0 cannot load it \(it is below 1.99\)$"):
        find_provider(Onnxruntime(refusal="it is below 1.99\nand more"), "abacus")


@pytest.mark.usefixtures("abacus")
def test_an_onnxruntime_that_takes_no_plugins_is_named() -> None:
    runtime = types.SimpleNamespace(__version__="1.20.1", get_available_providers=lambda: ["CPUExecutionProvider"])
    with pytest.raises(RuntimeUnavailable, match=r"onnxruntime 1.20.1 takes no plug-ins .*; install onnxruntime 1.24"):
        find_provider(runtime, "abacus")  # type: ignore[arg-type]


def test_the_preferred_kind_of_device_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """OpenVINO runs on the processor where it can; QNN on the NPU alone."""
    names = ("OpenVINOExecutionProvider", "QNNExecutionProvider")
    install(
        monkeypatch,
        tmp_path,
        {"onnxruntime_ep_openvino": plugin(names[0]), "onnxruntime_qnn": plugin(names[1])},
    )
    devices = [device(name, kind, library="lib.so") for name in names for kind in ("GPU", "NPU", "CPU")]
    taken = [find_provider(Onnxruntime(*devices), name).device.device.type.name for name in ("openvino", "qnn")]
    assert taken == ["CPU", "NPU"]
    with pytest.raises(RuntimeUnavailable, match="finds no device here that it takes; run it on a device with a Hex"):
        find_provider(Onnxruntime(devices[-1]), "qnn")


@pytest.mark.parametrize(
    ("wanted", "advice"),
    [
        ("NvTensorRTRTX", "pip install onnxruntime-ep-nv-tensorrt-rtx"),
        ("cuda", "uninstall onnxruntime and pip install onnxruntime-gpu"),
    ],
)
def test_a_known_provider_that_is_missing_says_what_to_install(wanted: str, advice: str) -> None:
    with pytest.raises(RuntimeUnavailable, match=f"^provider '{wanted}' is not installed; {advice}$"):
        find_provider(Onnxruntime(), wanted)


@pytest.mark.usefixtures("abacus")
def test_another_name_lists_what_there_is_plugins_included(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    install(monkeypatch, tmp_path, {"onnxruntime_ep_broken": "raise OSError('bad image')"})
    runtime = Onnxruntime()
    assert [name for name in provider_names(runtime) if name in ("CPU", "Abacus", "Broken")] == ["CPU", "Abacus"]
    with pytest.raises(
        RuntimeUnavailable, match=r"'sliderule' is not in this onnxruntime; it has CPU, .*Abacus.*; give one of these"
    ):
        find_provider(runtime, "sliderule")
    assert not runtime.registered


@pytest.mark.usefixtures("abacus")
def test_the_real_onnxruntime_refuses_a_library_that_is_none() -> None:
    with pytest.raises(RuntimeUnavailable, match="provider 'Abacus': onnxruntime-ep-abacus is installed, and onnxr"):
        Session(graphs.chain(), "abacus")
    assert ABACUS not in onnxruntime.get_available_providers()
