"""Tables with other values in a column."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray


def with_column(table: pa.Table, name: str, values: Sequence[Any] | NDArray[Any]) -> pa.Table:
    """Return the table with other values in a column that it has, which keeps its type."""
    place = table.schema.get_field_index(name)
    kind = table.schema.field(name).type
    return table.set_column(place, name, pa.array(values, kind, from_pandas=True))
