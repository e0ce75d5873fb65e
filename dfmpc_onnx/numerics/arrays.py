"""The types of the arrays that everything here computes with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Array = npt.NDArray[np.generic]
Floating = npt.NDArray[np.floating]
CodeArray = npt.NDArray[np.int8]  # what quantized weights are stored as, before they are packed
