"""Check fields of an imported file; an error names the field, its value and its limit.

Anybody may have made a file from another store. Each field has a range, and a file with a field
beyond its range is refused as a whole, before anything is written.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky

from tasks.detector.slides.groups import LAYOUT, GroupKey, GroupStatistics
from tasks.types import Arrays, Float, below

SHOWN = 60  # characters of a value in a message
ROUNDING = 1e-8  # of a matrix's trace, by which symmetry and eigenvalues may be off
PSEUDONYM = set("0123456789abcdef")
SIGNS = (16, 64)  # of a pseudonym, at least and at most


class UnfitError(ValueError):
    """A field of an imported file has a value beyond its limit."""


def refuse(field: str, value: object, limit: str) -> NoReturn:
    """Raise UnfitError for a field with a value beyond its limit."""
    text = str(value)
    text = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    sentence = f"{field} is {text}, and must be {limit}"
    # Names and values in the file must not control a terminal.
    raise UnfitError("".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence))


def number(field: str, value: float, least: float, most: float) -> float:
    """Return a number after checking its limits."""
    if not least <= value <= most:  # NaN is in no range
        refuse(field, value, f"{least:g} to {most:g}")
    return value


def array(field: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> Float:
    """Return a named array after checking that it is finite float64 of a shape."""
    found = _of_kind(field, arrays, "f", shape)
    if not np.isfinite(found).all():
        refuse(field, found[~np.isfinite(found)][0], "finite")
    return np.asarray(found)


def counts(
    field: str, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, ...], kind: str = "f"
) -> NDArray[Any]:
    """Return a named array of whole numbers of at least 0: floats or, for kind i, integers."""
    found = array(field, arrays, shape) if kind == "f" else _of_kind(field, arrays, kind, shape)
    wrong = (found < 0) | (found != np.floor(found))
    if wrong.any():
        refuse(field, found[wrong][0], "whole and at least 0")
    return found


def _of_kind(
    field: str, arrays: Mapping[str, NDArray[Any]], kind: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    if field not in arrays:
        refuse(field, "missing", f"an array {shape}")
    found = arrays[field]
    if found.dtype != {"f": np.float64, "i": np.int64, "u": np.uint8}[kind]:
        refuse(field, found.dtype, {"f": "float64", "i": "int64", "u": "uint8"}[kind])
    if found.shape != shape:
        refuse(field, f"of shape {found.shape}", f"of shape {shape}")
    return found


def exactly(field: str, arrays: Mapping[str, Any], wanted: set[str]) -> None:
    """Raise UnfitError if names are missing or there are others."""
    if missing := sorted(wanted - arrays.keys()):
        refuse(f"{field}/{missing[0]}", "missing", "there")
    if more := sorted(arrays.keys() - wanted):
        refuse(f"{field}/{more[0]}", "there", "left out")


def semidefinite(field: str, matrix: Float) -> None:
    """Raise UnfitError if a matrix (d, d) is not symmetric or not positive semidefinite."""
    scale = float(np.trace(matrix))
    if not np.isfinite(scale) or scale < 0:
        refuse(f"the trace of {field}", scale, "finite and at least 0")
    if scale == 0.0:
        if matrix.any():
            refuse(f"the trace of {field}", scale, "above 0: the matrix is not 0")
        return
    if np.abs(matrix - matrix.T).max() > ROUNDING * scale:
        refuse(field, "not symmetric", "symmetric")
    try:
        # Divided by the trace, the elements of a semidefinite matrix are at most 1.
        cholesky(matrix / scale + ROUNDING * np.eye(len(matrix)), lower=True)
    except LinAlgError:
        refuse(field, "not positive semidefinite", "positive semidefinite")


def pseudonym(field: str, value: object) -> str:
    """Return the pseudonym of a patient or slide after checking it; it may be empty."""
    if value == "":
        return ""
    if (
        not isinstance(value, str)
        or not SIGNS[0] <= len(value) <= SIGNS[1]
        or not set(value) <= PSEUDONYM
    ):
        refuse(field, repr(value), f"{SIGNS[0]} to {SIGNS[1]} hexadecimal digits")
    return value


def texts(field: str, values: NDArray[Any]) -> str:
    """Decode an array of UTF-8."""
    if values.dtype != np.uint8 or values.ndim != 1:
        refuse(field, f"{values.dtype} of shape {values.shape}", "uint8 of one dimension")
    try:
        return values.tobytes().decode()
    except UnicodeDecodeError:
        refuse(field, "not UTF-8", "UTF-8")


def group_keys(field: str, values: NDArray[Any], batches: Sequence[str]) -> tuple[GroupKey, ...]:
    """Read the keys of groups: pseudonyms in one of the batches, in ascending order."""
    text = texts(field, values)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        refuse(field, "not JSON", "a list of [batch, patient, slide]")
    rows = found if isinstance(found, list) else [found]
    keys = []
    for row in rows:
        if not isinstance(row, list) or len(row) != len(GroupKey._fields):
            refuse(field, "something else", "a list of [batch, patient, slide]")
        if row[0] not in batches:
            refuse(f"the batch of a slide in {field}", repr(row[0]), " or ".join(batches))
        pseudonyms = (pseudonym(f"{n} in {field}", v) for n, v in zip(("patient", "slide"), row[1:],
                                                                     strict=True))  # fmt: skip
        keys.append(GroupKey(row[0], *pseudonyms))
    if not isinstance(found, list) or keys != sorted(set(keys)):
        refuse(field, "out of order, or has a slide twice", "in ascending order, each slide once")
    return tuple(keys)


def groups(
    field: str,
    arrays: Arrays,
    widths: Mapping[str, int],
    classes: int,
    batches: Sequence[str],
) -> GroupStatistics:
    """Check statistics by slide, and return them.

    Names in ``arrays`` begin with ``field``; ``widths`` are d of each tap, and a slide's batch is
    one of ``batches``.

    Raises:
        UnfitError: a field is beyond its limit.
    """
    mine = below(field, arrays)
    wanted = {"layout", "keys", "n"} | {f"{part}/{tap}" for part in ("means", "scatter")
                                        for tap in widths}  # fmt: skip
    exactly(field, mine, wanted)
    layout = _of_kind(f"{field}/layout", arrays, "i", (1,))
    if layout[0] != LAYOUT:
        refuse(f"{field}/layout", layout[0], f"{LAYOUT}")
    keys = group_keys(f"{field}/keys", arrays[f"{field}/keys"], batches)
    n = counts(f"{field}/n", arrays, (len(keys), classes))
    if len(keys) and not n.sum(axis=1).all():
        refuse(f"{field}/n", "0 for a slide", "above 0 for every slide")
    means, scatter = {}, {}
    for tap, d in widths.items():
        means[tap] = array(f"{field}/means/{tap}", arrays, (len(keys), classes, d))
        if means[tap][n == 0].any():
            refuse(f"{field}/means/{tap}", "not 0 without cells", "0 if there are no cells")
        scatter[tap] = array(f"{field}/scatter/{tap}", arrays, (classes, d, d))
        for c in range(classes):
            semidefinite(f"{field}/scatter/{tap} of class {c}", scatter[tap][c])
    return GroupStatistics(keys, n, means, scatter)
