"""Describe fields of view, and the regions cut out of them, as rows of tables."""

from typing import Any

import numpy as np

from tasks.images import geometry, opened_slides
from tasks.images.manifest import Region, address_of

Row = dict[str, Any]


def image_row(
    place: Row,
    box: geometry.Box,
    outline: list[float] | None,
    *,
    level: int,
    scale: float,
    kind: str,
    touches_border: bool = False,
) -> Row:
    """Make a row of the manifest, without a label."""
    region = Region(*box, level)
    names = ("source_uri", "source_id", "source_stamp", "slide_id", "patient_id", "acquired_at")
    return {
        **{name: place[name] for name in names},
        **box_columns(box),
        "uri": address_of(place["source_uri"], region),
        "level": region.level,
        "outline": outline,
        "scale": scale,
        "kind": kind,
        "touches_border": touches_border,
    }


def size_of(place: Row) -> tuple[int, int]:
    """Return width and height of a place's source."""
    if place["is_slide"]:
        slide = opened_slides.open_slide(place["source_uri"])
        return slide.width, slide.height
    return place["width"], place["height"]


def box_columns(box: geometry.Box) -> Row:
    """Return the four numbers of a box by name."""
    return dict(zip(("x", "y", "width", "height"), box, strict=True))


def box_of(place: Row) -> geometry.Box:
    """Return the box of a place."""
    return place["x"], place["y"], place["width"], place["height"]


def finite(value: float) -> float | None:
    """Return a finite value, or None if it is not."""
    return value if np.isfinite(value) else None


def tiles_of_place(place: Row, tile: int, overlap: int) -> list[Row]:
    """List the tiles of a source whose middle lies in a place; the last ones end with the source.

    ``tile`` is the side of a tile in pixels, ``overlap`` that of neighbouring ones.
    """
    x, y, width, height = box_of(place)
    across, down = size_of(place)
    boxes = [
        (left, top, wide, tall)
        for top, tall in _steps(down, tile, overlap)
        if y <= top + tall / 2 < y + height
        for left, wide in _steps(across, tile, overlap)
        if x <= left + wide / 2 < x + width
    ]
    label = {"label": place["label"]}
    return [image_row(place, box, None, level=0, scale=1.0, kind="tile") | label for box in boxes]


def _steps(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Say where tiles begin along a side, and how long they are there.

    >>> _steps(9, tile=4, overlap=1)
    [(0, 4), (3, 4), (5, 4)]
    """
    if length <= tile:
        return [(0, length)]
    starts = list(range(0, length - tile, tile - overlap))
    return [(start, tile) for start in [*starts, length - tile]]
