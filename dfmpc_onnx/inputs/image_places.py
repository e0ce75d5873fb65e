"""Whether images can lie at a path, found out before a network is read."""

from __future__ import annotations

import os
import pathlib

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.files import check_file
from dfmpc_onnx.inputs.image_files import image_files, no_image_files
from dfmpc_onnx.inputs.npz import stored_array
from dfmpc_onnx.model.plain_files import is_folder


def check_place(path: str | os.PathLike[str] | None) -> None:
    """Raise OptionError where no images can be at a path that is given; no pixel is looked at."""
    if path is None:
        return
    source = pathlib.Path(path)
    if is_folder(source):
        if not image_files(source):
            raise no_image_files(source)
        return
    check_file(source)
    if stored_array(str(source), shown(str(source)), "x") is None:
        raise OptionError(f"{shown(str(source))}: holds no array 'x'; it needs x (uint8 NHWC or float32)")
