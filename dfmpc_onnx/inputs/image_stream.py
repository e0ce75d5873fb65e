"""The user's own images, read as they are needed: what is held of them does not grow with their number."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from dfmpc_onnx.errors import OptionError, shown
from dfmpc_onnx.inputs.files import Images, as_network_takes, check_file, checked_labels, origin_of
from dfmpc_onnx.inputs.image_files import ImageFolder, to_layout
from dfmpc_onnx.inputs.npz import read_arrays, stored_array
from dfmpc_onnx.inputs.preprocess import Preprocess
from dfmpc_onnx.model.plain_files import is_folder

IMAGES_AT_ONCE = 50
IMAGE_VALUES_AT_ONCE = 16 * 3 * 224 * 224  # of images that are held together


@dataclasses.dataclass(frozen=True)
class ImageStream:
    """Images of a file or a folder that is read again each time one goes through it.

    count: how many there are. labels: int64 ``[count]`` or None. origin: what they are, to print. warnings: what the
    user must hear of them. read: `Images` of a few each, without labels, in order; raises OptionError.
    """

    count: int
    labels: npt.NDArray[np.int64] | None
    origin: str
    warnings: tuple[str, ...]
    read: Callable[[], Iterator[npt.NDArray[np.float32]]]

    def chunks(self) -> Iterator[Images]:
        """All of them, a few at a time."""
        begin = 0
        for x in self.read():
            labels = None if self.labels is None else self.labels[begin : begin + len(x)]
            yield Images(x, labels, self.origin)
            begin += len(x)

    def only(self, index: npt.NDArray[np.intp], origin: str) -> ImageStream:
        """Those at increasing indices alone. Of what is left out nothing is fed, though it is read over."""

        def read() -> Iterator[npt.NDArray[np.float32]]:
            begin = 0
            for x in self.read():
                here = index[(index >= begin) & (index < begin + len(x))] - begin
                begin += len(x)
                if len(here):
                    yield x[here]
                if not len(index) or begin > index[-1]:
                    return

        labels = None if self.labels is None else self.labels[index]
        return ImageStream(len(index), labels, origin, self.warnings, read)

    def spread(self, count: int) -> ImageStream:
        """So many of them, evenly spread: images often come in order of what they show."""
        if count >= self.count:
            return self
        index = np.arange(count) * self.count // count
        return self.only(index, f"{count} of {self.origin}")


def stream_images(
    path: str | os.PathLike[str], shape: tuple[int, ...], preprocess: Preprocess, batch: int = 1
) -> ImageStream:
    """Images as `read_images` takes them. batch: how many the network takes at once. Raises OptionError."""
    source = pathlib.Path(path)
    where = shown(str(source))
    values = int(np.prod(shape[1:], dtype=np.int64))
    at_once = int(np.clip(IMAGE_VALUES_AT_ONCE // max(values, 1), 1, IMAGES_AT_ONCE))
    at_once = -(-at_once // batch) * batch
    if is_folder(source):
        folder = ImageFolder.of(source, shape)

        def from_folder() -> Iterator[npt.NDArray[np.float32]]:
            for pixels in folder.read(at_once):
                yield to_layout(preprocess(pixels), shape, where)

        return ImageStream(len(folder.files), folder.labels, folder.origin, folder.warnings, from_folder)
    check_file(source)
    stored = stored_array(str(source), where, "x")
    if stored is None:
        raise OptionError(f"{where}: holds no array 'x'; it needs x (uint8 NHWC or float32) and optionally y")
    if not stored.shape or not stored.shape[0]:  # raises
        as_network_takes(np.empty(stored.shape, stored.dtype), shape, preprocess, where)

    def from_npz() -> Iterator[npt.NDArray[np.float32]]:
        for x in stored.rows(at_once):
            yield as_network_takes(x, shape, preprocess, where)

    labels = checked_labels(read_arrays(str(source), where, ["y"]).get("y"), stored.shape[0], where)
    return ImageStream(stored.shape[0], labels, origin_of(stored.shape[0], source), (), from_npz)
