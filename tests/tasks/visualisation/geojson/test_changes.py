"""New outlines among many cells that were written."""

import numpy as np
import pytest

from tasks.visualisation.geojson.changes import Written, find_changes
from tasks.visualisation.geojson.read import Drawn

CELLS, NEW = 10_000, 200
FIELD = {"source_uri": "s", "x": 0, "y": 0, "width": 50_000, "height": 50_000}
LISTED = {
    **dict.fromkeys(("source_id", "source_stamp", "slide_id", "patient_id", "acquired_at")),
    "source_uri": "s", "level": 0, "outline": None, "kind": "red",
}  # fmt: skip
DISC = np.array([[0, 0], [30, 0], [30, 30], [0, 30]], float)


def written(x: int, y: int, scale: float) -> Written:
    told = {"x": x, "y": y, "width": 30, "height": 30, "status": "scored", "kind": "red",
            "diagnosis": "Uninfected", "abnormal": False}  # fmt: skip
    return Written(told, LISTED | {"scale": scale})


def test_a_new_outline_has_the_magnification_of_the_nearest_of_many_cells() -> None:
    rng = np.random.default_rng(0)
    places = rng.integers(0, 49_000, (CELLS, 2))
    cells = {str(n): written(int(x), int(y), 1 + n / CELLS) for n, (x, y) in enumerate(places)}
    corners = rng.integers(100, 49_000, (NEW, 2))
    drawn = [Drawn(n, f"new {n}", None, DISC + corner) for n, corner in enumerate(corners)]
    found = find_changes(drawn, cells, [FIELD], ("Parasitized", "Uninfected"))
    assert (len(found.outlines), found.moved) == (NEW, 0)
    for outline, corner in zip(found.outlines, corners, strict=True):
        apart = ((places - corner - DISC.mean(axis=0)) ** 2).sum(axis=1)
        assert outline["scale"] == pytest.approx(1 + int(np.argmin(apart)) / CELLS)
