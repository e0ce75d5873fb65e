"""PyTorch, imported late: whether it is there, on which device it computes, and with how many threads.

Every other module of this wing imports it at its top. So who calls them asks `require_torch` first, and imports them
within the function.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from dfmpc_onnx.errors import OptionError, did_you_mean, printable
from dfmpc_onnx.extras import install_command

Tensor = Any  # torch.Tensor, which a type checker does not see where PyTorch is not installed
AUTO_DEVICE = "auto"
DEVICES = (AUTO_DEVICE, "cpu", "cuda")


def require_torch() -> ModuleType:
    """PyTorch, imported; raises OptionError where it is not installed, or installed but broken."""
    try:
        import torch
    except Exception as error:  # a broken one raises OSError and others, by its native library
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            raise OptionError(f"learned images: PyTorch is not installed; {install_command('learned')}") from None
        first = printable((str(error).strip().splitlines() or [type(error).__name__])[0])
        raise OptionError(
            f"learned images: PyTorch is installed but cannot be imported ({first}); uninstall torch and "
            + install_command("learned")
        ) from None
    found: ModuleType = torch
    return found


def find_device(name: str) -> str:
    """cpu or cuda: the GPU for "auto" where PyTorch has one. Raises OptionError for other names and a missing GPU."""
    torch = require_torch()
    if name not in DEVICES:
        raise OptionError(f"device '{name}': no such device{did_you_mean(name, DEVICES)}; give {', '.join(DEVICES)}")
    there = bool(torch.cuda.is_available())
    if name == "cuda" and not there:
        raise OptionError(f"device cuda: PyTorch {torch.__version__} finds no GPU; give --device cpu")
    return ("cuda" if there else "cpu") if name == AUTO_DEVICE else name


_SETTING = threading.Lock()


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within the block PyTorch takes so many threads; None: as it does by itself.

    The number belongs to the process. So only one block at a time has one, and it is set back at the end.
    """
    if count is None:
        yield
        return
    torch = require_torch()
    with _SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
