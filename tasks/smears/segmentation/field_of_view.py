"""Find the cells of a field of view, in a photograph or at a place of a slide."""

from dataclasses import asdict, replace

import numpy as np

from tasks.images import decoding, geometry, opened_slides
from tasks.images.access.files import stamp
from tasks.images.manifest import Region
from tasks.smears.segmentation.drawing import apart, are_bitten, with_rims
from tasks.smears.segmentation.finders import Finder
from tasks.smears.segmentation.finding import Cell, Cells
from tasks.smears.segmentation.places import Row, box_of, finite, image_row, size_of
from tasks.smears.segmentation.quality import field_quality, packed, sharpness
from tasks.types import Pixels

ENOUGH_CELLS = 10  # in a slide's field, for their median to be better than the slide's own value
ALIKE = 0.15  # largest difference of medians of photographs at one magnification
UNINFECTED = "Uninfected"  # the label of fields whose red cells have it too
GRAIN = 8  # resolution of an outline, in parts of a pixel; its error is about a pixel


def cells_of_place(
    place: Row, field: Row, finder: Finder, least_sharpness: float, most_packed: float
) -> tuple[Row, list[Row]]:
    """Find the cells whose middle is in a field, and read the pixels they need beyond its border.

    Measurements are added to those of the field. A slide's field below ``least_sharpness``
    is out of focus, and one above ``most_packed`` is too thick: neither is searched.
    """
    # The magnification of a slide is known; that of photographs was measured on some of them.
    expected = place["diameter"] if place["is_slide"] else None
    around, whole = box_of(place), size_of(place)
    if place["is_slide"]:
        around = geometry.grown(around, int(np.ceil(place["diameter"])), whole)
    _refuse_changed(place["source_uri"], place)
    pixels = opened_slides.read_region(place["source_uri"], Region(*around, place["level"]))
    step = around[2] / pixels.shape[1]  # pixels of the source per pixel read
    seen = None
    if expected is None:
        cells = _found_like_others(finder, pixels, place["diameter"])
    else:
        seen = sharpness(pixels, expected / step)
        # The survey judged the place as a whole, which may be half empty.
        unread = _unread(pixels, expected / step, seen, least_sharpness, most_packed)
        if unread is not None:
            return field | unread | {"sharpness": seen}, []
        cells = finder(pixels, expected / step)
    diameter = cells.diameter * step
    if expected is not None and not len(cells.cells) >= ENOUGH_CELLS:
        diameter = expected
    kept, rows = _image_rows(place, whole, cells, diameter, step, around)
    quality = asdict(field_quality(pixels, Cells(tuple(kept), cells.diameter), focus=seen))
    stain = quality.pop("stain")
    quality |= dict(zip(("stain_red", "stain_green", "stain_blue"), stain, strict=True))
    known = {name: finite(value) for name, value in quality.items()}
    known |= {
        "diameter": finite(diameter),
        "white_cells": sum(cell.kind == "white" for cell in kept),
        "cells_at_border": sum(cell.touches_border for cell in kept),
    }
    return field | known, rows


def _image_rows(
    place: Row,
    whole: tuple[int, int],
    cells: Cells,
    diameter: float,
    step: float,
    around: geometry.Box,
) -> tuple[list[Cell], list[Row]]:
    """Choose the cells in a place of a source as large as ``whole``, and make their rows.

    ``around`` is the box in which cells were found, at ``step`` pixels of the source for each.
    """
    scale, level = geometry.TRAINING_DIAMETER / diameter, _level_of_cells(place, diameter)
    kept: list[Cell] = []
    rows: dict[geometry.Box, Row] = {}  # a box identifies a cell: duplicates are kept once
    outlines = [geometry.rescaled(cell.outline, step) + around[:2] for cell in cells.cells]
    rims = with_rims(outlines, scale)
    drawn = apart(outlines, rims, scale)
    bitten = are_bitten(rims, drawn).tolist()
    for cell, rim, contour, cut in zip(cells.cells, rims, drawn, bitten, strict=True):
        box = geometry.box_around(rim, whole)
        points = np.round((contour - box[:2]) * GRAIN) / GRAIN
        if _is_inside(box, place) and box not in rows:
            kept.append(cell := replace(cell, touches_border=cell.touches_border or cut))
            rows[box] = image_row(
                place,
                box,
                points.ravel().tolist(),
                level=level,
                scale=scale,
                kind=cell.kind,
                touches_border=cell.touches_border,
            )
            # A parasitized field has healthy cells too; a healthy person has no others.
            if place["label"] == UNINFECTED and cell.kind == "red" and not cell.touches_border:
                rows[box]["label"] = UNINFECTED
    return kept, list(rows.values())


def _refuse_changed(source: str, place: Row) -> None:
    current = stamp(source)
    changed = current != place["source_stamp"]
    if changed and opened_slides.digest_at(source, current).hex() != place["source_id"]:
        raise decoding.BadImageError("unreadable", "the file was changed while it was cut up")


def _unread(
    pixels: Pixels, diameter: float, seen: float, least_sharpness: float, most_packed: float
) -> Row | None:
    """Return why a field of a slide is not searched; None if it is."""
    if seen < least_sharpness:
        return {"kind": "unfocused"}
    thick = packed(pixels, diameter)
    return {"kind": "thick", "packed": thick} if thick > most_packed else None


def _found_like_others(finder: Finder, pixels: Pixels, diameter: float | None) -> Cells:
    """Find the cells of a photograph by the typical diameter of others, unless its own differs."""
    if diameter is not None:
        cells = finder(pixels, diameter)
        if abs(cells.diameter / diameter - 1) < ALIKE:
            return cells
    return finder(pixels, None)


def _level_of_cells(place: Row, diameter: float) -> int:
    """Find the coarsest level at which cells are no smaller than training cells, else the finest.

    The search uses fewer pixels than the diagnosis.
    """
    if not place["is_slide"]:
        return 0
    levels = opened_slides.open_slide(place["source_uri"]).downsamples
    return geometry.coarsest(levels, lambda each: diameter / each >= geometry.TRAINING_DIAMETER)


def _is_inside(box: geometry.Box, place: Row) -> bool:
    """Return whether the middle of a box is in a place."""
    x, y, width, height = box_of(place)
    middle = box[0] + box[2] / 2, box[1] + box[3] / 2
    return bool(x <= middle[0] < x + width and y <= middle[1] < y + height)
