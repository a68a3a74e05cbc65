"""Find the cells of a field of view, in a photograph or at a place of a slide, as rows of tables.

A cell is drawn with the rim around training cells, apart from its neighbours.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from math import log2
from statistics import median
from typing import Any

import cv2
import numpy as np

from tasks.images import decoding, geometry, opened_slides
from tasks.images.access.files import stamp
from tasks.images.manifest import Region, address_of
from tasks.smears.segmentation.contours import joined
from tasks.smears.segmentation.finders import Finder, for_learning
from tasks.smears.segmentation.finding import LEAST_DIAMETER, Cell, Cells
from tasks.smears.segmentation.quality import field_quality, packed, refuse_other, sharpness
from tasks.types import Float, Mask, Numbers, Pixels, Single

Row = dict[str, Any]

ENOUGH_CELLS = 10  # in a slide's field, for their median to be better than the slide's own value
ALIKE = 0.15  # largest difference of medians of photographs at one magnification
UNINFECTED = "Uninfected"  # the label of fields whose red cells have it too
GRAIN = 8  # resolution of an outline, in parts of a pixel; its error is about a pixel
MARGIN = 2  # pixels of a cut-out cell: the rim around training cells
LEAST_REACH = 0.3  # of a ray of an outline; a smaller reach means another cell
# Share of a cell that a neighbour may cover. With half as much, 7 to 10% fewer cells of two
# laboratories are counted, and as many of their healthy cells are abnormal.
LARGEST_BITE = 0.1
SHARES = np.linspace(LEAST_REACH, 1, 64)  # of a ray that are tried
AT_ONCE = 64  # cells that are drawn together; a pair of cells takes 40 kB
MEASURED = 5  # photographs of a slide; their median has an error of some percent of a diameter
MEASURED_ALONE = 32  # of those that are each a slide: one in six errs by more, with few cells
ALONE = ""  # the group of photographs that are each a slide
SIZES_ALIKE = 0.25  # octaves of the longer side of photographs at one magnification


def cells_of_place(
    place: Row, field: Row, finder: Finder, least_sharpness: float, most_packed: float
) -> tuple[Row, list[Row]]:
    """Find the cells whose middle is in a field, and read the pixels they need beyond its border.

    Measurements are added to those of the field. A slide's field below ``least_sharpness``
    is out of focus, and one above ``most_packed`` is too thick: neither is searched.
    """
    if place["label"] == UNINFECTED:
        finder = for_learning(finder)
    # The magnification of a slide is known; that of photographs was measured on some of them.
    expected = place["diameter"] if place["is_slide"] else None
    around, whole = box_of(place), size_of(place)
    if place["is_slide"]:
        around = geometry.grown(around, int(np.ceil(place["diameter"])), whole)
    uri, current = place["source_uri"], stamp(place["source_uri"])
    changed = current != place["source_stamp"]
    if changed and opened_slides.digest_at(uri, current).hex() != place["source_id"]:
        raise decoding.BadImageError("unreadable", "the file was changed while it was cut up")
    pixels = opened_slides.read_region(uri, Region(*around, place["level"]))
    step = around[2] / pixels.shape[1]  # pixels of the source per pixel read
    seen = None
    if expected is None:
        cells = _found_like_others(finder, pixels, place["diameter"])
    else:
        seen = sharpness(pixels, expected / step)
        # The survey judged the place as a whole, which may be half empty.
        if seen < least_sharpness:
            return field | {"kind": "unfocused", "sharpness": seen}, []
        if (thick := packed(pixels, expected / step)) > most_packed:
            return field | {"kind": "thick", "packed": thick, "sharpness": seen}, []
        cells = finder(pixels, expected / step)
    diameter = cells.diameter * step
    if expected is not None and not len(cells.cells) >= ENOUGH_CELLS:
        diameter = expected
    kept, rows = _image_rows(place, whole, cells, diameter, step, around)
    cells = Cells(tuple(kept), cells.diameter)
    quality = field_quality(pixels, cells, focus=seen)
    if not place["is_slide"]:
        refuse_other(pixels, cells, quality)
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
        x, y = box[0] + box[2] / 2 - place["x"], box[1] + box[3] / 2 - place["y"]
        is_inside = 0 <= x < place["width"] and 0 <= y < place["height"]
        if is_inside and box not in rows:
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


def _found_like_others(finder: Finder, pixels: Pixels, diameter: float | None) -> Cells:
    """Find the cells of a photograph by the typical diameter of others, unless its own differs."""
    if diameter is not None and diameter >= LEAST_DIAMETER:
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


def with_rims(outlines: Sequence[Numbers], scale: float) -> list[Single]:
    """Move outlines (n, 2) in a field outwards by the rim around training cells.

    ``scale`` are pixels of a cut-out cell for each of the field.
    """
    points, starts, lengths = joined(outlines)
    middles = np.add.reduceat(points, starts) / lengths[:, np.newaxis]
    away = points - np.repeat(middles, lengths, axis=0)
    length = np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    moved = np.asarray(points + away / length * (MARGIN / scale), np.float32)
    return np.split(moved, starts[1:]) if len(starts) else []


def apart(outlines: Sequence[Numbers], rims: Sequence[Single], scale: float) -> list[Single]:
    """Draw outlines with their rims (n, 2) in where they overlap another cell.

    Where two cells overlap it is twice as dark, and looks like a parasite. Each point is moved
    along its ray from the middle, to the rim's width before the other cell begins. ``rims`` are the
    outlines of all cells `with_rims`.
    """
    around, own = _alike_long(outlines), _alike_long(rims)
    low, high = around.min(axis=1), around.max(axis=1)
    drawings = list[Single]()
    for start in range(0, len(rims), AT_ONCE):
        some = own[start : start + AT_ONCE]
        middles = np.array([rim.mean(axis=0) for rim in rims[start : start + AT_ONCE]])
        rays = some - middles[:, np.newaxis]
        meets = (low < some.max(axis=1, keepdims=True)) & (high > some.min(axis=1, keepdims=True))
        pairs = meets.all(axis=2)
        pairs[np.arange(len(some)), start + np.arange(len(some))] = False
        cell, other = np.nonzero(pairs)
        reach = np.ones(rays.shape[:2])
        np.minimum.at(reach, cell, _entry(rays[cell], around[other] - middles[cell, np.newaxis]))
        length = np.linalg.norm(rays, axis=2)
        drawn_in = np.maximum(reach - MARGIN / scale / np.maximum(length, 1e-6), LEAST_REACH)
        share = np.where(reach < 1, drawn_in, 1.0)
        drawn = np.asarray(middles[:, np.newaxis] + rays * share[..., np.newaxis], np.float32)
        drawings += [each[: len(rim)] for each, rim in zip(drawn, rims[start:], strict=False)]
    return drawings


def _alike_long(outlines: Sequence[Numbers]) -> Numbers:
    """Stack outlines (n, 2), repeating the last point of those that have fewer points."""
    points, starts, lengths = joined(outlines)
    each = np.minimum(np.arange(lengths.max(initial=1)), lengths[:, np.newaxis] - 1)
    return points[starts[:, np.newaxis] + each]


def are_bitten(rims: Sequence[Single], contours: Sequence[Single]) -> Mask:
    """Mark the cells (n,) that lose too much to a neighbour for their shape to be judged.

    ``contours`` are their ``rims``, (points, 2) each, drawn in by `apart`.
    """
    whole, left = (
        np.array([cv2.contourArea(outline) for outline in outlines])
        for outlines in (rims, contours)
    )
    return np.asarray(left < (1 - LARGEST_BITE) * whole)


def _entry(rays: Numbers, outlines: Numbers) -> Float:
    """Find the share of rays (n, rays, 2) at which an outline (n, points, 2) begins; 1: nowhere.

    Rays begin at 0.
    """
    x, y = np.moveaxis(outlines, 2, 0)
    # A line from point to point meets a ray if its ends lie on both sides of it.
    side = rays[..., :1] * y[:, np.newaxis] - rays[..., 1:] * x[:, np.newaxis]
    left, side = side > 0, side.reshape(-1, x.shape[1])
    ray, line = np.divmod(np.flatnonzero(left != np.roll(left, -1, axis=2)), x.shape[1])
    after = (line + 1) % x.shape[1]
    area = (x * np.roll(y, -1, axis=1) - y * np.roll(x, -1, axis=1))[ray // rays.shape[1], line]
    met = np.searchsorted(SHARES, area / (side[ray, after] - side[ray, line]))
    # A ray is inside where the rest of it meets the outline an odd number of times.
    tried = len(SHARES) + 1
    places, times = np.unique(ray * tried + met, return_counts=True)
    places = places[(times % 2 > 0) & (places % tried > 0)]
    of, first, times = np.unique(places // tried, return_index=True, return_counts=True)
    reach = np.ones(rays.shape[:2])
    begins = np.where(times % 2 > 0, 0, places[first] % tried)
    reach.flat[of] = np.append(SHARES, 1.0)[begins]
    return reach


def measured_together(slides: Sequence[str]) -> list[str]:
    """Name the group with which each of n photographs is measured, from the slide of each.

    It is the slide, so that no slide's cells depend on its company. Photographs that are each a
    slide are measured together.
    """
    times = Counter(slides)
    return [slide if times[slide] > 1 else ALONE for slide in slides]


def to_measure(groups: Sequence[str]) -> list[int]:
    """Choose which of n photographs are measured, from the group of each: some of each group."""
    members = defaultdict[str, list[int]](list)
    for number, group in enumerate(groups):
        members[group].append(number)
    chosen = list[int]()
    for group, each in members.items():
        most = MEASURED if group else MEASURED_ALONE
        spread = np.linspace(0, len(each) - 1, min(len(each), most))
        chosen += [each[int(place)] for place in spread]
    return sorted(chosen)


def typical_diameters(
    groups: Sequence[str], sizes: Sequence[tuple[int, int] | None], measured: Sequence[float | None]
) -> list[float | None]:
    """Return a red cell's median diameter in photographs of a group and a size, for each of n.

    ``sizes`` are width and height, None of anything but a photograph, which keeps its own diameter.
    A diameter is None if it was not measured, or nothing alike was.
    """
    # Every picture of a telephone at an eyepiece is cut to another size.
    alike = [
        None if size is None else (group, round(log2(max(size)) / SIZES_ALIKE))
        for group, size in zip(groups, sizes, strict=True)
    ]
    known = defaultdict[tuple[str, int], list[float]](list)
    for kind, diameter in zip(alike, measured, strict=True):
        if kind is not None and diameter is not None:
            known[kind].append(diameter)
    medians = {kind: median(diameters) for kind, diameters in known.items()}
    return [
        diameter if kind is None else medians.get(kind)
        for kind, diameter in zip(alike, measured, strict=True)
    ]
