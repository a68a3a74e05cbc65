"""Describe the contours of a picture's cells, to be drawn above it as SVG and switched by class."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import ArrayLike
from PIL import Image

from tasks.smears.segmentation.survey import RED_CELL
from tasks.smears.visualisation import overlay, page
from tasks.types import CellKind, Pixels, Status

POINTS = 24  # of an outline: a finer one looks the same
UNREAD = "not read"  # the class of a cell that a person has yet to read blind
CLASSES = ("parasitized", "not parasitized", "white cell", "failed", UNREAD)


@dataclass(frozen=True)
class Contour:
    """Hold a cell's outline, its class among `CLASSES`, and its diagnosis in words.

    ``points`` are x0, y0, x1, y1, ... in pixels of the picture at full resolution.
    """

    image_id: str
    kind: str
    abnormal: bool
    points: tuple[int, ...]
    said: str

    def to_dict(self) -> dict[str, Any]:
        """Name its values as the viewer takes them."""
        return {**vars(self), "points": list(self.points)}


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
            Markup('<path class="{}{}" d="{}" data-id="{}" data-said="{}"/>').format(
                each.kind.replace(" ", "-"),
                " abnormal" if each.abnormal else "",
                f"M{' '.join(map(str, each.points))}z",
                each.image_id,
                each.said,
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
    if flat is None:
        box = [(0, 0), (1, 0), (1, 1), (0, 1)]
        corners = np.array(box, np.float64) * [row["width"], row["height"]]
        points = corners + np.array([row["x"], row["y"]])
    else:
        points = overlay.outline_of(row, flat)
        points = points[:: max(1, len(points) // POINTS)]
    placed = np.round(points - np.asarray(corner)).astype(int)
    pen = overlay.pen_of(row)
    return Contour(
        row["image_id"], pen.name, pen.dashed, tuple(placed.ravel().tolist()), _said(row)
    )


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
    """Write the machine's diagnosis of a cell with two or three figures."""
    if row["status"] != Status.SCORED:
        return "not read"
    words = "white cell" if row.get("kind") == CellKind.WHITE else page.shortened(row["diagnosis"])
    chance = row.get(f"probability_{row['diagnosis']}")
    parts = [words if chance is None else f"{words} {chance:.0%}"]
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
        known, diameter = self.row.get("microns_per_pixel"), self.row.get("diameter")
        return RED_CELL / float(diameter) if known is None and diameter else known
