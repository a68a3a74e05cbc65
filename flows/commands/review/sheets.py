"""Write sheets that a person fills in, and the pictures that they name."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flows.commands.written import written
from tasks.answers.sheets import image_name
from tasks.images.access.files import SourceError
from tasks.images.regions import ImageRef, find_unchanged
from tasks.reports.spreadsheet import csv_lines

SHEET, PICTURES = "review.csv", "images"


def new_folder(to: str) -> Path:
    """Return the folder for a sheet; SourceError where one is there, which may hold answers."""
    if "://" in to:
        raise SourceError(f"{to} is no folder of this machine, where a person looks at images")
    folder = Path(to)
    if (folder / SHEET).exists():
        raise SourceError(
            f"{folder / SHEET} is there already and may hold answers: give another --to"
        )
    return folder


def new_manifest(to: str) -> Path:
    """Return the path of a manifest to write; SourceError where it is none, or one is there."""
    path = Path(to)
    if "://" in to or path.suffix != ".parquet":
        raise SourceError(f"{to} is no .parquet file on this machine, which a manifest is")
    if path.exists():
        raise SourceError(f"{to} is there already: give another --to")
    if not path.parent.is_dir():
        raise SourceError(f"{path.parent} is no folder: make it, or give another --to")
    return path


def write_manifest(path: Path, rows: pa.Table) -> None:
    """Write a manifest, complete or not at all."""
    with written(path) as stage:
        pq.write_table(rows, stage, compression="zstd")


def write_sheet(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a sheet, complete or not at all."""
    # Without the byte order mark Excel takes UTF-8 for something else.
    with written(path) as stage, stage.open("w", encoding="utf-8-sig", newline="") as file:
        file.writelines(csv_lines(columns, rows))


def write_picture(folder: Path, ref: ImageRef, image_id: str) -> str:
    """Write the image of a cell into a folder, and return its file name."""
    picture = find_unchanged(ref, image_id)
    if picture.content is None:
        name = f"{image_id}.png"
        picture.image().save(folder / name)
    else:
        name = image_name(image_id, ref.uri)
        (folder / name).write_bytes(picture.content)
    return name
