"""Define the types of arrays and the words of reports that all modules share."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Index = NDArray[np.intp]  # numbers of rows, or of classes
Counts = NDArray[np.int64]
Integers = NDArray[np.integer]  # of any size
Single = NDArray[np.float32]
Float = NDArray[np.float64]
Numbers = NDArray[np.floating]  # of any precision
Texts = NDArray[np.str_]
Array = NDArray[Any]
Arrays = dict[str, Array]  # named arrays, as a safetensors file keeps them


OF_LABORATORY = "::"  # between a laboratory and its patient, in the patient's name


def laboratory_of(patient: str) -> str:
    """Return the laboratory in a patient's name; empty if there is none.

    >>> laboratory_of("kampala::7"), laboratory_of("7")
    ('kampala', '')
    """
    laboratory, end, _ = patient.partition(OF_LABORATORY)
    return laboratory if end else ""


def nested(name: str, arrays: Mapping[str, Array]) -> Arrays:
    """Put named arrays under another name, as files into a folder."""
    return {f"{name}/{key}": values for key, values in arrays.items()}


def below(name: str, arrays: Mapping[str, Array]) -> Arrays:
    """Return the arrays that `nested` has put under a name."""
    folder = f"{name}/"
    return {
        key.removeprefix(folder): values for key, values in arrays.items() if key.startswith(folder)
    }


class ImageStatus(StrEnum):
    """The status of an image: scored or failed."""

    SCORED = "scored"
    FAILED = "failed"


class Verdict(StrEnum):
    """The next step for a result: accept it, or let a person look at it."""

    ACCEPT = "accept"
    REVIEW = "review"


class CellKind(StrEnum):
    """The kind of a region of a photograph or slide; white cells are known by their nucleus."""

    RED = "red"
    WHITE = "white"
    TILE = "tile"


class FieldKind(StrEnum):
    """The kind of a place in a photograph or slide: a field whose cells are read, or why not."""

    FIELD = "field"
    EMPTY = "empty"
    THICK = "thick"
    UNFOCUSED = "unfocused"


class Light(StrEnum):
    """The lights of a night, the best first."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"
