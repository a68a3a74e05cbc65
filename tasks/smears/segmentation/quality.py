"""Measure whether a field of view is fit to be read: its focus, exposure, stain and crowding."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from tasks.images import geometry
from tasks.images.decoding import BadImageError
from tasks.smears.segmentation import contours
from tasks.smears.segmentation.absorbance import rim
from tasks.smears.segmentation.finding import LEAST_DIAMETER, Cells
from tasks.types import Float, Pixels

SHADOW, HIGHLIGHT = 2, 253  # of 255; JPEG moves clipped pixels by a level or two
EXPOSED = 4  # rows and columns from one to the next whose exposure is measured
PACKED_DIAMETER = 12  # pixels of a cell when looking for ground between cells
SQUARE = 4  # widths of a cell; a clump of cells, or a white cell, does not fill it
GROUND = 0.25  # largest absorbance of green; the lamp's fall towards the corners is less
LEAST_GROUND = 0.05  # share of a square; with less, cells overlap
FOCUS_DIAMETER = 48  # pixels of a cell when comparing edges
# 210 photographs of seven laboratories have 3e-4 and more, clouds of random colours 1.5e-4 at most.
LEAST_SHARPNESS = 2e-4
MOST_WHITE = 1 / 3  # share of the cells; fields chosen around white cells have .14 at most
# Nuclei cover 3 to 8% of rendered thick films, with a ratio of blue to green of .35. In 77 fields
# of dark grey red cells it is .5 and more where these cover less than a tenth.
THICK_COVERED, THICK_GREEN, THICK_BLUE = 0.1, 0.8, 0.45


def field_quality(field: Pixels, found: Cells, *, focus: float | None = None) -> dict[str, Any]:
    """Measure the quality of a field in which ``found`` are the cells, by column of its row.

    Shares and brightness are 0 to 1: ``too_dark`` and ``too_bright`` are of pixels where a channel
    is clipped, ``covered`` of the field, ``overlap`` of the covered area in more than one cell. The
    stain is the mean colour of the cells' pixels, 0 to 255. Without cells it is NaN, as overlap is.
    ``focus`` is the sharpness, if already known. Where an eyepiece lights a disc, only its
    inscribed rectangle counts, except for the stain.
    """
    scale = min(1.0, FOCUS_DIAMETER / found.diameter) if found.cells else 1.0
    small, around = geometry.scaled(field, scale), rim(field)
    some = np.ascontiguousarray(field[::EXPOSED, ::EXPOSED])
    outlines = [geometry.rescaled(cell.outline, scale) for cell in found.cells]
    cells = contours.layers(outlines, (small.shape[0], small.shape[1])).astype(np.uint8)
    mask = (cells > 0).view(np.uint8)
    stain = cv2.mean(small, mask)[:3] if mask.any() else (np.nan,) * 3
    if around is not None:
        low, high = around.min(axis=0), around.max(axis=0)
        margin = (1 - np.sqrt(0.5)) / 2 * (high - low)
        seen = np.array([low + margin, high - margin])
        some = _between(some, seen / EXPOSED)
        small, mask, cells = (_between(each, scale * seen) for each in (small, mask, cells))
    covered = int(np.count_nonzero(mask))
    dark, bright = (
        1 - np.count_nonzero(cv2.inRange(some, (low,) * 3, (high,) * 3)) / some[..., 0].size
        for low, high in ((SHADOW + 1, 255), (0, HIGHLIGHT - 1))
    )
    return {
        "sharpness": sharpness(small, scale * found.diameter) if focus is None else focus,
        "too_dark": dark,
        "too_bright": bright,
        "brightness": sum(cv2.mean(some)) / 3 / 255,
        **dict(zip(("stain_red", "stain_green", "stain_blue"), stain, strict=True)),
        "cells": len(found.cells),
        "covered": covered / mask.size,
        "overlap": np.count_nonzero(cells > 1) / covered if covered else np.nan,
        "packed": packed(small, scale * found.diameter),
    }


def _between(field: Pixels, ends: Float) -> Pixels:
    """Cut a rectangle out of a field; its ends (2, 2) are x and y."""
    (left, top), (right, bottom) = ends.astype(int)
    return np.ascontiguousarray(field[top:bottom, left:right])


def refuse_other(field: Pixels, found: Cells, quality: Mapping[str, Any]) -> None:
    """Raise BadImageError if a photograph is no thin smear, by its cells and `field_quality`."""
    if not found.cells:
        seen = f"no red cell in it, or none that is {LEAST_DIAMETER} pixels wide"
        raise BadImageError("no_thin_smear", f"{seen}; photograph a thin smear")
    white = sum(cell.kind == "white" for cell in found.cells)
    light = np.percentile(field[::4, ::4].reshape(-1, 3), 90, axis=0)
    stain = [max(1.0, quality[f"stain_{name}"]) for name in ("red", "green", "blue")]
    red, green, blue = np.log(np.maximum(light, 1) / stain)
    is_purple = green > THICK_GREEN and blue < THICK_BLUE * green and red > blue
    many_white, seen = white >= MOST_WHITE * len(found.cells), ""
    if quality["covered"] < THICK_COVERED and (is_purple or many_white):
        seen = "this looks like a thick film, dark nuclei without red cells"
    elif many_white:
        seen = f"white cells alone would be {white} of {len(found.cells)} cells"
    elif quality["sharpness"] < LEAST_SHARPNESS:
        seen = "nothing in it has the edge of a cell: it is far out of focus, or no smear"
    if seen:
        raise BadImageError("no_thin_smear", f"{seen}; photograph a thin smear")


def sharpness(field: Pixels, diameter: float) -> float:
    """Divide the variance of the Laplacian of brightness by that of brightness; at least 0.

    The field is scaled to cells of `FOCUS_DIAMETER` pixels, so that magnification does not matter,
    smoothed by a Gaussian of one pixel, because of the camera's noise, and divided by the variance,
    because of contrast. 0 for a field of one colour; NaN if the diameter of the median cell, in
    pixels, is unknown.
    """
    if not np.isfinite(diameter):
        return float("nan")
    small = geometry.scaled(field, FOCUS_DIAMETER / diameter).astype(np.float32)
    levels = np.asarray(cv2.transform(small, np.ones((1, 3), np.float32)), np.float32)
    smooth, bend = contours.gaussian(1), contours.gaussian(1, order=2)
    laplacian = contours.filtered(levels, bend, smooth) + contours.filtered(levels, smooth, bend)
    contrast = float(levels.var())
    return float(laplacian.var()) / contrast if contrast else 0.0


def packed(field: Pixels, diameter: float) -> float:
    """Measure the share of a field, 0 to 1, where cells are so thick that hardly any ground shows.

    The field is divided into squares about `SQUARE` cells wide; ground is hardly darker than the
    brightest part of the field. NaN if the diameter of the median cell, in pixels, is unknown.
    """
    if not np.isfinite(diameter):
        return float("nan")
    # Eosin and azure both absorb green.
    green = np.asarray(cv2.extractChannel(field, 1), np.uint8)
    green = geometry.scaled(green, PACKED_DIAMETER / diameter)
    ground = green > np.percentile(green, 99) * np.exp(-GROUND)
    rows, columns = (max(1, round(n / (SQUARE * PACKED_DIAMETER))) for n in ground.shape)
    squares = [
        square.mean()
        for strip in np.array_split(ground, rows)
        for square in np.array_split(strip, columns, axis=1)
    ]
    return float(np.mean(np.array(squares) < LEAST_GROUND))
