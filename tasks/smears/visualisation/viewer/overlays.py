"""Make what the viewer of a picture draws: contours of its cells, and tiles to zoom in.

Contours are drawn above the picture as SVG and switched by class. Tiles are cut from the photograph
or slide itself: level n has a longer side of at most 2^n pixels; its tiles have `TILE` to a side.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike
from PIL import Image

from tasks.images import geometry, opened_slides
from tasks.images.manifest import Region
from tasks.reports.image_columns import PARASITIZED
from tasks.smears.segmentation.survey import RED_CELL
from tasks.smears.visualisation import overlay, page
from tasks.types import CellKind, ImageStatus, Pixels

POINTS = 24  # of an outline: a finer one looks the same
UNREAD = "not read"  # the class of a cell that a person has yet to read blind
CLASSES = ("parasitized", "not parasitized", "white cell", "failed", UNREAD)
TILE = 512
MOST_READ = 8 * TILE  # pixels to a side that are read for a tile


@dataclass(frozen=True)
class Contour:
    """Hold a cell's outline, its class among `CLASSES`, and its diagnosis in words.

    ``points`` are x0, y0, x1, y1, ... in pixels of the picture at full resolution; ``priority`` is
    that of `priority_of`.
    """

    image_id: str
    kind: str
    abnormal: bool
    points: tuple[int, ...]
    said: str
    priority: float = 0.0


@dataclass(frozen=True)
class FieldPicture:
    """Hold a plain picture of a field, a WebP file, and the contours of its cells."""

    picture: bytes
    size: tuple[int, int]
    contours: tuple[Contour, ...]

    @property
    def svg(self) -> Markup:
        """Draw the contours as inline SVG over the picture; abnormal ones last."""
        paths = Markup("").join(
            Markup(
                '<path class="{}{}" d="{}" data-id="{}" data-said="{}" data-priority="{:.4f}"/>'
            ).format(
                each.kind.replace(" ", "-"),
                " abnormal" if each.abnormal else "",
                f"M{' '.join(map(str, each.points))}z",
                each.image_id,
                each.said,
                each.priority,
            )
            for each in sorted(self.contours, key=lambda each: each.abnormal)
        )
        return Markup(
            '<svg class="contours" viewBox="0 0 {} {}" preserveAspectRatio="none" '
            'aria-hidden="true"><g>{}</g></svg>'
        ).format(*self.size, paths)


def contour_of(
    row: Mapping[str, Any], flat: ArrayLike | None, corner: tuple[int, int] = (0, 0)
) -> Contour:
    """Describe the contour of a cell; without an outline it is the cell's box.

    ``flat`` is its outline, as `outline_of` takes it; ``corner`` is that of the picture in its
    source, in pixels.
    """
    points = overlay.corners_of(row) if flat is None else overlay.outline_of(row, flat)
    points = points[:: max(1, len(points) // POINTS)]
    placed = np.round(points - np.asarray(corner)).astype(int)
    pen = overlay.pen_of(row)
    return Contour(
        row["image_id"],
        pen.name,
        pen.dashed,
        tuple(placed.ravel().tolist()),
        _said(row),
        priority_of(
            row.get(f"probability_{PARASITIZED}") or 0.0,
            bool(row.get("touches_border")),
            pen.name in {"white cell", "failed"},
        ),
    )


def priority_of(chance: Any, cut: Any, other: Any) -> Any:
    """Compute how early the viewer's keys come to a cell, larger first; or of arrays of cells.

    Red cells that look parasitized come before those that do not, and of each those that are whole
    before those ``cut`` off or covered, in the order of the probability ``chance`` of
    "Parasitized". ``other`` things, such as white cells, are last.
    """
    return 2.0 * (chance >= 0.5) - 1.0 * cut + chance - 4.0 * other


def field_picture(
    pixels: Pixels, field: Mapping[str, Any], contours: Iterable[Contour]
) -> FieldPicture:
    """Make the picture of a field, no side longer than `LONGEST`.

    ``pixels`` are RGB uint8 (h, w, 3), at whatever scale; contours are in pixels of the field at
    full resolution.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((overlay.LONGEST, overlay.LONGEST), Image.Resampling.LANCZOS)
    return FieldPicture(page.as_webp(picture), (field["width"], field["height"]), tuple(contours))


def _said(row: Mapping[str, Any]) -> str:
    if row["status"] != ImageStatus.SCORED:
        return "not read"
    words, chance = page.shortened(row["diagnosis"]), row.get(f"probability_{row['diagnosis']}")
    if row.get("kind") == CellKind.WHITE:
        words, chance = "white cell", None
    parts = [words if chance is None else f"{words} {page.chance_text(chance)}"]
    if row.get("abnormality") is not None:
        parts.append(f"abnormality {page.number_text(row['abnormality'])}")
        parts.append(f"p {page.p_text(row['p_value'])}")
    return ", ".join(parts)


@dataclass(frozen=True)
class ShownField:
    """A field of view on the page: its row of the report, and its picture, or why there is none."""

    row: Mapping[str, Any]
    picture: FieldPicture | str

    @property
    def microns(self) -> float | None:
        """Return microns per pixel: its own, or those at which its median red cell is ordinary."""
        return RED_CELL / self.red_cell if self.red_cell else self.row.get("microns_per_pixel")

    @property
    def red_cell(self) -> float | None:
        """Return the median red cell's diameter in pixels; None if the size of a pixel is known."""
        known, diameter = self.row.get("microns_per_pixel"), self.row.get("diameter")
        return float(diameter) if known is None and diameter else None


class NoTileError(Exception):
    """A picture has no such tile, which the message names."""


@dataclass(frozen=True)
class Pyramid:
    """Describe the levels of a picture. Below ``least`` a tile would need too much of the file."""

    picture: geometry.Slide

    @property
    def most(self) -> int:
        """Return the level that has the picture's own pixels."""
        return ceil(log2(max(self.picture.width, self.picture.height, 2)))

    @property
    def least(self) -> int:
        """Return the coarsest level of which a tile can be read at once."""
        return next(n for n in range(self.most + 1) if self._reads(n) <= MOST_READ)

    def _reads(self, level: int) -> float:
        """Compute how many pixels to a side are read for a tile of a level, at most."""
        scale = self.scale(level)
        wanted = min(TILE * scale, max(self.picture.width, self.picture.height))
        return wanted / self.picture.downsamples[self.source_level(scale)]

    def scale(self, level: int) -> int:
        """Return how many pixels of the file are one of a level, along a side."""
        return int(2 ** (self.most - level))

    def source_level(self, scale: float) -> int:
        """Choose the coarsest level of the file that is as fine as a scale."""
        return geometry.coarsest(self.picture.downsamples, lambda each: each <= scale * 1.01)

    def region(self, level: int, column: int, row: int) -> tuple[Region, tuple[int, int]]:
        """Find the part of the file that a tile shows, and the tile's width and height in pixels.

        Raises:
            NoTileError: there is none.
        """
        if not self.least <= level <= self.most:
            raise NoTileError(f"no level {level}: there are {self.least} to {self.most}")
        scale = self.scale(level)
        x, y = column * TILE * scale, row * TILE * scale
        if not (0 <= x < self.picture.width and 0 <= y < self.picture.height):
            raise NoTileError(f"no tile {column}, {row} on level {level}")
        width = min(TILE * scale, self.picture.width - x)
        height = min(TILE * scale, self.picture.height - y)
        region = Region(x, y, width, height, self.source_level(scale))
        return region, (max(1, ceil(width / scale)), max(1, ceil(height / scale)))


@lru_cache(maxsize=256)
def read_tile(source: str, stamp: str, level: int, column: int, row: int) -> bytes:
    """Read a tile as a JPEG file; ``stamp`` is the file's, so that a changed file is read again.

    Raises:
        NoTileError: there is none.
        BadImageError: the file cannot be read.
    """
    region, size = Pyramid(opened_slides.open_picture(source)).region(level, column, row)
    picture = Image.fromarray(opened_slides.read_region(source, region))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BOX)
    return page.encoded(picture, "JPEG", quality=85)
