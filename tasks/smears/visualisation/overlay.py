"""Draw pictures of fields of view in which each cell has a contour that shows its diagnosis.

Pages also show cells by themselves, and at their place in the field.

Colours are those of Okabe & Ito (2008), which the colour-blind tell apart; abnormal cells are
dashed, so that a contour needs no colour to be read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from tasks.images.access.files import ChangedError
from tasks.images.geometry import Box, Slide, coarsest, grown, rescaled
from tasks.images.manifest import Region
from tasks.images.opened_slides import open_picture, read_region
from tasks.images.regions import Found, ImageRef, find
from tasks.reports.image_columns import PARASITIZED, numbers_of
from tasks.smears.visualisation.page import as_webp
from tasks.types import CellKind, FieldKind, Float, ImageStatus, Pixels

Colour = tuple[int, int, int]
Outline = Float  # its points x, y in pixels, (angles, 2)

COLOURS: dict[str, Colour] = {
    "parasitized": (213, 94, 0),
    "not parasitized": (0, 114, 178),
    "white cell": (0, 158, 115),
    "failed": (90, 90, 90),
}
HALO = (255, 255, 255)  # on both sides of a line, so that it is seen on any stain
THINNEST = 2.0  # pixels of a line
LINE = 1 / 270  # of the picture's longer side
SMOOTHING = 3  # times as large as the picture a line is drawn, to be smooth
DASH = 4.0  # of a line's width, and as long a gap

BLOCK = 2048  # pixels to a side of the blocks in which a slide is read
LONGEST = 1200  # pixels of a picture's longer side; a screen shows no more
FIELDS_SHOWN = 8

THUMBNAIL = 128  # pixels of the longer side at most
WIDTHS = 2.0  # widths of the cell shown of its field to each side
SIDE = 224  # pixels of the longer side of a cell's place
ARM = 0.2  # of the cell's box: how long the marks at its corners are

# Columns of the image report that are needed for each cell.
CELL_COLUMNS = [
    *("image_id", "uri", "source_uri", "x", "y", "width", "height"),
    *("kind", "status", "diagnosis", "abnormal", "touches_border"),
]


@dataclass(frozen=True)
class Pen:
    """Describe how to draw a contour: its colour's name in `COLOURS`, and whether it is dashed."""

    name: str
    dashed: bool = False


def pen_of(row: Mapping[str, Any]) -> Pen:
    """Choose the pen of a cell, given its row of the image report."""
    if row["status"] != ImageStatus.SCORED:
        return Pen("failed")
    abnormal = bool(row["abnormal"])
    if row.get("kind") == CellKind.WHITE:
        return Pen("white cell", abnormal)
    parasitized = row["diagnosis"] == PARASITIZED
    return Pen("parasitized" if parasitized else "not parasitized", abnormal)


def outline_of(row: Mapping[str, Any], flat: ArrayLike) -> Outline:
    """Compute a cell's outline (angles, 2) in pixels of its source at full resolution.

    ``flat`` is x0, y0, x1, y1, ... relative to ``x`` and ``y`` of the row of the image report.

    Raises:
        ValueError: these are not the coordinates of three points or more.
    """
    points = np.asarray(flat, np.float64).reshape(-1)
    if len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
        raise ValueError(
            f"the outline of {row['uri']} is no list of x and y of three points or more: screen "
            "its batch again with --force"
        )
    corner = np.array([row["x"], row["y"]], np.float64)
    return np.asarray(points.reshape(-1, 2) + corner)


def corners_of(row: Mapping[str, Any]) -> Outline:
    """Compute the corners of a row's box, (4, 2); a failed row has no size and is one pixel."""
    x, y = row["x"], row["y"]
    right, bottom = x + (row["width"] or 1), y + (row["height"] or 1)
    return np.array([[x, y], [right, y], [right, bottom], [x, bottom]], np.float64)


def slide_picture(
    pixels: Pixels, size: tuple[int, int], fields: Sequence[Mapping[str, Any]]
) -> Pixels:
    """Draw a whole slide with a box around each field, RGB uint8, no side above `LONGEST`.

    A box has the colour of a parasitized cell where the field has one, the colour of a failed cell
    where the field was not read, and is dashed where the field is for review. Empty places have no
    box. Pixels are of the whole slide, at whatever scale; ``size`` is at full resolution.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
    scale = np.array(picture.size) / size
    drawn = [row for row in fields if row["x"] is not None and row["kind"] != FieldKind.EMPTY]
    inset = max(THINNEST, LINE * max(picture.size))  # neighbours would hide each other's sides
    boxes, pens = [], []
    for row in drawn:
        name = "parasitized" if row["parasitized"] else "not parasitized"
        read = row["kind"] == FieldKind.FIELD
        pens.append(Pen(name, row["review_reason"] is not None) if read else Pen("failed"))
        low = np.array([row["x"], row["y"]]) * scale + inset
        high = np.array([row["x"] + row["width"], row["y"] + row["height"]]) * scale - inset
        (left, top), (right, bottom) = low - 0.5, np.maximum(low, high) - 0.5
        boxes.append(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]))
    return overlay(np.asarray(picture), boxes, pens)


def overlay(pixels: Pixels, outlines: Sequence[Outline], pens: Sequence[Pen]) -> Pixels:
    """Draw contours over a picture, RGB uint8 (h, w, 3).

    Closed outlines are in pixels of the picture; parts outside are not drawn.
    """
    height, width = pixels.shape[:2]
    size = width * SMOOTHING, height * SMOOTHING
    line = SMOOTHING * max(THINNEST, LINE * max(height, width))
    halos = Image.new("L", size)
    lines = {name: Image.new("L", size) for name in dict.fromkeys(pen.name for pen in pens)}
    # Abnormal cells are drawn last, because a person looks for them.
    for outline, pen in sorted(zip(outlines, pens, strict=True), key=lambda pair: pair[1].dashed):
        points = rescaled(outline, SMOOTHING)
        # The first stretch of a closed line twice, so that its ends join as the other points do.
        closed = np.concatenate([points, points[:2]])
        for stroke in _dashes(points, DASH * line) if pen.dashed else [closed]:
            path = [(x, y) for x, y in stroke.tolist()]
            ImageDraw.Draw(halos).line(path, 255, round(2 * line), joint="curve")
            ImageDraw.Draw(lines[pen.name]).line(path, 255, round(line), joint="curve")
    picture = Image.fromarray(pixels)
    picture.paste(HALO, mask=halos.reduce(SMOOTHING).point(lambda level: level * 0.6))
    for name, mask in lines.items():
        picture.paste(COLOURS[name], mask=mask.reduce(SMOOTHING))
    return np.asarray(picture)


def fields_to_show(fields: pa.Table, most: int = FIELDS_SHOWN) -> pa.Table:
    """Choose the rows of the few fields that a page shows.

    Fields with the most parasitized cells come first, then fields with the most abnormal cells,
    fields for review, and fields with the most cells.
    """
    read = [
        (-row["parasitized"], -row["abnormal"], row["review_reason"] is None, -row["images"], i)
        for i, row in enumerate(
            fields.select(
                ["kind", "cells", "parasitized", "abnormal", "review_reason", "images"]
            ).to_pylist()
        )
        # In tiles the places of cells are unknown.
        if row["kind"] == FieldKind.FIELD and row["cells"] is not None
    ]
    return fields.take(pa.array([key[-1] for key in sorted(read)[:most]], pa.int64()))


def _dashes(points: Outline, length: float) -> list[Outline]:
    """Divide a closed outline into an even number of dashes and gaps, each about as long."""
    ring = np.concatenate([points, points[:1]])
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(ring, axis=0), axis=1))])
    count = max(2, round(along[-1] / (2 * length)))
    ends = np.linspace(0, along[-1], 2 * count + 1)
    dashes = []
    for start, end in zip(ends[:-1:2], ends[1::2], strict=True):
        at = np.concatenate([[start], along[(along > start) & (along < end)], [end]])
        dashes.append(np.stack([np.interp(at, along, ring[:, k]) for k in (0, 1)], axis=1))
    return dashes


def from_afar(slide: Slide) -> Pixels:
    """Read a slide with a longer side of `LONGEST` pixels in blocks, RGB uint8 (h, w, 3)."""
    shrink = max(1.0, max(slide.width, slide.height) / LONGEST)
    level = coarsest(slide.downsamples, lambda each: each <= shrink)
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


@dataclass(frozen=True)
class ShownSlide:
    """A slide on the page, its rows of the field report, and a WebP file, or why there is none."""

    source_uri: str
    fields: Sequence[Mapping[str, Any]]
    picture: bytes | str


def counted_fields(slides: pa.Table) -> list[str]:
    """Count the fields that were read, and the others by reason; empty without fields."""
    wanted = ["fields", "fields_read", "exclusions"]
    rows = [row for row in slides.select(wanted).to_pylist() if row["fields"]]
    left_out = Counter[str]()
    for row in rows:
        left_out.update(dict(row["exclusions"]))
    counts = {"read": sum(row["fields_read"] for row in rows), **dict(sorted(left_out.items()))}
    return [f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()] if rows else []


def cells_of(rows: pa.Table, field: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Select the cells of a field among image rows: the middle of their box lies in the field's."""
    rows = rows.filter(pc.equal(rows["source_uri"].cast(pa.string()), field["source_uri"]))
    inside = np.ones(len(rows), bool)
    for start, size in (("x", "width"), ("y", "height")):
        # Failed cells have no size; a corner of their box is in the field too.
        middle = numbers_of(rows, start) + np.nan_to_num(numbers_of(rows, size)) / 2
        inside &= (middle >= field[start]) & (middle < field[start] + field[size])
    return list(rows.filter(pa.array(inside)).to_pylist())


def thumbnail(image: Image.Image) -> bytes:
    """Encode an image as a WebP file, reduced if it is larger than `THUMBNAIL`."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return as_webp(small, quality=85)


def lies_near(row: Mapping[str, Any], cell: Mapping[str, Any]) -> bool:
    """Return whether a cell's box overlaps the window of the field around another cell."""
    more = round(WIDTHS * max(cell["width"], cell["height"]))
    return all(
        row[at] < cell[at] + cell[side] + more and row[at] + row[side] > cell[at] - more
        for at, side in (("x", "width"), ("y", "height"))
    )


def place_picture(
    pixels: Pixels,
    window: Box,
    cell: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    outlines: Sequence[ArrayLike],
) -> bytes:
    """Draw a window of a field with contours, and marks at the corners of one cell; a WebP file.

    ``pixels`` are of the window, RGB uint8 (h, w, 3), at whatever scale; the window is in pixels of
    the source. ``cell`` is marked; the cells ``rows`` have contours, `outline_of` their outlines.
    """
    picture = Image.fromarray(pixels)
    shrink = SIDE / max(picture.size)
    size = tuple(max(1, round(side * shrink)) for side in picture.size)
    picture = picture.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    x, y, width, height = window
    scale = np.array(picture.size) / [width, height]
    placed = [
        rescaled(outline_of(row, flat) - [x, y], scale)
        for row, flat in zip(rows, outlines, strict=True)
    ]
    drawn = np.array(overlay(np.asarray(picture), placed, [pen_of(row) for row in rows]))
    corner = np.array([cell["x"] - x, cell["y"] - y])
    _mark(drawn, corner * scale, (corner + np.array([cell["width"], cell["height"]])) * scale)
    return as_webp(Image.fromarray(drawn))


def _mark(pixels: Pixels, low: ArrayLike, high: ArrayLike) -> None:
    """Draw the corners of a box over a picture, white on black to be visible on any ground."""
    (left, top), (right, bottom) = np.asarray(low) - 3, np.asarray(high) + 3
    arm = max(4.0, ARM * float(right - left))

    def fill(colour: Colour, across: Sequence[float], down: Sequence[float]) -> None:
        x0, x1 = (int(np.clip(round(v), 0, pixels.shape[1])) for v in across)
        y0, y1 = (int(np.clip(round(v), 0, pixels.shape[0])) for v in down)
        pixels[y0:y1, x0:x1] = colour

    for colour, wide in (((0, 0, 0), 2), ((255, 255, 255), 1)):
        for x, to_x in ((left, 1), (right, -1)):
            for y, to_y in ((top, 1), (bottom, -1)):
                fill(colour, sorted((x, x + to_x * arm)), (y - wide, y + wide))
                fill(colour, (x - wide, x + wide), sorted((y, y + to_y * arm)))


def find_unchanged(ref: ImageRef, image_id: str) -> Found:
    """Find an image of a known digest; ChangedError if it is another image by now."""
    image = find(ref)
    if image.image_id.hex() != image_id:
        raise ChangedError("the file was changed since it was screened")
    return image


def read_around(source: str, region: Region, more: int) -> tuple[Pixels, Region]:
    """Read a region with ``more`` pixels to each side, within its source, RGB (h, w, 3).

    Return the region that was read, too; ``more`` is in pixels of the source's full size.
    """
    picture = open_picture(source)
    wide = Region(*grown(region[:4], more, (picture.width, picture.height)), region.level)
    return read_region(source, wide), wide
