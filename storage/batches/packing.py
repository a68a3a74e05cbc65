"""Pack the arrays of features into two: the taps side by side, and a record for each row."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.records import Arrays

TAPS, ROWS = "taps", "rows"
TAP = "tap/"  # prefix of a tap's name


def described(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Describe how arrays by name, each (n, ...), are packed, as plain data for JSON.

    >>> described({"tap/a": np.zeros((1, 3), np.float32), "label": np.zeros(1, np.int8)})
    {'taps': [['a', 3]], 'rows': [['label', '|i1', []]]}
    """
    taps, others = divided(arrays)
    return {
        TAPS: [[name.removeprefix(TAP), int(values.shape[1])] for name, values in taps.items()],
        ROWS: [
            [name, values.dtype.newbyteorder("<").str, list(values.shape[1:])]
            for name, values in others.items()
        ],
    }


def pack(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Pack arrays by name, each (n, ...), into ``taps`` and ``rows``."""
    taps, others = divided(arrays)
    dtype = _dtype(described(arrays)[ROWS])
    records = np.empty(len(next(iter(others.values()))), dtype)
    for name, values in others.items():
        records[name] = values
    rows = records.view(np.uint8).reshape(len(records), dtype.itemsize)
    return {TAPS: np.concatenate(list(taps.values()), axis=1), ROWS: rows}


def unpack(packed: Mapping[str, NDArray[Any]], how: Mapping[str, Any]) -> Arrays:
    """Return the arrays in ``rows``, and in ``taps`` if present; ValueError if not as described."""
    arrays: Arrays = {}
    if TAPS in packed:
        ends = np.cumsum([width for _, width in how[TAPS]])
        parts = np.split(packed[TAPS], ends[:-1], axis=1)
        for (name, width), values in zip(how[TAPS], parts, strict=True):
            if values.shape[1] != width:
                raise ValueError(f"tap {name} has {values.shape[1]} numbers a row, not {width}")
            arrays[f"{TAP}{name}"] = np.ascontiguousarray(values)
    dtype = _dtype(how[ROWS])
    records = np.ascontiguousarray(packed[ROWS]).view(dtype)[:, 0]
    for name in dtype.names or ():
        values = records[name]
        arrays[name] = values.astype(values.dtype.newbyteorder("="))
    return arrays


def divided(arrays: Mapping[str, NDArray[Any]]) -> tuple[Arrays, Arrays]:
    """Divide arrays by name into the taps and the others."""
    taps = {name: values for name, values in arrays.items() if name.startswith(TAP)}
    return taps, {name: values for name, values in arrays.items() if name not in taps}


def _dtype(fields: list[tuple[str, str, list[int]]]) -> np.dtype[Any]:
    return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in fields])
