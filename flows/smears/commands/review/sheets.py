"""Write and read sheets that a person fills in, and read the pictures that they name."""

from collections.abc import Sequence
from pathlib import Path

from flows.commands.written import written
from tasks.images.access.files import SourceError, TooLargeError, read_bytes
from tasks.images.regions import ImageRef
from tasks.reports.spreadsheet import csv_lines
from tasks.smears.answers.sheets import image_name
from tasks.smears.visualisation.overlay import find_unchanged
from tasks.smears.visualisation.page import encoded

SHEET, PICTURES = "review.csv", "images"


def read_sheet_file(file: str) -> bytes:
    """Read the bytes of a sheet; SourceError names the file."""
    try:
        return read_bytes(file)
    except FileNotFoundError:
        raise SourceError(f"{file} does not exist") from None
    except TooLargeError as error:
        raise SourceError(f"{file} is no sheet: {error}") from None


def write_sheet(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a sheet, complete or not at all."""
    # Without the byte order mark Excel takes UTF-8 for something else.
    with written(path) as stage, stage.open("w", encoding="utf-8-sig", newline="") as file:
        file.writelines(csv_lines(columns, rows))


def read_picture(ref: ImageRef, image_id: str) -> tuple[str, bytes]:
    """Read the image of a cell: the name that its file gets, and its content."""
    found = find_unchanged(ref, image_id)
    if found.content is None:
        return f"{image_id}.png", encoded(found.image(), "PNG")
    return image_name(image_id, ref.uri), found.content
