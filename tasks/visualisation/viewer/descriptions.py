"""Describe fields of view for a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks.segmentation.survey import RED_CELL
from tasks.visualisation.page import LONGEST_TEXT, data_uri, file_name, shortened
from tasks.visualisation.viewer.overlays import FieldPicture, contours_svg


@dataclass(frozen=True)
class ShownField:
    """Hold a field of view on the page: its row of the report on fields, and its picture.

    Without a ``picture``, ``missing`` says why there is none.
    """

    row: Mapping[str, Any]
    picture: FieldPicture | None = None
    missing: str | None = None


def describe_field(field: ShownField) -> dict[str, Any]:
    """Describe a field of view for the page."""
    row, picture = field.row, field.picture
    cells = row["cells"]
    counts = (f"{row[name]:,} {name}" for name in ("parasitized", "abnormal", "failed"))
    width, height = (1, 1) if picture is None else picture.size
    return {
        "name": file_name(row["source_uri"]),
        "uri": shortened(row["source_uri"], 2 * LONGEST_TEXT),
        "slide": shortened(row["slide_id"]) if row["slide_id"] is not None else None,
        # A photograph is all of its source.
        "place": f"{row['x']:,}, {row['y']:,}" if row["x"] or row["y"] else None,
        "cells": f"{cells:,} cell{'s' * (cells != 1)}",
        "counts": ", ".join(counts),
        "reason": row["review_reason"],
        "picture": picture and data_uri(picture.picture, "webp"),
        "contours": picture and contours_svg(picture.size, picture.contours),
        "width": width,
        "height": height,
        "microns": microns_per_pixel(row),
        "missing": field.missing,
    }


def microns_per_pixel(row: Mapping[str, Any]) -> float | None:
    """Return the scale of a field: its own, or the one at which its median red cell is ordinary."""
    known = row.get("microns_per_pixel")
    diameter = row.get("diameter")
    if known is None and diameter:
        return RED_CELL / float(diameter)
    return known
