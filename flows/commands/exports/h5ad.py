"""Write cells as an AnnData file (.h5ad), part by part, so that memory does not grow with them.

The layout is that of https://anndata.readthedocs.io/en/stable/fileformat-prose.html. The package
anndata itself writes a table that is in memory as a whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

CHUNK_ROWS = 1024
TEXT = h5py.string_dtype()


class H5ad:
    """An AnnData file that grows: features as ``X``, logits in ``obsm``, columns in ``obs``.

    Args:
        file: opened for writing, and empty.
        features: names of the columns of ``X``.
        group: of each feature, kept as ``var["tap"]``.
        schema: columns of ``obs``.
        about: texts for ``uns``.
    """

    def __init__(
        self,
        file: h5py.File,
        features: Sequence[str],
        group: Sequence[str],
        schema: pa.Schema,
        about: Mapping[str, str],
    ) -> None:
        _mark(file, "anndata", "0.1.0")
        self._file = file
        self._x = _array(file, "X", np.float32, (len(features),))
        obs = _frame(file, "obs", schema.names)
        self._names = _texts(obs, "_index")
        self._columns = {each.name: _column(obs, each) for each in schema}
        var = _frame(file, "var", ["tap"])
        _grow(_texts(var, "_index"), list(features))
        taps = _Category(var, "tap")
        taps.add(pa.chunked_array([pa.array(group)]))
        taps.close()
        self._obsm = _dict(file, "obsm")
        uns = _dict(file, "uns")
        for name, text in about.items():
            _mark(uns.create_dataset(name, data=text, dtype=TEXT), "string", "0.2.0")

    def add(
        self,
        names: Sequence[str],
        x: NDArray[np.float32],
        obsm: Mapping[str, NDArray[np.float32]],
        rows: pa.Table,
    ) -> None:
        """Add cells: their names (n,), features (n, d), arrays (n, ...) and columns."""
        _grow(self._names, list(names))
        _grow(self._x, x)
        for name, values in obsm.items():
            if name not in self._obsm:
                _array(self._obsm, name, values.dtype, values.shape[1:])
            _grow(self._obsm[name], values)
        for name, column in self._columns.items():
            column.add(rows[name])

    def close(self) -> None:
        """Write the parts that need all cells."""
        for column in self._columns.values():
            column.close()


class _Column(Protocol):
    """A column of a data frame that grows."""

    def add(self, values: pa.ChunkedArray) -> None: ...

    def close(self) -> None: ...


class _Number:
    """Numbers that say by NaN that they are missing."""

    def __init__(self, group: h5py.Group, name: str, dtype: Any) -> None:
        self._values = _array(group, name, dtype)

    def add(self, values: pa.ChunkedArray) -> None:
        _grow(self._values, np.asarray(values.fill_null(np.nan)))

    def close(self) -> None: ...


class _Nullable:
    """Whole numbers, or yes and no; with a mask of those that are missing, if any is."""

    def __init__(self, group: h5py.Group, name: str, dtype: Any) -> None:
        kind = "boolean" if dtype == np.bool_ else "integer"
        self._group, self._name, self._nothing = group, name, dtype(0)
        both = _mark(group.create_group(name), f"nullable-{kind}", "0.1.0")
        self._values, self._mask = _array(both, "values", dtype), _array(both, "mask", np.bool_)
        self._missing = False

    def add(self, values: pa.ChunkedArray) -> None:
        self._missing |= values.null_count > 0
        _grow(self._mask, np.asarray(values.is_null()))
        _grow(self._values, np.asarray(values.fill_null(self._nothing)))

    def close(self) -> None:
        if not self._missing:  # scanpy draws no nullable column
            self._group.move(f"{self._name}/values", "_plain")
            del self._group[self._name]
            self._group.move("_plain", self._name)


class _Text:
    """Texts; a missing one is empty."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        self._values = _texts(group, name)

    def add(self, values: pa.ChunkedArray) -> None:
        _grow(self._values, values.cast(pa.string()).fill_null("").to_pylist())

    def close(self) -> None: ...


class _Category:
    """Texts of which many are equal; a missing one has the code -1."""

    def __init__(self, group: h5py.Group, name: str) -> None:
        self._group = _mark(group.create_group(name), "categorical", "0.2.0")
        self._group.attrs["ordered"] = False
        self._codes = _array(self._group, "codes", np.int32)
        self._known: dict[str, int] = {}

    def add(self, values: pa.ChunkedArray) -> None:
        coded = pc.dictionary_encode(values.cast(pa.string())).combine_chunks()
        names = coded.dictionary.to_pylist()
        own = np.array([*(self._known.setdefault(n, len(self._known)) for n in names), -1])
        _grow(self._codes, own[np.asarray(coded.indices.fill_null(len(names)))])

    def close(self) -> None:
        _grow(_texts(self._group, "categories"), list(self._known))


def _column(group: h5py.Group, field: pa.Field) -> _Column:
    """Make the column that fits a field of a report."""
    name, kind = _key(field.name), field.type
    if pa.types.is_dictionary(kind):
        return _Category(group, name)
    if pa.types.is_floating(kind):
        return _Number(group, name, kind.to_pandas_dtype())
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return _Nullable(group, name, kind.to_pandas_dtype())
    return _Text(group, name)


def _key(name: str) -> str:
    return name.replace("/", "|")  # which would be a path in HDF5


def _frame(file: h5py.File, name: str, columns: Sequence[str]) -> h5py.Group:
    made = _mark(file.create_group(name), "dataframe", "0.2.0")
    made.attrs["_index"] = "_index"
    made.attrs["column-order"] = np.array([_key(each) for each in columns], TEXT)
    return made


def _dict(file: h5py.File, name: str) -> h5py.Group:
    return _mark(file.create_group(name), "dict", "0.1.0")


def _array(group: h5py.Group, name: str, dtype: Any, shape: Sequence[int] = ()) -> h5py.Dataset:
    made = group.create_dataset(
        name,
        (0, *shape),
        maxshape=(None, *shape),
        chunks=(CHUNK_ROWS, *shape),
        dtype=dtype,
    )
    return _mark(made, "array", "0.2.0")


def _texts(group: h5py.Group, name: str) -> h5py.Dataset:
    return _mark(_array(group, name, TEXT), "string-array", "0.2.0")


def _mark(made: Any, kind: str, version: str) -> Any:
    made.attrs["encoding-type"], made.attrs["encoding-version"] = kind, version
    return made


def _grow(dataset: h5py.Dataset, values: Any) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values
