"""Write tables to a store as Parquet files, and read them back.

Every page has a checksum, so a damaged file raises an error. Arrow's threads are not used: each
would keep memory of its own, and all take more time in sum.
"""

import base64
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.store import MissingError, Store, StoreError, digest_of_file

ROWS = 2**11  # in memory together
_WRITE: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def table_to_bytes(table: pa.Table, group_rows: int | None = None) -> bytes:
    """Serialise a table, in row groups of ``group_rows``; equal tables have equal bytes."""
    buffer = BytesIO()
    pq.write_table(table, buffer, row_group_size=group_rows, **_WRITE)
    return buffer.getvalue()


def write_table(
    store: Store, table: pa.Table, *path: str, group_rows: int | None = None, once: bool = False
) -> None:
    """Write a table in row groups of ``group_rows``; ``once`` as in `Store.write_bytes`."""
    with store.staged(*path, once=once) as stage:
        pq.write_table(table, stage, row_group_size=group_rows, **_WRITE)


def write_parts(store: Store, schema: pa.Schema, parts: Iterable[pa.Table], *path: str) -> str:
    """Write a table part by part, a row group for each that is not empty; return its sha256."""
    with store.staged(*path) as stage:
        return stage_parts(stage, schema, parts)


def stage_parts(stage: Path, schema: pa.Schema, parts: Iterable[pa.Table], **options: Any) -> str:
    """Write a table part by part to a file of `Store.stage`; ``options`` are Arrow's writer's."""
    with pq.ParquetWriter(stage, schema, **_WRITE, **options) as writer:
        for part in parts:
            if part.num_rows:
                writer.write_table(part, row_group_size=part.num_rows)
            del part  # before the next one is made
    with stage.open("rb") as file:
        return digest_of_file(file)


def groups_of(parts: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Join and divide parts (at least one) into groups of ``rows``; the last may have fewer."""
    waiting: pa.Table | None = None
    for part in parts:
        waiting = part if waiting is None else pa.concat_tables([waiting, part])
        while waiting.num_rows >= rows:
            yield waiting.slice(0, rows).combine_chunks()
            waiting = waiting.slice(rows)
    if waiting is not None and waiting.num_rows:
        yield waiting.combine_chunks()


def read_table(store: Store, *path: str, columns: list[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns; MissingError or, if it is damaged, StoreError."""
    with open_table(store, *path) as file:
        return file.read(columns=columns, use_threads=False)


def table_from_bytes(content: bytes, columns: list[str] | None = None) -> pa.Table:
    """Read a table whose bytes have been compared with their digest."""
    return pq.read_table(pa.BufferReader(content), columns=columns, use_threads=False)


def iterate_groups(
    store: Store, *path: str, columns: list[str] | None = None, groups: Iterable[int] | None = None
) -> Iterator[pa.Table]:
    """Yield row groups of a table, which may be larger than memory; all without ``groups``."""
    with open_table(store, *path) as file:
        for number in range(file.num_row_groups) if groups is None else groups:
            yield file.read_row_group(number, columns=columns, use_threads=False)


def stage_rows(store: Store, stage: Path, rows: range, *path: str) -> None:
    """Copy consecutive rows of a table to a local file, a row group at a time."""
    with open_table(store, *path) as file:
        schema, start = file.schema_arrow, 0
        with pq.ParquetWriter(stage, schema, compression="NONE", write_statistics=False) as writer:
            for number in range(file.num_row_groups):
                stop = start + file.metadata.row_group(number).num_rows
                first, last = max(start, rows.start), min(stop, rows.stop)
                if first < last:
                    group = file.read_row_group(number, use_threads=False)
                    writer.write_table(group.slice(first - start, last - first))
                start = stop


def iterate_verified(
    store: Store, files: Iterable[tuple[tuple[str, ...], str]]
) -> Iterator[pa.Table]:
    """Yield the row groups of files; MissingError or StoreError if one differs from its sha256."""
    for path, digest in files:
        if store.digest(*path) != digest:
            raise StoreError(
                f"{store.address(*path)} is not what a worker wrote (sha256 differs): run the same "
                "command again"
            )
        yield from iterate_groups(store, *path)


def groups_having(footer: pq.FileMetaData, column: str, values: Collection[str]) -> list[int]:
    """List the row groups that may have one of some texts in a column, by their statistics."""
    found = []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        known = next(each for each in chunks if each.path_in_schema == column).statistics
        ranged = known is not None and known.has_min_max
        if any(not ranged or known.min <= value <= known.max for value in values):
            found.append(number)
    return found


def iterate_rows(
    store: Store, *path: str, columns: list[str] | None, footer: pq.FileMetaData | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of a table in parts of `ROWS`, reading one row group at a time."""
    with open_table(store, *path, footer=footer) as file:
        for number in range(file.num_row_groups):
            for batch in file.iter_batches(ROWS, [number], columns, use_threads=False):
                yield pa.Table.from_batches([batch])


@contextmanager
def open_table(
    store: Store, *path: str, footer: pq.FileMetaData | None = None
) -> Iterator[pq.ParquetFile]:
    """Open a file to read row groups; MissingError, or StoreError for damage, perhaps later."""
    with (
        naming_damage(store, *path),
        store.open(*path) as opened,
        pq.ParquetFile(
            opened, metadata=footer, pre_buffer=store.is_far, page_checksum_verification=True
        ) as file,
    ):
        yield file


def read_footer(store: Store, *path: str) -> pq.FileMetaData:
    """Read the footer, which describes row groups and columns; StoreError if it is damaged."""
    with naming_damage(store, *path), store.open(*path) as opened:
        return pq.read_metadata(opened)


def checked_schema(store: Store, *path: str) -> pa.Schema:
    """Read a file's schema from its footer; StoreError if its two descriptions differ.

    A footer has no checksum: a flipped bit in a name would make a new column and leave one null.
    """
    footer = read_footer(store, *path)
    with naming_damage(store, *path):
        schema = footer.schema.to_arrow_schema()
        kept = (footer.metadata or {}).get(b"ARROW:schema")
        if kept is not None:
            stored = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept)))
            if (stored.names, stored.types) != (schema.names, schema.types):
                raise pa.ArrowInvalid("its footer describes its columns in two ways")
    return schema


@contextmanager
def naming_damage(store: Store, *path: str) -> Iterator[None]:
    """Turn errors of a damaged file in the block into a StoreError with the file and the remedy."""
    try:
        yield
    except FileNotFoundError:
        raise MissingError(f"{store.address(*path)} does not exist") from None
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        # An error of the filesystem has a number, or is one of the network; damage that Arrow finds
        # in the bytes has neither.
        if isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", None):
            raise
        reason = " ".join(str(error).split())
        raise StoreError(
            f"{store.address(*path)} is damaged and cannot be read ({reason}): restore it from "
            "a backup, or make it again"
        ) from None
