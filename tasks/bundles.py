"""Define bundles, frozen dataclasses of arrays: how a file keeps them, and rows of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from types import UnionType
from typing import Any, Literal, Self, TypeVar, cast, get_args, get_origin, get_type_hints

import numpy as np

from tasks.types import Arrays, Index, below, nested

Record = TypeVar("Record")

KEPT_AS = "kept as"  # in a field's metadata: the name under which files keep it


@dataclass(frozen=True)
class Bundle:
    """A dataclass that a file keeps as named arrays, by the types of its fields.

    A mapping or another bundle is a folder of names, a number an array of one, and a text or a
    tuple is JSON in UTF-8. What is None, or kept as "", is left out.
    """

    def to_arrays(self) -> Arrays:
        """Return named arrays to be stored."""
        arrays: Arrays = {}
        for each in filter(_name, fields(self)):
            arrays |= _written(_name(each), getattr(self, each.name))
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Self:
        """Read the bundle back from `to_arrays`; absent fields have their defaults, if any."""
        kinds, values = get_type_hints(cls), {}
        for each in fields(cls):
            name = _name(each)
            there = name in arrays or bool(below(name, arrays))
            if there or (each.default is MISSING and each.default_factory is MISSING):
                values[each.name] = _read(kinds[each.name], name, arrays)
        return cls(**values)


def _name(each: Field[Any]) -> str:
    return str(each.metadata.get(KEPT_AS, each.name))


def _written(name: str, value: Any) -> Arrays:
    if value is None:
        return {}
    if isinstance(value, np.ndarray):
        return {name: value}
    if isinstance(value, Mapping):
        parts = [_written(f"{name}/{key}", each) for key, each in value.items()]
        return {key: array for part in parts for key, array in part.items()}
    if isinstance(value, tuple | str):
        return {name: np.frombuffer(json.dumps(value, ensure_ascii=False).encode(), np.uint8)}
    if isinstance(value, int | float):
        return {name: np.asarray([value])}
    return nested(name, value.to_arrays())


def _read(kind: Any, name: str, arrays: Arrays) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:  # or None
        return _read(inner[0], name, arrays)
    if origin is np.ndarray:
        return arrays[name]
    if origin is Literal or origin is tuple:
        value = json.loads(arrays[name].tobytes())
        if origin is Literal:
            return value
        return tuple(value if inner[0] is str else (inner[0](*each) for each in value))
    if kind in (int, float):
        return kind(arrays[name][0])
    here = below(name, arrays)
    if origin in (dict, Mapping):
        key, value = inner
        whole = get_origin(value) is np.ndarray  # names of arrays may have slashes
        names = {each if whole else each.partition("/")[0] for each in here}
        return {key(each): _read(value, each, here) for each in sorted(names, key=key)}
    return kind.from_arrays(here)


def take(record: Record, chosen: Index) -> Record:
    """Return some rows of every array in a dataclass, its nested ones and its mappings."""
    return cast(Record, _row_by_row([record], lambda pieces: pieces[0][chosen]))


def join(records: Sequence[Record]) -> Record:
    """Join dataclasses with the same arrays by rows."""
    return cast(Record, _row_by_row(records, np.concatenate))


def _row_by_row(records: Sequence[Any], combine: Callable[[Sequence[Any]], Any]) -> Any:
    first = records[0]
    if first is None:
        return None
    if isinstance(first, np.ndarray):
        return combine(records)
    if isinstance(first, list | tuple):
        return type(first)(combine([np.asarray(each, object) for each in records]).tolist())
    if isinstance(first, Mapping):
        return {key: _row_by_row([record[key] for record in records], combine) for key in first}
    parts = ([getattr(record, each.name) for record in records] for each in fields(first))
    return type(first)(*(_row_by_row(part, combine) for part in parts))
