"""Named arrays as one safetensors file: no code in data, and the same bytes for the same values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from storage.store import StoreError

Arrays = dict[str, NDArray[Any]]


def arrays_to_bytes(arrays: Arrays) -> bytes:
    """Serialise named arrays."""
    return bytes(save({name: np.asarray(array, order="C") for name, array in arrays.items()}))


def arrays_from_bytes(content: bytes) -> Arrays:
    """Named arrays back from their bytes."""
    try:
        arrays: Arrays = load(content)
    except SafetensorError as error:
        raise StoreError(f"damaged safetensors file: {error}") from None
    return arrays
