"""The sheet that shows the procedural images."""

from __future__ import annotations

import os
import pathlib

import numpy as np

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.extras import install_command
from dfmpc_onnx.inputs.procedural import pictures
from dfmpc_onnx.model.plain_files import is_folder
from dfmpc_onnx.model.staging import staging_folder
from dfmpc_onnx.model.write import FileKind, check_target

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _may_be_replaced(path: pathlib.Path) -> bool:
    """Whether a file is empty or a PNG."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(PNG_SIGNATURE)) in (b"", PNG_SIGNATURE)
    except OSError:
        return False


def write_sheet(path: str | os.PathLike[str], size: int, count: int, seed: int, *, force: bool = False) -> None:
    """Procedural images side by side as one PNG, about as wide as high; raises OptionError.

    force: whether a file that is no PNG may be written over.
    """
    try:
        from PIL import Image
    except ImportError:
        raise OptionError(f"writing a picture needs Pillow; {install_command('images')}") from None
    where = shown(str(pathlib.Path(path)))
    if pathlib.Path(path).suffix.lower() != ".png" or not is_folder(pathlib.Path(path).parent):
        raise OptionError(f"{where}: not a .png file in a folder that exists; give such a name")
    target = check_target(path, None, force=force, kind=FileKind("PNG file", _may_be_replaced))
    made = pictures(count, size, size, seed)
    across = int(np.ceil(np.sqrt(count)))
    down = -(-count // across)
    sheet = np.full((down * size, across * size, 3), 255, np.uint8)
    for index, picture in enumerate(made):
        top, left = index // across * size, index % across * size
        sheet[top : top + size, left : left + size] = picture
    try:
        with staging_folder(target) as scratch:
            whole = scratch / "sheet.png"
            Image.fromarray(sheet).save(whole)
            whole.replace(target)
    except OSError as error:
        raise OptionError(f"{where}: cannot be written ({error.strerror})") from None
