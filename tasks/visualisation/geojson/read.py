"""Read GeoJSON that QuPath has written: outlines of objects, and the classes that they have."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.readers.verdicts import VerdictError, refuse
from tasks.types import Float
from tasks.visualisation.overlay import Outline

MOST_BYTES = 400_000_000  # about 300,000 cells; Python needs ten times as much memory
MOST_POINTS = 2_000  # of an outline; one that is drawn by hand has a hundred
LEAST_AREA = 9.0  # pixels
MOST_SIDE = 2_000  # pixels of a cell; a white one has some 400 at the highest magnification
FURTHEST = 10_000_000.0  # pixels from the corner of a slide; the largest ones have 300,000


@dataclass(frozen=True)
class Drawn:
    """An object of a file: its number in it, its identifier and class, and corners (n, 2)."""

    number: int
    id: str
    name: str | None
    points: Outline


def read_objects(content: bytes) -> list[Drawn]:
    """Read the objects of a file, in its order.

    Raises:
        VerdictError: it is no FeatureCollection, or objects in it are no simple outlines.
    """
    try:
        found: Any = json.loads(content)  # QuPath writes NaN for a measurement that is none
    except (ValueError, RecursionError) as error:
        raise VerdictError(f"it is not JSON ({error})") from None
    features = found.get("features") if isinstance(found, dict) else None
    if not isinstance(features, list) or found.get("type") != "FeatureCollection":
        raise VerdictError(
            "it is not a FeatureCollection: tick 'Export as FeatureCollection' in QuPath"
        )
    objects: list[Drawn] = []
    problems: list[str] = []
    for number, feature in enumerate(features, 1):
        try:
            objects.append(_object(number, feature))
        except (ValueError, AttributeError) as error:
            problems.append(f"object {number}: {error}")
    refuse(problems, "nothing was imported")
    _refuse_twice(objects)
    return objects


def refuse_large(size: int) -> None:
    """Raise VerdictError if a file of `size` bytes is too large to read."""
    if size > MOST_BYTES:
        raise VerdictError(
            f"it has {size / 1e6:,.0f} MB, more than {MOST_BYTES / 1e6:,.0f}: select the objects "
            "of some fields in QuPath, and export only these"
        )


def _object(number: int, feature: Any) -> Drawn:
    if not isinstance(feature, dict) or not isinstance(feature.get("geometry"), dict):
        raise ValueError("it has no geometry")
    geometry = feature["geometry"]
    if geometry.get("type") != "Polygon":
        raise ValueError(f"its geometry is {str(geometry.get('type'))[:40]}, not Polygon")
    rings = geometry.get("coordinates")
    if not isinstance(rings, list) or len(rings) != 1:
        raise ValueError("its outline has holes, or is empty")
    properties = feature.get("properties") or {}
    name = _class(properties.get("classification") or {})
    return Drawn(number, str(feature.get("id") or ""), name, _corners(rings[0]))


def _class(classification: Any) -> str | None:
    """Read a class; QuPath writes one that is derived of another as a list of names."""
    names = classification.get("names")
    name = classification.get("name") if names is None else names
    if isinstance(name, list) and all(isinstance(each, str) for each in name):
        return ": ".join(name)
    if name is not None and not isinstance(name, str):
        raise ValueError("its class is not text")
    return name


def _corners(ring: Any) -> Outline:
    """Read a ring as points (n, 2), the first of which does not come again."""
    if not isinstance(ring, list) or not 4 <= len(ring) <= MOST_POINTS:
        raise ValueError(f"its outline has fewer than 3 or more than {MOST_POINTS:,} points")
    try:
        points = np.array([[float(x), float(y)] for x, y, *_ in ring])
    except (ValueError, TypeError, OverflowError):
        raise ValueError("its outline has a point without x and y") from None
    if not np.isfinite(points).all():
        raise ValueError("its outline has a point without x and y")
    if (furthest := float(np.abs(points).max())) > FURTHEST:
        raise ValueError(
            f"its outline has a point at {furthest:.3g}, but no slide has more than "
            f"{FURTHEST:,.0f} pixels"
        )
    return np.asarray(points[:-1] if (points[0] == points[-1]).all() else points)


def check_outline(points: Outline) -> None:
    """Raise ValueError where an outline crosses itself, or encloses next to nothing."""
    x, y = points.T
    area = abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))) / 2
    if crosses_itself(points):
        raise ValueError("its outline crosses itself")
    if area < LEAST_AREA:
        raise ValueError(f"its outline encloses {area:.1f} pixels, too few for a cell")
    if (side := float(np.ptp(points, axis=0).max())) > MOST_SIDE:
        raise ValueError(
            f"its outline is {side:,.0f} pixels long, but no cell is over {MOST_SIDE:,}"
        )


def crosses_itself(points: Outline) -> bool:
    """Return whether two sides of a closed outline (n, 2) cross each other; O(n^2).

    Sides cross where each has the ends of the other on both its sides.
    """
    starts, ends = points, np.roll(points, -1, axis=0)
    one = _side(starts[:, None], ends[:, None], starts[None])
    two = _side(starts[:, None], ends[:, None], ends[None])
    apart = one * two < 0  # (n, n): the ends of the second side lie apart of the first
    return bool((apart & apart.T).any())


def _side(start: Float, end: Float, point: Float) -> Float:
    """Compute on which side of a line points lie, by the sign of a cross product."""
    along, to = end - start, point - start
    return np.asarray(np.sign(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0]))


def _refuse_twice(objects: Sequence[Drawn]) -> None:
    first: dict[str, int] = {}
    problems = [
        f"object {each.number} has the identifier of object {first[each.id]}"
        for each in objects
        if each.id and first.setdefault(each.id, each.number) != each.number
    ]
    refuse(problems, "nothing was imported")
