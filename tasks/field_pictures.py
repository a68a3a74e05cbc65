"""The unit of work that draws fields of view with the contours of their cells."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.fields import lies_in
from tasks.images import BadImageError
from tasks.overlay import encode_png, field_picture
from tasks.pieces import Piece, Region, find_unchanged, read_region
from tasks.reading import ChangedError

# Of the image report: what is needed of each cell.
COLUMNS = [
    *("image_id", "uri", "source_uri", "x", "y", "width", "height"),
    *("kind", "status", "diagnosis", "abnormal"),
]


@dataclass(frozen=True)
class FieldPictureJob:
    """A field to draw: its row of the report on fields, and those of its cells in that on images.

    ``pieces`` are where the cells lie, by address.
    """

    field: Mapping[str, Any]
    cells: tuple[Mapping[str, Any], ...]
    pieces: Mapping[str, Piece]


def cells_of(rows: pa.Table, field: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of a field among rows of the image report."""
    there = rows.filter(pc.equal(rows["source_uri"].cast(pa.string()), field["source_uri"]))
    if not there.num_rows:
        return []
    inside = lies_in(there, [(field["x"], field["y"], field["width"], field["height"])])[:, 0]
    return list(there.filter(pa.array(inside)).to_pylist())


def draw_field(job: FieldPictureJob) -> bytes | str:
    """A field's picture as a PNG file, or why there is none; never an error."""
    field = job.field
    region = Region(*(field[name] for name in ("x", "y", "width", "height", "level")))
    known = [(cell, job.pieces[cell["uri"]]) for cell in job.cells if cell["image_id"]]
    drawn = [(cell, piece.outline) for cell, piece in known if piece.outline is not None]
    try:
        for cell, piece in known[:1]:
            find_unchanged(piece, cell["image_id"])
        picture = field_picture(
            read_region(field["source_uri"], region),
            field,
            [cell for cell, _ in drawn],
            [outline.ravel() for _, outline in drawn],
        )
    except ChangedError:
        return "the file has changed since it was screened"
    except BadImageError as error:
        return f"the field cannot be read any more: {error.reason}"
    except Exception:  # a page must not depend on what a source raises
        return "the field cannot be read any more"
    return encode_png(picture)
