import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from geojson_pydantic import Feature, FeatureCollection, Polygon
from skimage.draw import polygon2mask

from tasks.smears.visualisation.geojson import (
    CLASSES,
    cell_feature,
    feature_collection,
    field_feature,
)
from tasks.smears.visualisation.overlay import COLOURS, Pen

EVIL = '"},{"\\n</script>: Ünïcode\u2028'


def cell(number: int = 0, **other: Any) -> dict[str, Any]:
    row = {
        "uri": f"/slides/a.svs#{number}",
        **{"x": 1000 + 90 * number, "y": 500, "width": 61, "height": 61},
        **{"status": "scored", "failure": None, "diagnosis": "Uninfected", "kind": "red"},
        **{"probability_Parasitized": 0.1, "distance_block2": 12.5, "abnormality": 0.3},
        **{"p_value": 0.4, "q_value": float("nan"), "abnormal": False},
        **{"verdict": "accept", "review_reason": None},
    }
    return row | other


def outline(radius: float = 30.0, turn: int = 1) -> list[float]:
    angles = turn * np.linspace(0, 2 * np.pi, 48, endpoint=False)
    points = 30 + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return [float(value) for value in points.astype(np.float16).ravel()]


def field(**other: Any) -> dict[str, Any]:
    row = {
        "source_uri": "/slides/a.svs",
        **{"x": 1024, "y": 0, "width": 1024, "height": 512, "kind": "field"},
        **{"sharpness": 0.008, "overlap": None, "cells": 40, "parasitized": 2},
        "review_reason": None,
    }
    return row | other


def parsed(*pieces: Any, **given: Any) -> dict[str, Any]:
    content = b"".join(feature_collection(*pieces, **given))
    found: dict[str, Any] = json.loads(content)
    FeatureCollection[Feature[Polygon, dict[str, Any]]].model_validate_json(content)
    return found


def ring_of(feature: dict[str, Any]) -> np.ndarray:
    (ring,) = feature["geometry"]["coordinates"]
    return np.asarray(ring, np.float64)


def test_a_source_is_one_valid_collection_whatever_its_parts() -> None:
    rows = [cell(0), cell(1, abnormal=True), cell(2, kind="white"), cell(3, uri=EVIL)]
    rows.append(cell(4, status="failed", failure=EVIL, diagnosis=None, abnormal=None, width=None))
    table, outlines = pa.Table.from_pylist(rows), [outline()] * 5
    whole = parsed([(table, outlines)])
    cut = parsed(
        [(table.slice(0, 2), outlines[:2]), (table.slice(2), pa.array(outlines[2:]).to_pylist())]
    )
    assert whole == cut
    assert len(whole["features"]) == 5
    assert len({feature["id"] for feature in whole["features"]}) == 5
    assert whole["features"][3]["properties"]["metadata"]["uri"] == EVIL


@pytest.mark.parametrize("fields", [None, pa.Table.from_pylist([field()]).slice(0, 0)])
def test_nothing_is_a_collection_too(fields: pa.Table | None) -> None:
    assert parsed([], fields=fields) == {"type": "FeatureCollection", "features": []}


@pytest.mark.parametrize("turn", [1, -1])
def test_an_outline_is_a_closed_counterclockwise_ring_where_qupath_has_it(turn: int) -> None:
    feature = cell_feature(cell(), outline(turn=turn))
    ring = ring_of(feature)
    assert (ring[0] == ring[-1]).all()
    assert len(ring) == 49
    x, y = ring.T
    assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) > 0
    # The pixel in whose middle the cell lies is from 1030 to 1031, from 530 to 531.
    assert ring[:-1].mean(axis=0) == pytest.approx([1030.5, 530.5], abs=0.05)
    assert polygon2mask((1100, 1100), ring[:, ::-1] - 0.5).sum() == pytest.approx(
        np.pi * 900, rel=0.01
    )


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (cell(), "Not parasitized"),
        (cell(diagnosis="Parasitized"), "Parasitized"),
        (cell(diagnosis="Parasitized", abnormal=True), "Parasitized: abnormal"),
        (cell(kind="white", abnormal=True), "White cell: abnormal"),
        (cell(status="failed", diagnosis=None, abnormal=None), "Failed"),
    ],
)
def test_a_cell_has_the_class_of_its_diagnosis(row: dict[str, Any], name: str) -> None:
    properties = cell_feature(row, outline())["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"]["name"] == name
    assert all(0 <= level <= 255 for level in properties["classification"]["color"])


def test_every_pen_has_a_class_of_its_own_in_its_own_colour() -> None:
    assert {pen.name for pen in CLASSES} == set(COLOURS)
    assert len({colour for _, colour in CLASSES.values()}) == len(CLASSES)
    assert all(CLASSES[Pen(name)][1] == colour for name, colour in COLOURS.items())


def test_scores_are_measurements_and_texts_are_metadata() -> None:
    properties = cell_feature(cell(), outline())["properties"]
    assert properties["measurements"] == {
        "probability_Parasitized": 0.1,
        "distance_block2": 12.5,
        "abnormality": 0.3,
        "p_value": 0.4,
    }
    assert properties["metadata"] == {
        "uri": "/slides/a.svs#0",
        "diagnosis": "Uninfected",
        "verdict": "accept",
    }


def test_a_tile_without_an_outline_is_its_box() -> None:
    ring = ring_of(cell_feature(cell(kind="tile"), None))
    assert ring.tolist() == [[1000, 500], [1061, 500], [1061, 561], [1000, 561], [1000, 500]]
    failed = cell(kind="tile", status="failed", width=None, height=None)
    assert ring_of(cell_feature(failed, None)).max(axis=0).tolist() == [1001, 501]


def test_fields_are_annotations_before_the_cells() -> None:
    fields = [field(), field(x=2048, review_reason="dark"), field(x=0, kind="empty"), field(x=None)]
    found = parsed(
        [(pa.Table.from_pylist([cell()]), [outline()])], fields=pa.Table.from_pylist(fields)
    )
    kinds = [each["properties"]["objectType"] for each in found["features"]]
    assert kinds == ["annotation"] * 3 + ["detection"]
    names = [each["properties"]["classification"]["name"] for each in found["features"][:3]]
    assert names == ["Field", "Field: dark", "Field: empty"]
    first = found["features"][0]
    assert ring_of(first).max(axis=0).tolist() == [2048, 512]
    assert first["properties"]["measurements"] == {
        "sharpness": 0.008,
        "cells": 40,
        "parasitized": 2,
    }
    assert first["properties"]["isLocked"] is True
    assert field_feature(field(x=None)) is None
