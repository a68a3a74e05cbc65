"""Where images come from: a folder, a glob, an archive or a manifest, on any fsspec filesystem.

Whatever the source, the outcome is the same table: one row for each image, with a URL under which
any worker reads its bytes (`tasks.reading`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from tasks.pieces import Region, address_of
from tasks.reading import ARCHIVES, SourceError, filesystem, list_members, split_link

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})
SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("label", pa.string()),
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("acquired_at", pa.timestamp("us")),
        # What follows is null in a row that is a whole file. Pixels are those of its full size.
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
        # A reason, a colon and the details, where it is known that there is no image.
        ("failure", pa.string()),
    ]
)
TEXT = ("uri", "label", "slide_id", "patient_id", "source_uri", "source_id", "kind", "failure")
BOX = ("x", "y", "width", "height")

# NIH names: C33P1thinF_IMG_20150619_114756a_cell_179.png is patient, field of view, cell.
_NIH = re.compile(
    r"^(?P<patient>.+?)_?thin.*?(?P<field>IMG_(?P<time>\d{8}_\d{6})\w*?)_cell_\d+", re.IGNORECASE
)


@dataclass(frozen=True)
class Name:
    """What a file's name tells; None where it tells nothing."""

    patient_id: str | None = None
    slide_id: str | None = None
    acquired_at: datetime | None = None


def parse_name(name: str) -> Name:
    """Read patient, field of view (the slide id) and time out of an NIH file name.

    >>> parse_name("C33P1thinF_IMG_20150619_114756a_cell_179.png").patient_id
    'C33P1'
    """
    found = _NIH.match(name)
    if found is None:
        return Name()
    patient = found["patient"]
    try:
        acquired_at = datetime.strptime(found["time"], "%Y%m%d_%H%M%S")
    except ValueError:
        acquired_at = None
    return Name(patient, f"{patient}_{found['field']}", acquired_at)


def list_images(
    source: str,
    *,
    classes: Iterable[str] = (),
    limit: int | None = None,
    extensions: frozenset[str] = EXTENSIONS,
) -> pa.Table:
    """The images of a source, in an order that depends on nothing but their names.

    Args:
        source: a folder, a glob, a zip or tar archive, a folder in one
            (``zip://folder::archive.zip``), or a .parquet or .csv manifest.
        classes: folder names that are labels; a file directly in such a folder has that label.
        limit: take this many images, spread evenly over the source.
        extensions: of files that are images.

    Returns:
        A table of `SCHEMA`, sorted by patient, slide and URL.

    Raises:
        SourceError: the source does not exist, is damaged, or names an image twice.
    """
    table = _manifest_or_files(source, frozenset(classes), extensions)
    table = _in_order(table)
    _refuse_repeats(table, source)
    if limit is not None and limit < table.num_rows:
        table = table.take([i * table.num_rows // limit for i in range(limit)])
    return table


def _in_order(table: pa.Table) -> pa.Table:
    """Sort by patient, slide and URL; regions of one source stay in the order of their manifest.

    There, neighbours follow each other, and are read from the same tiles of a slide.
    """
    keys = pa.table(
        {
            "patient": table["patient_id"],
            "slide": table["slide_id"],
            "source": pc.coalesce(table["source_uri"], table["uri"]),
            "row": pa.array(range(table.num_rows), pa.int64()),
        }
    )
    return table.take(pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]))


def _manifest_or_files(
    source: str, classes: frozenset[str], extensions: frozenset[str]
) -> pa.Table:
    lower = source.lower()
    try:
        if lower.endswith((".parquet", ".csv")):
            return _read_manifest(source)
        archive = next((kind for end, kind in ARCHIVES.items() if lower.endswith(end)), None)
        kind, _, inside = source.partition("://")
        if kind in ARCHIVES.values() and "::" in inside:
            folder, address = split_link(inside)
            return _table(_list_archive(address, kind, extensions, folder.strip("/")), classes)
        if archive:
            return _table(_list_archive(source, archive, extensions), classes)
        return _table(_list_files(source, extensions), classes)
    except FileNotFoundError:
        raise SourceError(f"{source} does not exist") from None
    except PermissionError:
        raise SourceError(f"{source} may not be read: permission denied") from None
    except UnicodeEncodeError as error:
        raise SourceError(
            f"{source} has a file name that is not UTF-8, {error.object!r}: rename the file"
        ) from None


def _list_files(source: str, extensions: frozenset[str]) -> Iterable[tuple[str, str, int | None]]:
    """(URL, path that names it, size) of every image below a folder or matching a glob."""
    fs, root = filesystem(source)
    if fs.isfile(root):
        raise SourceError(
            f"{source} is one file: give a folder, a glob, an archive "
            f"({', '.join(ARCHIVES)}) or a manifest (.parquet, .csv)"
        )
    if fs.exists(root):
        found, above = fs.find(root, detail=True), root
    elif any(letter in root for letter in "*?["):
        found, above = fs.glob(root, detail=True), ""
    else:
        raise FileNotFoundError(root)
    for path, info in found.items():
        # A link to a file is neither "file" nor "directory" to fsspec.
        is_file = info["type"] == "file" or info.get("islink", False)
        # What a pattern names is wanted, and so is a root in a hidden folder.
        below = path.removeprefix(above) if above else PurePosixPath(path).name
        if is_file and _is_image(below, extensions):
            yield str(fs.unstrip_protocol(path)), path, info.get("size")


def _list_archive(
    source: str, kind: str, extensions: frozenset[str], folder: str = ""
) -> Iterable[tuple[str, str, int | None]]:
    fs, path = filesystem(source)
    address = str(fs.unstrip_protocol(path))
    for name, size in list_members(kind, address):
        inside = not folder or PurePosixPath(name).is_relative_to(folder)
        if _is_image(name, extensions) and inside:
            yield f"{kind}://{name}::{address}", name, size


def _is_image(path: str, extensions: frozenset[str]) -> bool:
    """Whether a path below a source is an image's; hidden files and folders are nobody's."""
    parts = PurePosixPath(path)
    # A member called ../x.png is no hidden file: it is listed, and refused when it is read.
    hidden = any(p == "__MACOSX" or (p[0] == "." and p != "..") for p in parts.parts)
    return parts.suffix.lower() in extensions and not hidden


def _table(files: Iterable[tuple[str, str, int | None]], classes: frozenset[str]) -> pa.Table:
    rows = []
    for uri, path, size in files:
        parts = PurePosixPath(path)
        name = parse_name(parts.name)
        label = parts.parent.name if parts.parent.name in classes else None
        rows.append(
            {
                "uri": uri,
                "size": size,
                "label": label,
                "slide_id": name.slide_id,
                "patient_id": name.patient_id,
                "acquired_at": name.acquired_at,
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA)


def _read_manifest(source: str) -> pa.Table:
    fs, path = filesystem(source)
    if fs.isdir(path):
        raise SourceError(f"{source} is a folder: give a manifest, or rename the folder")
    with fs.open(path, "rb") as file:
        try:
            if source.lower().endswith(".csv"):
                # Ids such as 007 are text, whatever they look like.
                text = {name: pa.string() for name in TEXT}
                table = pa.csv.read_csv(
                    file,
                    parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                    convert_options=pa.csv.ConvertOptions(
                        column_types=text, strings_can_be_null=True
                    ),
                )
            else:
                table = pq.read_table(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise SourceError(f"{source} cannot be read as a manifest: {error}") from None
    twice = {name for name in table.column_names if table.column_names.count(name) > 1}
    if twice:
        raise SourceError(f"{source} has two columns of one name: {', '.join(sorted(twice))}")
    if not {"uri", "source_uri"} & set(table.column_names):
        raise SourceError(
            f"{source} has no column 'uri' and no 'source_uri'; it has: "
            f"{', '.join(table.column_names)}"
        )
    columns = []
    for field in SCHEMA:
        try:
            columns.append(
                table[field.name].combine_chunks().cast(field.type)
                if field.name in table.column_names
                else pa.nulls(table.num_rows, field.type)
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(f"{source}, column {field.name!r}: {error}") from None
    made = pa.Table.from_arrays(columns, schema=SCHEMA)
    folder = str(fs.unstrip_protocol(path)).rsplit("/", 1)[0]
    for name in ("uri", "source_uri"):
        addresses = [uri and _resolve(uri, folder) for uri in made[name].to_pylist()]
        made = _with(made, name, addresses)
    return _with_names_of_regions(made, source)


def _with(table: pa.Table, name: str, values: list[str | None]) -> pa.Table:
    place = SCHEMA.get_field_index(name)
    return table.set_column(place, SCHEMA.field(name), pa.array(values, pa.string()))


def _with_names_of_regions(table: pa.Table, source: str) -> pa.Table:
    """Name each region by its source and box where the manifest does not; refuse half a region."""
    if table["uri"].null_count == 0 and table["x"].null_count == table.num_rows:
        return table
    rows = table.select(["uri", "source_uri", *BOX, "level"]).to_pylist()
    uris: list[str | None] = []
    for number, row in enumerate(rows, 1):
        box = [row[name] for name in BOX]
        if row["uri"] is None and row["source_uri"] is None:
            raise SourceError(f"{source}, row {number}: it has no uri")
        if any(n is None for n in box) and any(n is not None for n in box):
            raise SourceError(
                f"{source}, row {number}: a region needs {', '.join(BOX)}; it has "
                f"{', '.join(name for name in BOX if row[name] is not None)}"
            )
        if None not in box and row["source_uri"] is None:
            raise SourceError(f"{source}, row {number}: a region needs its source_uri")
        if row["uri"] is None:
            whole = None in box
            region = None if whole else Region._make((*box, row["level"] or 0))
            uris.append(address_of(row["source_uri"], region) if region else row["source_uri"])
        else:
            uris.append(row["uri"])
    return _with(table, "uri", uris)


def _resolve(uri: str, folder: str) -> str:
    """A manifest's relative paths are relative to the manifest's folder."""
    if "://" in uri:
        return uri
    return f"file://{uri}" if uri.startswith("/") else f"{folder}/{uri}"


def _refuse_repeats(table: pa.Table, source: str) -> None:
    counts = pc.value_counts(table["uri"])
    repeated = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))
    if len(repeated):
        first = repeated[0].as_py()
        raise SourceError(
            f"{source} names {first['values']} {first['counts']} times "
            f"({len(repeated)} images are named more than once): keep one row each"
        )
