"""Render fields of view with known cells: apart, touching, overlapping, or cut off."""

import cmath
from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from tasks.smears.synthetic.rendered_cells import (
    Dyes,
    Patient,
    Stage,
    draw_stage,
    expose,
    red_cell_dyes,
)
from tasks.types import Pixels, Single

TRIES = 2000  # to place a cell before giving up
OVERLAP = 0.8  # the least distance of two centres, in sums of radii
APART = 1.08  # the same for cells that do not touch; outlines are uneven
GROUND = 0.02  # eosin that washing does not remove


@dataclass(frozen=True)
class DrawnCell:
    """A cell of a rendered field: its box in pixels, and its parasite's stage.

    The box is x, y, width and height of the part within the field.
    """

    box: tuple[int, int, int, int]
    stage: Stage | None


@dataclass(frozen=True)
class RenderedField:
    """A field's picture (height, width, 3) and its cells."""

    pixels: Pixels
    cells: tuple[DrawnCell, ...]


def render_field(
    patient: Patient,
    rng: Generator,
    *,
    cells: int,
    parasitized: int,
    overlapping: float,
    height: int,
    width: int,
) -> RenderedField:
    """Render a field of red cells, each about 130 pixels wide, on a bright ground.

    Centres are within the field, so at most half of a cell is cut off. ``overlapping`` is the share
    of cells that touch or overlap an earlier one, by up to a fifth of their diameter.
    """
    stages = [draw_stage(rng) if i < parasitized else None for i in range(cells)]
    drawn = [red_cell_dyes(rng, stage) for stage in stages]
    radii = np.array([sum(each.inside.shape) / 4 for each in drawn])
    against = rng.random(cells) < overlapping
    eosin = np.full((height, width), GROUND, np.float32)
    azure = np.zeros_like(eosin)
    places = _draw_places(radii, against, complex(width, height), rng)
    boxes = [_add(eosin, azure, each, z) for each, z in zip(drawn, places, strict=True)]
    return RenderedField(
        expose(patient, eosin, azure, rng),
        tuple(DrawnCell(box, stage) for box, stage in zip(boxes, stages, strict=True)),
    )


def _draw_places(
    radii: NDArray[np.float64], against: NDArray[np.bool_], size: complex, rng: Generator
) -> list[complex]:
    """Draw centres x + iy of cells (n,); cells ``against`` an earlier one touch or overlap it."""
    places: list[complex] = []
    for i, radius in enumerate(radii):
        for _ in range(TRIES):
            place = complex(rng.uniform(0, size.real), rng.uniform(0, size.imag))
            closest = APART
            if against[i] and places:
                j = int(rng.integers(len(places)))
                reach = rng.uniform(OVERLAP, 1) * (radius + radii[j])
                place = places[j] + cmath.rect(reach, rng.uniform(-pi, pi))
                closest = OVERLAP
            inside = 0 <= place.real < size.real and 0 <= place.imag < size.imag
            away = np.abs(np.array(places, complex) - place)
            if inside and (away >= closest * (radius + radii[: len(places)])).all():
                places.append(place)
                break
        else:
            raise ValueError(f"{len(radii)} cells do not fit into {size} pixels")
    return places


def _add(eosin: Single, azure: Single, cell: Dyes, place: complex) -> tuple[int, int, int, int]:
    """Add a cell's dyes to a field's; return the box of the part within the field."""
    height, width = cell.inside.shape
    left, top = round(place.real) - width // 2, round(place.imag) - height // 2
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, eosin.shape[1]), min(top + height, eosin.shape[0])
    there, here = np.s_[y0:y1, x0:x1], np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    eosin[there] += (cell.eosin * cell.inside)[here]
    azure[there] += (cell.azure * cell.inside)[here]
    return x0, y0, x1 - x0, y1 - y0
