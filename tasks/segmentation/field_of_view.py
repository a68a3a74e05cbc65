"""Cut a field of view, or a place on a slide, up into cells."""

import importlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from tasks.images.access.files import SourceError, stamp
from tasks.images.decoding import BadImageError
from tasks.images.geometry import TRAINING_DIAMETER, Box, box_around, rescaled
from tasks.images.opened_slides import Slide, open_slide
from tasks.images.regions import Region, address_of, digest_at, read_region
from tasks.segmentation.finding import Cell, Cells, find_cells
from tasks.segmentation.quality import field_quality, packed, sharpness
from tasks.segmentation.separation import apart, scale_of, with_rim
from tasks.types import Field

Finder = Callable[[Field, float | None], Cells]
Row = dict[str, Any]

OUTLINES = "outlines"  # the name of our own finder
ENOUGH_CELLS = 10  # in a slide's field, for their median to be better than the slide's own value
ALIKE = 0.15  # largest difference of medians of photographs at one magnification
TRIED = 128  # pixels of the side of the field on which a finder is tried
GRAIN = 8  # resolution of an outline, in parts of a pixel; its error is about a pixel


def load_finder(name: str) -> Finder:
    """Load a finder of cells by name: ``outlines``, or ``module:function`` of your own.

    It is called with a field, RGB uint8 (h, w, 3), and the diameter of a typical red cell in pixels
    or None, and returns `tasks.segmentation.finding.Cells`.

    Raises:
        SourceError: there is no finder of that name.
    """
    if name == OUTLINES:
        return find_cells
    module, _, function = name.partition(":")
    try:
        found: Finder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SourceError(
            f"no finder of cells {name!r} ({error}): there is {OUTLINES!r}, or give "
            "module:function of your own"
        ) from None
    return found


def try_finder(name: str) -> None:
    """Try a user's finder on an empty field, so that a wrong one fails at once.

    Raises:
        SourceError: there is no such finder, it fails, or it does not return cells.
    """
    finder = load_finder(name)
    if name == OUTLINES:
        return
    field = np.full((TRIED, TRIED, 3), 255, np.uint8)
    try:
        found: object = finder(field, None)
    except Exception as error:
        raise SourceError(
            f"the finder {name} fails on an empty field ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(found, Cells):
        raise SourceError(
            f"the finder {name} returns {type(found).__name__}, and not Cells of "
            "tasks.segmentation.finding"
        )


def cells_of_place(
    place: Row, field: Row, finder: Finder, *, least_sharpness: float, most_packed: float
) -> tuple[Row, list[Row]]:
    """Find the cells whose middle is in a field, and read the pixels they need beyond its border.

    Args:
        place: a row of places.
        field: the data known so far, to which measurements are added.
        finder: of cells.
        least_sharpness: below this a slide's field is out of focus, and not searched.
        most_packed: above this it is too thick, and not searched.
    """
    # The magnification of a slide is known; that of photographs was measured on some of them.
    expected = place["diameter"] if place["is_slide"] else None
    around = _grown(place) if place["is_slide"] else box_of(place)
    _refuse_changed(place)
    pixels = read_region(place["source_uri"], Region(*around, place["level"]))
    step = around[2] / pixels.shape[1]  # pixels of the source per pixel read
    seen = None if expected is None else sharpness(pixels, expected / step)
    if seen is not None and seen < least_sharpness:
        return field | {"kind": "unfocused", "sharpness": seen}, []
    if expected is not None:
        # The survey judged the place as a whole, which may be half empty.
        thick = packed(pixels, expected / step)
        if thick > most_packed:
            return field | {"kind": "thick", "sharpness": seen, "packed": thick}, []
    if expected is None:
        found = _found_like_others(finder, pixels, place["diameter"])
    else:
        found = finder(pixels, expected / step)
    diameter = found.diameter * step
    if expected is not None and not len(found.cells) >= ENOUGH_CELLS:
        diameter = expected
    whole, scale, level = size_of(place), scale_of(diameter), _level_of_cells(place, diameter)
    kept: list[Cell] = []
    rows: dict[Box, Row] = {}  # a box identifies a cell: duplicates are kept once
    outlines = [rescaled(cell.outline, step) + around[:2] for cell in found.cells]
    rims = [with_rim(outline, scale) for outline in outlines]
    for cell, rim, own in zip(found.cells, rims, apart(outlines, rims, scale), strict=True):
        box = box_around(rim, whole)
        points = np.round((own - box[:2]) * GRAIN) / GRAIN
        if _is_inside(box, place) and box not in rows:
            kept.append(cell)
            rows[box] = image_row(
                place,
                box,
                points.ravel().tolist(),
                level=level,
                scale=scale,
                kind=cell.kind,
                touches_border=cell.touches_border,
            )
    quality = asdict(field_quality(pixels, Cells(tuple(kept), found.diameter), focus=seen))
    stain = quality.pop("stain")
    quality |= dict(zip(("stain_red", "stain_green", "stain_blue"), stain, strict=True))
    known = {name: finite(value) for name, value in quality.items()}
    known |= {
        "diameter": finite(diameter),
        "white_cells": sum(cell.kind == "white" for cell in kept),
        "cells_at_border": sum(cell.touches_border for cell in kept),
    }
    return field | known, list(rows.values())


def _found_like_others(finder: Finder, pixels: Field, diameter: float | None) -> Cells:
    """Find the cells of a photograph by the typical diameter of others, unless its own differs."""
    if diameter is not None:
        found = finder(pixels, diameter)
        if abs(found.diameter / diameter - 1) < ALIKE:
            return found
    return finder(pixels, None)


def _level_of_cells(place: Row, diameter: float) -> int:
    """Find the coarsest level at which cells are no smaller than training cells, else the finest.

    The search uses fewer pixels than the diagnosis.
    """
    if not place["is_slide"]:
        return 0
    levels = _slide(place).downsamples
    fine = [n for n, each in enumerate(levels) if diameter / each >= TRAINING_DIAMETER]
    return max(fine, key=lambda n: levels[n], default=0)


def _refuse_changed(place: Row) -> None:
    """Raise BadImageError if a source is no longer the file that was surveyed."""
    uri = place["source_uri"]
    current = stamp(uri)
    if current != place["source_stamp"] and digest_at(uri, current).hex() != place["source_id"]:
        raise BadImageError("unreadable", "the file was changed while it was cut up")


def _is_inside(box: Box, place: Row) -> bool:
    """Return whether the middle of a box is in a place."""
    x, y, width, height = box_of(place)
    middle = box[0] + box[2] / 2, box[1] + box[3] / 2
    return bool(x <= middle[0] < x + width and y <= middle[1] < y + height)


def image_row(
    place: Row,
    box: Box,
    outline: list[float] | None,
    *,
    level: int,
    scale: float,
    kind: str,
    touches_border: bool = False,
) -> Row:
    """Make a row of the manifest; the label of a whole field is not a label of its cells."""
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


def _grown(place: Row) -> Box:
    """Enlarge a slide's field by a cell's diameter on all sides, within the slide."""
    x, y, width, height = box_of(place)
    slide, more = _slide(place), int(np.ceil(place["diameter"]))
    left, top = max(x - more, 0), max(y - more, 0)
    right, bottom = min(x + width + more, slide.width), min(y + height + more, slide.height)
    return left, top, right - left, bottom - top


def _slide(place: Row) -> Slide:
    return open_slide(place["source_uri"])


def size_of(place: Row) -> tuple[int, int]:
    """Return width and height of a place's source."""
    if place["is_slide"]:
        slide = _slide(place)
        return slide.width, slide.height
    return place["width"], place["height"]


def box_columns(box: Box) -> Row:
    """Return the four numbers of a box by name."""
    return dict(zip(("x", "y", "width", "height"), box, strict=True))


def box_of(place: Row) -> Box:
    """Return the box of a place."""
    return place["x"], place["y"], place["width"], place["height"]


def finite(value: float) -> float | None:
    """Return a finite value, or None if it is not."""
    return value if np.isfinite(value) else None
