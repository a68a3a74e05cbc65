"""Name the kinds of arrays that all modules share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.uint8]
Amount = NDArray[np.float32]
Mask = NDArray[np.bool_]
Float = NDArray[np.float64]
Arrays = dict[str, NDArray[Any]]  # named arrays, as a safetensors file keeps them
