"""The units of work that draw fields of view with their cells, and slides with their fields."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from tasks.absorbance import Field as Pixels
from tasks.fields import lies_in
from tasks.images import BadImageError
from tasks.overlay import LONGEST, encode_png, field_picture, slide_picture
from tasks.pieces import Piece, Region, find_unchanged, read_region
from tasks.reading import ChangedError
from tasks.slide_source import Slide, open_slide

# Of the image report: what is needed of each cell.
COLUMNS = [
    *("image_id", "uri", "source_uri", "x", "y", "width", "height"),
    *("kind", "status", "diagnosis", "abnormal"),
]


BLOCK = 2048  # pixels of the side of what is read of a slide at once


@dataclass(frozen=True)
class SlidePictureJob:
    """A slide to draw from afar, with its rows of the report on fields."""

    source_uri: str
    fields: tuple[Mapping[str, Any], ...]


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


def draw_slide(job: SlidePictureJob) -> bytes | str:
    """A slide's picture as a PNG file, or why there is none; never an error."""
    try:
        slide = open_slide(job.source_uri)
        picture = slide_picture(from_afar(slide), (slide.width, slide.height), job.fields)
    except BadImageError as error:
        return f"the slide cannot be read any more: {error.reason}"
    except Exception:  # a page must not depend on what a source raises
        return "the slide cannot be read any more"
    return encode_png(picture)


def from_afar(slide: Slide) -> Pixels:
    """A slide with a longer side of `LONGEST` pixels, read piece by piece, RGB uint8 (h, w, 3)."""
    shrink = max(1.0, max(slide.width, slide.height) / LONGEST)
    level = max(
        (n for n, each in enumerate(slide.downsamples) if each <= shrink),
        key=lambda n: slide.downsamples[n],
        default=0,
    )
    picture = Image.new("RGB", (ceil(slide.width / shrink), ceil(slide.height / shrink)))
    # Whole pixels of the picture, so that no seam is seen.
    step = max(1, int(BLOCK * slide.downsamples[level] / shrink))
    for y in range(0, picture.height, step):
        for x in range(0, picture.width, step):
            box = [round(n * shrink) for n in (x, y, x + step, y + step)]
            right, bottom = min(box[2], slide.width), min(box[3], slide.height)
            pixels = slide.read(box[0], box[1], right - box[0], bottom - box[1], level)
            size = min(step, picture.width - x), min(step, picture.height - y)
            picture.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), (x, y))
    return np.asarray(picture)
