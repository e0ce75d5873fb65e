"""PyTorch where it is not installed, is broken, or lacks a GPU."""

import sys
import types

import pytest

from dfmpc_onnx.errors import OptionError
from dfmpc_onnx.learning.torch_import import find_device, require_torch, torch_threads


class FakeTorch(types.SimpleNamespace):
    """As much of PyTorch as finding a device takes."""

    def __init__(self, gpu: bool) -> None:
        super().__init__(__version__="2.x", cuda=types.SimpleNamespace(is_available=lambda: gpu), threads=4)

    def get_num_threads(self) -> int:
        return self.threads

    def set_num_threads(self, count: int) -> None:
        self.threads = count


def test_without_pytorch_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(OptionError) as refused:
        require_torch()
    assert str(refused.value) == "learned images: PyTorch is not installed; pip install torch"


def test_a_broken_pytorch_is_named_with_its_cause(monkeypatch, tmp_path):
    (tmp_path / "torch.py").write_text("raise OSError('libtorch.so: no such file\\nand more')")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OptionError, match=r"cannot be imported \(libtorch\.so: no such file\); uninstall torch"):
        require_torch()
    sys.modules.pop("torch", None)


@pytest.mark.parametrize(
    ("gpu", "asked", "found"),
    [(True, "auto", "cuda"), (False, "auto", "cpu"), (True, "cpu", "cpu"), (True, "cuda", "cuda")],
)
def test_the_device_is_a_gpu_where_there_is_one_and_none_is_refused(monkeypatch, gpu, asked, found):
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(gpu))
    assert find_device(asked) == found


def test_a_device_that_is_not_there_is_one_clear_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", FakeTorch(gpu=False))
    with pytest.raises(OptionError, match=r"device cuda: PyTorch 2\.x finds no GPU; give --device cpu"):
        find_device("cuda")
    with pytest.raises(OptionError, match=r"device 'cudda': no such device \(did you mean cuda\?\); give auto"):
        find_device("cudda")


def test_the_number_of_threads_is_set_back(monkeypatch):
    fake = FakeTorch(gpu=False)
    monkeypatch.setitem(sys.modules, "torch", fake)
    with torch_threads(1):
        assert fake.threads == 1
    assert fake.threads == 4
    with torch_threads(None):
        assert fake.threads == 4
