"""Read a manifest: a table with a row for each image."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from tasks.images.access.addresses import SCHEMES, foreign_scheme, holds_secret, redact
from tasks.images.access.files import MOST_BYTES, SourceError, filesystem, refuse_larger
from tasks.images.names import patient_of_laboratory

SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("label", pa.string()),
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("acquired_at", pa.timestamp("us")),
        # These columns are null for a whole file. Pixels are of the source's full size.
        ("source_uri", pa.string()),
        ("source_id", pa.string()),
        ("source_stamp", pa.string()),
        ("x", pa.int64()),
        ("y", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("level", pa.int8()),
        ("scale", pa.float64()),
        ("outline", pa.list_(pa.float32())),
        ("kind", pa.string()),
        ("touches_border", pa.bool_()),
        # A reason, a colon and the details, if it is known that there is no image.
        ("failure", pa.string()),
    ]
)
LABORATORY = "laboratory"  # a column that a manifest may have: patients are named after it
TEXT = {each.name: each.type for each in SCHEMA if each.type == pa.string()}
HOLDS_SECRET = "unreadable: refused: no address may hold a password or token"
BOX = ("x", "y", "width", "height")
ADDRESSES = ("uri", "source_uri")
PART = 2**11  # rows that are checked together


class Region(NamedTuple):
    """A box in pixels of the source's full size, read from a level of its pyramid."""

    x: int
    y: int
    width: int
    height: int
    level: int = 0


def address_of(source: str, region: Region) -> str:
    """Return the address of a region of a file.

    >>> address_of("file:///night/1.jpg", Region(10, 20, 64, 60))
    'file:///night/1.jpg#xywh=10,20,64,60'
    """
    level = f"&level={region.level}" if region.level else ""
    return f"{source}#xywh={region.x},{region.y},{region.width},{region.height}{level}"


def read_manifest(source: str, *, trusted: bool = False) -> Iterator[pa.Table]:
    """Read a manifest as tables of `SCHEMA`; unless ``trusted``, other filesystems' rows fail."""
    fs, path = filesystem(source)
    folder = str(fs.unstrip_protocol(path)).rsplit("/", 1)[0]
    start = 0
    for part in _read_parts(source):
        yield _checked(part, source, folder, start, trusted=trusted)
        start += part.num_rows


def at_laboratory(table: pa.Table, laboratory: str | pa.ChunkedArray) -> pa.Table:
    """Name the patients of `SCHEMA` rows after their laboratory, where it is not null."""
    known = table.select(["patient_id", "slide_id"]).to_pylist()
    whose = [laboratory] * len(known) if isinstance(laboratory, str) else laboratory.to_pylist()
    patients = [
        patient_of_laboratory(lab, **each) if lab else each["patient_id"]
        for lab, each in zip(whose, known, strict=True)
    ]
    return with_column(table, "patient_id", patients)


def _checked(table: pa.Table, source: str, folder: str, start: int, *, trusted: bool) -> pa.Table:
    columns = {field.name: pa.nulls(table.num_rows, field.type) for field in SCHEMA}
    for name in (each for each in SCHEMA.names if each in table.column_names):
        try:
            columns[name] = table[name].combine_chunks().cast(SCHEMA.field(name).type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(f"{source}, column {name!r}: {error}") from None
    made = pa.table(columns, SCHEMA)
    if LABORATORY in table.column_names:
        made = at_laboratory(made, table[LABORATORY].cast(pa.string()))
    for name in ADDRESSES:
        addresses = [uri and _resolve(uri, folder) for uri in made[name].to_pylist()]
        made = with_column(made, name, addresses)
    return _with_names_of_regions(_refused(made, source, trusted=trusted), source, start)


def _read_parts(source: str) -> Iterator[pa.Table]:
    """Read the file of a manifest, unchanged; CSV at once, because its types depend on all rows."""
    fs, path = filesystem(source)
    if fs.isdir(path):
        raise SourceError(f"{source} is a folder: give a manifest, or rename the folder")
    is_csv = source.lower().endswith(".csv")
    refuse_larger(source, MOST_BYTES if is_csv else sys.maxsize)
    with fs.open(path, "rb") as file:
        try:
            if is_csv:
                # Ids such as 007 are text, not numbers.
                text = TEXT | {LABORATORY: pa.string()}
                encoding, separator = _as_written(file)
                table = csv.read_csv(
                    file,
                    csv.ReadOptions(encoding=encoding),
                    csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                    convert_options=csv.ConvertOptions(
                        column_types=text, strings_can_be_null=True, null_values=[""]
                    ),
                )
                _refuse_columns(table.column_names, source)
                yield from (table.slice(start, PART) for start in range(0, len(table), PART))
                return
            _refuse_long_footer(file, source)
            manifest = pq.ParquetFile(file)
            _refuse_columns(manifest.schema_arrow.names, source)
            for batch in manifest.iter_batches(PART, use_threads=False):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{source} cannot be read as a manifest: {error}") from None


def _as_written(file: BinaryIO) -> tuple[str, str]:
    """Recognise the encoding and the separator of CSV, which spreadsheets choose by country."""
    start = file.read(2**16)
    file.seek(0)
    encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8"
    header = start.decode(encoding, "ignore").partition("\n")[0]
    return encoding, max(",;\t", key=header.count)


def _refuse_long_footer(file: BinaryIO, source: str) -> None:
    # A footer is read at once.
    file.seek(max(0, file.seek(0, os.SEEK_END) - 8))
    length = int.from_bytes(file.read(8)[:4], "little")
    if length > MOST_BYTES:
        raise SourceError(f"{source} cannot be read as a manifest: its footer has {length:,} bytes")


def _refuse_columns(names: list[str], source: str) -> None:
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise SourceError(f"{source} has two columns of one name: {', '.join(sorted(twice))}")
    for name in names:
        meant = "_".join(name.split()).lower()
        if meant != name and meant in {*SCHEMA.names, LABORATORY}:
            raise SourceError(f"{source} has a column {name!r}: call it {meant!r}")
    if not {"uri", "source_uri"} & set(names):
        raise SourceError(
            f"{source} has no column 'uri' and no 'source_uri'; it has: "
            f"{' '.join(', '.join(names).split())}"
        )


def _refused(table: pa.Table, source: str, *, trusted: bool) -> pa.Table:
    """Mark rows as failed whose address holds a password, which is removed, or is not allowed."""
    allowed = SCHEMES | {source.partition("://")[0]} if "://" in source else SCHEMES
    rows = table.select([*ADDRESSES, "failure"]).to_pylist()
    for row in rows:
        if any(row[name] and holds_secret(row[name]) for name in ADDRESSES):
            row |= {name: row[name] and redact(row[name]) for name in ADDRESSES}
            row["failure"] = HOLDS_SECRET
        foreign = foreign_scheme(row["source_uri"] or row["uri"] or "", allowed)
        if foreign is not None and not trusted:
            row["failure"] = f"unreadable: refused: a manifest may not name {foreign}:// addresses"
    for name in (*ADDRESSES, "failure"):
        table = with_column(table, name, [row[name] for row in rows])
    return table


def with_column(table: pa.Table, name: str, values: Sequence[object]) -> pa.Table:
    """Replace the values of a column; its type stays."""
    place = table.schema.get_field_index(name)
    field = table.schema.field(place)
    return table.set_column(place, field, pa.array(values, field.type))


def _with_names_of_regions(table: pa.Table, source: str, start: int) -> pa.Table:
    if table["uri"].null_count == 0 and table["x"].null_count == table.num_rows:
        return table
    rows = table.select(["uri", "source_uri", *BOX, "level"]).to_pylist()
    uris = []
    for number, row in enumerate(rows, start + 1):
        box = [row[name] for name in BOX]
        if row["uri"] is None and row["source_uri"] is None:
            raise SourceError(f"{source}, row {number}: it has no uri")
        if None in box and any(n is not None for n in box):
            raise SourceError(
                f"{source}, row {number}: a region needs {', '.join(BOX)}; it has "
                f"{', '.join(name for name in BOX if row[name] is not None)}"
            )
        if None not in box and row["source_uri"] is None:
            raise SourceError(f"{source}, row {number}: a region needs its source_uri")
        uri = row["source_uri"] if row["uri"] is None else row["uri"]
        if row["uri"] is None and None not in box:
            uri = address_of(uri, Region._make((*box, row["level"] or 0)))
        uris.append(uri)
    return with_column(table, "uri", uris)


def _resolve(uri: str, folder: str) -> str:
    if "://" in uri:
        return uri
    return f"file://{uri}" if uri.startswith("/") else f"{folder}/{uri}"
