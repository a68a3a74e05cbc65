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
