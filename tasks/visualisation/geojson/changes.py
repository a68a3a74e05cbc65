"""Find what a person has changed in objects that slidewatch wrote: classes and outlines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.images.geometry import Box, box_around
from tasks.images.regions import Region, address_of
from tasks.readers.verdicts import KEYS, WHITE, refuse, sayable
from tasks.reports.image_columns import PARASITIZED
from tasks.segmentation.separation import with_rim
from tasks.types import CellKind
from tasks.visualisation.geojson.read import Drawn, check_outline
from tasks.visualisation.geojson.write import (
    CLASSES,
    DECIMALS,
    field_identity,
    object_id,
    points_of_cell,
)
from tasks.visualisation.overlay import Outline, pen_of

Row = Mapping[str, Any]
MOVED = 0.5  # pixels between corners; files are rounded
ABNORMAL = ": abnormal"  # what the machine adds to a class
SAME = (
    "source_uri", "source_id", "source_stamp", "slide_id", "patient_id", "acquired_at", "level",
    "scale",
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A cell as slidewatch knows it: its rows of the report and of the manifest."""

    told: Row
    listed: Row

    @property
    def points(self) -> Outline:
        """Return its corners (n, 2), where `write` puts them."""
        return points_of_cell(self.told, self.listed["outline"])


@dataclass
class Changes:
    """Collect verdicts of a person by cell, and rows of a manifest for outlines.

    ``verdicts`` are the numbers of objects, the rows of their cells, and what they are.
    ``outlines`` are of cells that were moved, and of new ones; a label is a class of the model.
    """

    verdicts: list[tuple[int, Row, str]] = field(default_factory=list)
    outlines: list[dict[str, Any]] = field(default_factory=list)
    moved: int = 0
    as_written: int = 0


class _Cells:
    """The cells that were written, and which of them lies nearest to an outline."""

    def __init__(self, cells: Mapping[str, Written]) -> None:
        self._by_id, self._all = cells, list(cells.values())
        places = [(cell.told["x"], cell.told["y"]) for cell in self._all]
        self._places = np.array(places, np.float64).reshape(-1, 2)

    def find(self, identifier: str) -> Written | None:
        """Return the cell of an object; None where it is new."""
        return self._by_id.get(identifier)

    def nearest(self, points: Outline) -> Written:
        """Return the cell nearest to an outline (n, 2)."""
        if not self._all:
            raise ValueError(
                "it is new, and there is no other cell to take the magnification from: export some "
                "cells of the field too"
            )
        apart = np.hypot(*(self._places - points.mean(axis=0)).T)
        return self._all[int(np.argmin(apart))]


def find_changes(
    objects: Sequence[Drawn],
    cells: Mapping[str, Written],
    fields: Sequence[Row],
    classes: Sequence[str],
) -> Changes:
    """Compare objects with the cells and fields that were written.

    An unchanged class is no answer, because nobody may have looked. Cells are those of the
    photograph or slide by the identifier of their objects, and ``fields`` its rows of the report on
    fields.

    Raises:
        VerdictError: a class is unknown, or an outline is none of a cell in a field.
    """
    found = Changes()
    own = {object_id(field_identity(row)) for row in fields}
    known = _Cells(cells)
    problems: list[str] = []
    for each in objects:
        if each.id in own:
            continue
        try:
            _add(found, each, known, fields, classes)
        except ValueError as error:
            problems.append(f"object {each.number}: {error}")
    refuse(problems, "nothing was imported")
    return found


def _add(
    found: Changes,
    each: Drawn,
    cells: _Cells,
    fields: Sequence[Row],
    classes: Sequence[str],
) -> None:
    """Add one object to the changes; ValueError says why it cannot be used."""
    cell = cells.find(each.id)
    said = None
    if each.name is not None and not (cell and each.name == CLASSES[pen_of(cell.told)][0]):
        said = verdict_of(each.name, classes)
    if cell is not None and not is_moved(each.points, cell.points):
        if said is None:
            found.as_written += 1
        else:
            found.verdicts.append((each.number, cell.told, said))
        return
    check_outline(each.points)
    found.moved += cell is not None
    like = cell or cells.nearest(each.points)
    found.outlines.append(_listed(each.points, like, cell is None, fields, said, classes))


def verdict_of(name: str, classes: Sequence[str]) -> str:
    """Read the name of a class as an answer: a word, its key, or the machine's name for it.

    >>> verdict_of("White cell", ("Parasitized", "Uninfected"))
    'white cell'
    >>> verdict_of("u", ("Parasitized", "Uninfected"))
    'Uninfected'

    Raises:
        ValueError: it is none of these.
    """
    words = sayable(classes)
    known = {word.lower(): word for word in words} | dict(zip(KEYS, words, strict=False))
    others = [each for each in classes if each != PARASITIZED]
    if len(others) == 1:
        known[f"not {PARASITIZED.lower()}"] = others[0]
    verdict = known.get(name.strip().lower().removesuffix(ABNORMAL))
    if verdict is None:
        raise ValueError(
            f"no answer is called {name[:60]!r}; there are {', '.join(words)}, and the keys "
            f"{' '.join(KEYS)}"
        )
    return verdict


def is_moved(points: Outline, written: Outline) -> bool:
    """Return whether corners (n, 2) differ from those (m, 2) that were written."""
    if points.shape == written.shape and np.allclose(points, written, atol=10**-DECIMALS):
        return False
    between = np.linalg.norm(points[:, None] - written[None], axis=2)
    return bool(max(between.min(axis=0).max(), between.min(axis=1).max()) > MOVED)


def _listed(
    points: Outline,
    like: Written,
    new: bool,
    fields: Sequence[Row],
    said: str | None,
    classes: Sequence[str],
) -> dict[str, Any]:
    """Make the row of a manifest of an outline, at the magnification of another cell."""
    listed = like.listed
    inner = points - 0.5  # see `points_of_cell`
    around = _field_of(points, fields)
    scale = listed["scale"] or 1.0
    if new:  # a person draws along the edge, but cells are cut out with a rim
        inner = np.asarray(with_rim(inner, scale), np.float64)
    right = max(row["x"] + row["width"] for row in fields if row["x"] is not None)
    bottom = max(row["y"] + row["height"] for row in fields if row["x"] is not None)
    box: Box = box_around(inner, (right, bottom))
    x, y, width, height = box
    inside = around["x"] < x and around["y"] < y
    kind = CellKind.WHITE if said == WHITE else CellKind.RED
    return {
        **{name: listed[name] for name in SAME},
        **dict(zip(("x", "y", "width", "height"), box, strict=True)),
        "uri": address_of(listed["source_uri"], Region(*box, listed["level"] or 0)),
        "outline": (inner - box[:2]).ravel().tolist(),
        "kind": listed["kind"] if said is None and not new else kind.value,
        "touches_border": not (
            inside
            and x + width < around["x"] + around["width"]
            and y + height < around["y"] + around["height"]
        ),
        "label": said if said in classes else None,
    }


def _field_of(points: Outline, fields: Sequence[Row]) -> Row:
    """Find the field in which the middle of an outline lies."""
    x, y = (points.min(axis=0) + points.max(axis=0)) / 2
    for row in fields:
        if row["x"] is None:
            continue
        if 0 <= x - row["x"] < row["width"] and 0 <= y - row["y"] < row["height"]:
            return row
    raise ValueError(f"its outline lies at {x:.6g}, {y:.6g}, outside all fields")
