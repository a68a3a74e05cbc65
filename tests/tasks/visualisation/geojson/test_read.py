"""GeoJSON that a person, or nobody in their right mind, has written."""

import json
from typing import Any

import numpy as np
import pytest

from tasks.readers.verdicts import VerdictError
from tasks.visualisation.geojson.changes import is_moved, verdict_of
from tasks.visualisation.geojson.read import (
    MOST_BYTES,
    MOST_POINTS,
    check_outline,
    crosses_itself,
    read_objects,
    refuse_large,
)

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
CLASSES = ("Parasitized", "Uninfected")


def collection(**feature: Any) -> bytes:
    made = {
        "type": "Feature",
        "id": "a",
        "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
        "properties": {"classification": {"name": "p"}},
    }
    return json.dumps({"type": "FeatureCollection", "features": [made | feature]}).encode()


def ring(*points: Any) -> dict[str, Any]:
    return {"geometry": {"type": "Polygon", "coordinates": [list(points)]}}


def test_an_object_is_its_class_and_its_corners() -> None:
    (found,) = read_objects(collection())
    assert (found.number, found.id, found.name) == (1, "a", "p")
    assert found.points.tolist() == SQUARE[:-1]
    (bare,) = read_objects(collection(properties=None, id=None))
    assert (bare.id, bare.name) == ("", None)


def test_what_qupath_adds_to_an_object_is_no_hindrance() -> None:
    properties = {
        "objectType": "cell", "name": "17", "color": [200, 0, 0], "isLocked": True,
        "classification": {"names": ["Parasitized", "abnormal"], "color": [255, 0, 0]},
        "measurements": {"Area": 81.5, "Nucleus": float("nan"), "Ratio": "Infinity"},
        "metadata": {"note": "seen"},
    }  # fmt: skip
    plane = {"c": -1, "z": 0, "t": 0}
    geometry = {"type": "Polygon", "coordinates": [SQUARE], "plane": plane}
    nucleus = {"type": "Polygon", "coordinates": [SQUARE]}
    (found,) = read_objects(
        collection(properties=properties, geometry=geometry, nucleusGeometry=nucleus)
    )
    assert found.name == "Parasitized: abnormal"
    assert verdict_of(found.name, CLASSES) == "Parasitized"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"", "not JSON"),
        (b"{" * 100_000, "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "Export as FeatureCollection"),
        (b'{"type": "Feature"}', "Export as FeatureCollection"),
        (b'{"type": "FeatureCollection", "features": 7}', "Export as FeatureCollection"),
        (b'{"type": "FeatureCollection", "features": [7]}', "object 1: it has no geometry"),
        (collection(geometry=None), "object 1: it has no geometry"),
        (collection(geometry={"type": "MultiPolygon"}), "MultiPolygon, not Polygon"),
        (collection(geometry={"type": "Polygon", "coordinates": [SQUARE, SQUARE]}), "has holes"),
        (collection(**ring([0, 0], [1, 1], [0, 0])), "fewer than 3"),
        (collection(**ring(*[[0, 0]] * (MOST_POINTS + 1))), "more than 2,000 points"),
        (collection(**ring(*SQUARE[:3], ["x", "y"])), "without x and y"),
        (collection(**ring(*SQUARE[:3], [1])), "without x and y"),
        (collection(**ring(*SQUARE[:3], [float("nan"), 1])), "without x and y"),
        (collection(**ring(*SQUARE[:3], [float("inf"), 1])), "without x and y"),
        (collection(**ring(*SQUARE[:3], [777, 1])).replace(b"777", b"1e999"), "without x and y"),
        (collection(**ring(*SQUARE[:3], [1e308, 1])), r"a point at 1e\+308, but no slide has more"),
        (
            collection(**ring(*SQUARE[:3], [-1e308, 1])),
            r"a point at 1e\+308, but no slide has more",
        ),
        (collection(**ring(*SQUARE[:3], [10**400, 1])), "without x and y"),
        (collection(properties={"classification": {"name": 7}}), "its class is not text"),
        (collection(properties={"classification": {"names": ["p", 7]}}), "its class is not text"),
        (collection(properties={"classification": "p"}), "object 1"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(content: bytes, said: str) -> None:
    with pytest.raises(VerdictError, match=said) as caught:
        read_objects(content)
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_an_object_that_comes_twice_is_named() -> None:
    found = json.loads(collection())
    found["features"] *= 2
    with pytest.raises(VerdictError, match="object 2 has the identifier of object 1"):
        read_objects(json.dumps(found).encode())


def test_a_huge_file_is_not_read() -> None:
    refuse_large(MOST_BYTES)
    with pytest.raises(VerdictError, match="select the objects of some fields"):
        refuse_large(MOST_BYTES + 1)


def test_outlines_that_cross_themselves_or_are_empty_are_no_cells() -> None:
    square = np.array(SQUARE[:-1], float)
    check_outline(square)
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    assert not crosses_itself(np.column_stack([np.cos(angles), np.sin(angles)]))
    with pytest.raises(ValueError, match="crosses itself"):
        check_outline(square[[0, 2, 1, 3]])
    with pytest.raises(ValueError, match=r"encloses 1\.0 pixels"):
        check_outline(square / 10)
    with pytest.raises(ValueError, match="is 20,000 pixels long, but no cell is over 2,000"):
        check_outline(square * [2000, 1])


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("p", "Parasitized"),
        ("U", "Uninfected"),
        ("w", "white cell"),
        ("o", "other"),
        ("?", "unsure"),
        ("parasitized", "Parasitized"),
        ("Parasitized: abnormal", "Parasitized"),
        ("Not parasitized", "Uninfected"),
        (" White cell: abnormal", "white cell"),
        ("Other", "other"),
    ],
)
def test_a_class_is_a_verdict_by_its_word_or_key(name: str, verdict: str) -> None:
    assert verdict_of(name, CLASSES) == verdict


def test_an_unknown_class_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="no answer is called 'Tumour'; there are Parasitized"):
        verdict_of("Tumour", CLASSES)


def test_an_outline_is_moved_when_a_corner_is_not_merely_when_it_is_written_otherwise() -> None:
    square = np.array(SQUARE[:-1], float)
    assert not is_moved(np.roll(square, 1, axis=0)[::-1] + 0.04, square)
    assert is_moved(square + 1, square)
    assert is_moved(square[:3], square)
