"""Write named arrays as one safetensors file: no code in data, equal bytes for equal values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from storage.store import StoreError

Arrays = dict[str, NDArray[Any]]


def arrays_to_bytes(arrays: Arrays, **said: str) -> bytes:
    """Serialise named arrays with metadata as the bytes of a safetensors file."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return bytes(save(whole, metadata=said or None))


def arrays_from_bytes(content: bytes) -> Arrays:
    """Read named arrays from their bytes; StoreError if the bytes are damaged."""
    try:
        arrays: Arrays = load(content)
    # A hostile header can make the reader raise almost anything: KeyError for a type that numpy
    # lacks, ValueError for a wrong shape, RecursionError for deep nesting.
    except (SafetensorError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise StoreError(f"damaged safetensors file: {error}") from None
    return arrays
