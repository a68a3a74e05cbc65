"""Write cells and fields of a photograph or slide as GeoJSON that QuPath opens over it.

A cell is a detection, a field an annotation; properties are named as QuPath's own export names
them. Coordinates are pixels at full resolution from the upper left corner of the image, y downwards
(https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html), and not degrees
on the earth as RFC 7946 has them.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike

from tasks.smears.visualisation.overlay import Colour, Outline, Pen, corners_of, outline_of, pen_of
from tasks.types import FieldKind

# By pen. QuPath draws no dashes, so abnormal cells have a lighter colour (Okabe & Ito 2008).
CLASSES: dict[Pen, tuple[str, Colour]] = {
    Pen("parasitized"): ("Parasitized", (213, 94, 0)),
    Pen("parasitized", True): ("Parasitized: abnormal", (230, 159, 0)),
    Pen("not parasitized"): ("Not parasitized", (0, 114, 178)),
    Pen("not parasitized", True): ("Not parasitized: abnormal", (86, 180, 233)),
    Pen("white cell"): ("White cell", (0, 158, 115)),
    Pen("white cell", True): ("White cell: abnormal", (204, 121, 167)),
    Pen("failed"): ("Failed", (90, 90, 90)),
}
FIELD_COLOUR: Colour = (130, 130, 130)
MEASURED = ("probability_", "distance_", "abnormality", "p_value", "q_value")
SAID = ("uri", "diagnosis", "verdict", "review_reason", "failure")
MEASURED_OF_FIELDS = (
    *("sharpness", "too_dark", "too_bright", "brightness", "covered", "overlap", "packed"),
    *("cells", "white_cells", "red_cells", "parasitized", "abnormal", "failed"),
)
DECIMALS = 1  # of a pixel; outlines are not known better

Outlines = Iterable[ArrayLike | None]


def feature_collection(
    parts: Iterable[tuple[pa.Table, Outlines]], fields: pa.Table | None = None
) -> Iterator[bytes]:
    """Write cells and fields of one source as GeoJSON, in parts: a slide's may not fit in memory.

    ``parts`` are rows of the image report, all of one source, and the outline of each: x0, y0, x1,
    y1, ... relative to its ``x`` and ``y``; None for a tile, which has none. ``fields`` are rows of
    the report on fields of that source.

    Raises:
        ValueError: an outline is no list of x and y of three points or more.
    """
    cells = (
        cell_feature(row, outline)
        for rows, outlines in parts
        for row, outline in zip(rows.to_pylist(), outlines, strict=True)
    )
    features = chain(map(field_feature, [] if fields is None else fields.to_pylist()), cells)
    yield b'{"type": "FeatureCollection", "features": ['
    for number, feature in enumerate(filter(None, features)):
        text = json.dumps(feature, allow_nan=False, ensure_ascii=False)
        yield (b",\n" if number else b"\n") + text.encode()
    yield b"\n]}\n"


def cell_feature(row: Mapping[str, Any], outline: ArrayLike | None) -> dict[str, Any]:
    """Describe a cell as a detection: its class by diagnosis and abnormality, and its scores."""
    name, colour = CLASSES[pen_of(row)]
    measured = [column for column in row if column.startswith(MEASURED)]
    return _feature(
        row["uri"],
        # The middle of the first pixel is at 0 in outlines, and at a half in QuPath.
        corners_of(row) if outline is None else outline_of(row, outline) + 0.5,
        objectType="detection",
        classification={"name": name, "color": colour},
        measurements=_numbers(row, measured),
        metadata={text: row[text] for text in SAID if row.get(text) is not None},
    )


def field_feature(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Describe a field as a locked annotation with quality and counts; None if it failed."""
    if row["x"] is None:
        return None
    kind = row["kind"] if row["kind"] != FieldKind.FIELD else row["review_reason"]
    name = "Field" if kind is None else f"Field: {kind}"
    return _feature(
        f"{row['source_uri']}#{row['x']},{row['y']}",
        corners_of(row),
        objectType="annotation",
        name=f"{row['kind']} at {row['x']}, {row['y']}",
        classification={"name": name, "color": FIELD_COLOUR},
        isLocked=True,
        measurements=_numbers(row, MEASURED_OF_FIELDS),
    )


def _feature(identity: str, points: Outline, **properties: Any) -> dict[str, Any]:
    x, y = points.T
    # RFC 7946, 3.1.6: an exterior ring goes counterclockwise in its own coordinates, and closes.
    turn = float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    ring = (points if turn >= 0 else points[::-1]).round(DECIMALS).tolist()
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, identity)),  # by which QuPath does not add it twice
        "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        "properties": properties,
    }


def _numbers(row: Mapping[str, Any], columns: Sequence[str]) -> dict[str, float]:
    """Select those columns of a row that hold a finite number; JSON has no other."""
    values = {name: row.get(name) for name in columns}
    return {name: v for name, v in values.items() if v is not None and math.isfinite(v)}
