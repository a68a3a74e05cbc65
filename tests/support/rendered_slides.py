"""Render whole slides with known cells: fields of cells, thick parts of the smear, empty glass.

A few fields are drawn and repeated, so a slide of any size takes seconds and little memory.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from tifffile import TiffWriter

from tasks.images.decoding import RESIZE
from tasks.smears.segmentation.survey import RED_CELL
from tasks.smears.synthetic.rendered_cells import draw_patient
from tasks.types import Pixels
from tests.support.rendered_fields import DrawnCell, render_field

FIELD = 1024  # pixels of a drawn field's side, at level 0
TILE = 256  # pixels of a tile's side
STEP = 4  # factor between levels
DRAWN = 2  # different fields of cells
CELL_WIDTH = 130  # pixels of a rendered cell
CELLS = 45  # in a field
PARASITIZED = 4  # of them
OVERLAPPING = 0.1  # share of them
DOUBLINGS = 4  # of layers, in thick parts
QUALITY = 90  # of JPEG
BOX = Image.Resampling.BOX


@dataclass(frozen=True)
class PlacedField:
    """A field of a rendered slide: its upper left corner and its cells.

    The corner and the boxes of cells are in pixels of level 0. A field that is too thick has no
    cells to find.
    """

    x: int
    y: int
    cells: tuple[DrawnCell, ...]
    thick: bool


@dataclass(frozen=True)
class RenderedSlide:
    """The drawn fields, each ``side`` pixels wide, with glass between them."""

    side: int
    fields: tuple[PlacedField, ...]

    @property
    def cells(self) -> int:
        """Count the cells that a finder should find."""
        return sum(len(field.cells) for field in self.fields)


def render_slide(
    path: Path,
    *,
    width: int,
    height: int,
    fields: int,
    thick: int,
    seed: int,
    microns_per_pixel: float = 0.125,
    levels: int = 3,
) -> RenderedSlide:
    """Write a slide as a pyramid of JPEG tiles in a TIFF that OpenSlide reads too.

    ``width`` and ``height`` are in pixels of level 0; each further level is a quarter of the last.
    ``fields`` have single cells; ``thick`` adjacent ones are too thick to distinguish cells.
    """
    columns, rows = width // FIELD, height // FIELD
    rng = np.random.default_rng(seed)
    pictures, cells = _draw(microns_per_pixel, rng)
    # The picture at each place, by index: glass, fields of cells, thick.
    shown = np.zeros((ceil(height / FIELD), ceil(width / FIELD)), np.intp)
    places = rng.permutation(columns * rows)
    middle = np.array(divmod(places[0], columns))
    away = np.hypot(*(np.stack(np.divmod(places, columns)) - middle[:, np.newaxis]))
    # The thick part is a single drop.
    drop, rest = np.split(places[np.argsort(away, kind="stable")], [thick])
    shown[np.divmod(drop, columns)] = DRAWN + 1
    for i, place in enumerate(rng.permutation(rest)[:fields]):
        shown[divmod(place, columns)] = 1 + i % DRAWN
    _write(path, pictures, shown, (width, height), microns_per_pixel, levels)
    return RenderedSlide(FIELD, tuple(_placed(shown, cells)))


def _draw(
    microns_per_pixel: float, rng: Generator
) -> tuple[list[Pixels], list[tuple[DrawnCell, ...]]]:
    """Draw glass, fields of cells and a thick one, (FIELD, FIELD, 3) each, and list the cells."""
    patient = draw_patient(1, rng)
    scale = CELL_WIDTH * microns_per_pixel / RED_CELL
    pictures: list[Pixels] = []
    cells: list[tuple[DrawnCell, ...]] = []
    for number in (0, *[CELLS] * DRAWN):
        drawn = render_field(
            patient,
            rng,
            cells=number,
            parasitized=min(PARASITIZED, number),
            overlapping=OVERLAPPING,
            height=round(FIELD * scale),
            width=round(FIELD * scale),
        )
        picture = Image.fromarray(drawn.pixels).resize((FIELD, FIELD), RESIZE)
        pictures.append(np.asarray(picture))
        cells.append(tuple(_moved(cell, 1 / scale, 0, 0) for cell in drawn.cells))
    glass, *fields = pictures
    return [*pictures, _thick(glass, fields, rng)], [*cells, ()]


def _thick(glass: Pixels, fields: list[Pixels], rng: Generator) -> Pixels:
    """Draw many layers of cells, whose absorbances add up; (FIELD, FIELD, 3)."""
    light = np.log(glass.astype(np.float32))
    layers = sum(np.log(np.maximum(field, 1).astype(np.float32)) - light for field in fields)
    for _ in range(DOUBLINGS):
        layers = layers + np.roll(layers, rng.integers(FIELD, size=2).tolist(), axis=(0, 1))
    return np.asarray(np.exp(light + layers), np.uint8)


def _moved(cell: DrawnCell, scale: float, x: int, y: int) -> DrawnCell:
    """Scale a cell of a field and move it to x, y."""
    left, top, width, height = (round(scale * length) for length in cell.box)
    return DrawnCell((x + left, y + top, width, height), cell.stage)


def _placed(shown: NDArray[np.intp], cells: list[tuple[DrawnCell, ...]]) -> Iterator[PlacedField]:
    """List all fields in reading order."""
    for row, column in np.argwhere(shown > 0).tolist():
        x, y, kind = column * FIELD, row * FIELD, int(shown[row, column])
        there = tuple(_moved(cell, 1, x, y) for cell in cells[kind])
        yield PlacedField(x, y, there, thick=kind > DRAWN)


def _write(
    path: Path,
    pictures: list[Pixels],
    shown: NDArray[np.intp],
    size: tuple[int, int],
    microns_per_pixel: float,
    levels: int,
) -> None:
    with TiffWriter(path, bigtiff=True) as tiff:
        for level in range(levels):
            scale = STEP**level
            width, height = (ceil(length / scale) for length in size)
            tiff.write(
                _tiles(pictures, shown, width, height, FIELD // scale),
                shape=(height, width, 3),
                dtype=np.uint8,
                photometric="ycbcr",
                compression="jpeg",
                subsampling=(2, 2),
                tile=(TILE, TILE),
                subfiletype=int(level > 0),
                resolution=(1e4 / microns_per_pixel / scale, 1e4 / microns_per_pixel / scale),
                resolutionunit="CENTIMETER",
                metadata=None,
            )


def _tiles(
    pictures: list[Pixels], shown: NDArray[np.intp], width: int, height: int, side: int
) -> Iterator[bytes]:
    """Encode the tiles of a level, with fields ``side`` pixels wide, in reading order.

    Equal tiles are encoded once.
    """
    small = np.stack(
        [np.asarray(Image.fromarray(each).resize((side, side), BOX)) for each in pictures]
    )
    encoded: dict[tuple[int, ...], bytes] = {}
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            there = shown[
                top // side : ceil((top + TILE) / side), left // side : ceil((left + TILE) / side)
            ]
            key = (top % side, left % side, *there.shape, *there.ravel().tolist())
            if key not in encoded:
                block = small[there].swapaxes(1, 2)
                block = block.reshape(there.shape[0] * side, there.shape[1] * side, 3)
                block = block[top % side :, left % side :][:TILE, :TILE]
                missing = [(0, TILE - length) for length in block.shape[:2]]
                encoded[key] = _jpeg(np.pad(block, [*missing, (0, 0)], mode="edge"))
            yield encoded[key]


def _jpeg(tile: Pixels) -> bytes:
    out = io.BytesIO()
    Image.fromarray(tile).save(out, "JPEG", quality=QUALITY, subsampling="4:2:0")
    return out.getvalue()
