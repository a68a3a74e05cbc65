"""Pack the arrays of a block into two, so that a shard is two objects: its taps, and its rows.

An object store takes tens of milliseconds for each request, however small the object, and few
objects are faster to read and write than many. ``taps`` float32 (n, D) holds all taps side by side;
``rows`` uint8 (n, B) holds the rest, a packed record for each row. The group's attributes describe
both: ``taps`` lists name and width of each tap, ``rows`` name, type and shape of each field, so
that ``group["rows"][:].view(dtype)`` gives the records.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TAPS, ROWS = "taps", "rows"
TAP = "tap/"  # prefix of a tap's name

Arrays = dict[str, NDArray[Any]]


def described(arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Describe how arrays by name, each (n, ...), are packed, as plain data for JSON.

    >>> described({"tap/a": np.zeros((1, 3), np.float32), "label": np.zeros(1, np.int8)})
    {'taps': [['a', 3]], 'rows': [['label', '|i1', []]]}
    """
    taps = [[name.removeprefix(TAP), int(a.shape[1])] for name, a in _taps(arrays).items()]
    rows = [
        [name, values.dtype.newbyteorder("<").str, list(values.shape[1:])]
        for name, values in _others(arrays).items()
    ]
    return {TAPS: taps, ROWS: rows}


def pack(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """Pack arrays by name, each (n, ...), into ``taps`` and ``rows``."""
    others = _others(arrays)
    dtype = _dtype(described(arrays)[ROWS])
    records = np.empty(len(next(iter(others.values()))), dtype)
    for name, values in others.items():
        records[name] = values
    rows = records.view(np.uint8).reshape(len(records), dtype.itemsize)
    return {TAPS: np.concatenate(list(_taps(arrays).values()), axis=1), ROWS: rows}


def unpack(packed: Mapping[str, NDArray[Any]], how: Mapping[str, Any]) -> Arrays:
    """Return the arrays by name from ``rows``, and from ``taps`` if present.

    Raises:
        ValueError: they do not match the description.
    """
    found: Arrays = {}
    if TAPS in packed:
        ends = np.cumsum([width for _, width in how[TAPS]])
        parts = np.split(packed[TAPS], ends[:-1], axis=1)
        for (name, width), values in zip(how[TAPS], parts, strict=True):
            if values.shape[1] != width:
                raise ValueError(f"tap {name} has {values.shape[1]} numbers a row, not {width}")
            found[f"{TAP}{name}"] = np.ascontiguousarray(values)
    dtype = _dtype(how[ROWS])
    records = np.ascontiguousarray(packed[ROWS]).view(dtype)[:, 0]
    for name in dtype.names or ():
        values = records[name]
        found[name] = values.astype(values.dtype.newbyteorder("="))
    return found


def _taps(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name: values for name, values in arrays.items() if name.startswith(TAP)}


def _others(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    return {name: values for name, values in arrays.items() if not name.startswith(TAP)}


def _dtype(fields: list[tuple[str, str, list[int]]]) -> np.dtype[Any]:
    return np.dtype([(name, kind, tuple(shape)) for name, kind, shape in fields])
