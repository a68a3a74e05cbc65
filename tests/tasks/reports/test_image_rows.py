from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import false_discovery_control

from tasks.detector.detector import Scores
from tasks.detector.verdict import VerdictRule
from tasks.images.manifest import SCHEMA
from tasks.reports.image_rows import PIECE, SHAPE, Diagnoses, ImagesRead, QValues, image_rows
from tests.support import cell_rows
from tests.support.cell_rows import MADE_BY

CLASSES, TAPS = ["Parasitized", "Uninfected"], ["blocks.2", "blocks.3"]
ALPHA, UNCERTAIN_BELOW = 0.05, 0.8
NAMES: dict[str, Any] = cell_rows.NAMES | {"scored_at": MADE_BY.scored_at}
UNREADABLE = {1: "unreadable: FileNotFoundError"}
ODD = ["s3://b/a b%20ü✓.png", "", "quote \"', comma, \n\t<b>&amp;", "\\\\host\\c$\\image.png"]


def manifest(n: int, cut: list[bool | None] | None, kind: str) -> pa.Table:
    files = [
        {
            "uri": (ODD * n)[row],
            "slide_id": f"slide {row}",
            "patient_id": f"patient {row}",
            "size": row,
        }
        for row in range(n)
    ]
    if cut is not None:
        files = [
            file | {"touches_border": c, "kind": kind} for file, c in zip(files, cut, strict=True)
        ]
    made = pa.Table.from_pylist(files, SCHEMA)
    # Two chunks, as tables that were read in parts have.
    return pa.concat_tables([made.slice(0, n // 2), made.slice(n // 2)])


def rows(
    logits: list[list[float]],
    p: list[float],
    failures: dict[int, str] | None = None,
    temperature: float = 1.0,
    touches_border: list[bool | None] | None = None,
    kind: str = "red",
) -> pa.Table:
    n = len(p)
    return image_rows(
        manifest(n, touches_border, kind),
        ImagesRead(
            [f"{row:064x}" if row not in (failures or {}) else None for row in range(n)],
            np.arange(2 * n, dtype=np.int32).reshape(n, 2),
            np.arange(3 * n, dtype=np.float32).reshape(n, 3),
            failures or {},
        ),
        Diagnoses(
            CLASSES,
            np.array(logits, np.float32).reshape(n, 2),
            temperature,
            np.full(n, -1, np.int8),
        ),
        Scores(
            np.arange(2.0 * n).reshape(n, 2),
            np.arange(float(n)),
            np.array(p),
            population_p_value=np.array(p) / 2,
            compared_with=np.full(n, "slide", object),
            unlike=np.zeros(n, bool),
        ),
        taps=TAPS,
        rule=VerdictRule(ALPHA, UNCERTAIN_BELOW),
        made_by=MADE_BY,
    )


SURE, UNSURE, UNKNOWN = [-3.0, 3.0], [0.4, 0.0], [np.nan, np.nan]


@pytest.mark.parametrize(
    ("logits", "p", "failed", "verdict", "reason"),
    [
        (SURE, 0.5, False, "accept", None),
        (SURE, ALPHA, False, "review", "abnormal"),
        (UNSURE, 0.01, False, "review", "abnormal, uncertain"),
        (SURE, 0.5, True, "review", "failed"),
        (UNKNOWN, np.nan, True, "review", "failed"),
    ],
)
def test_only_what_is_sure_and_usual_is_accepted(
    logits: list[float], p: float, failed: bool, verdict: str, reason: str | None
) -> None:
    (row,) = rows([logits], [p], {0: "damaged: truncated"} if failed else None).to_pylist()
    assert (row["verdict"], row["review_reason"]) == (verdict, reason)
    assert row["abnormal"] is (not failed and p <= ALPHA)
    assert row["status"] == ("failed" if failed else "scored")
    assert row["failure"] == ("damaged: truncated" if failed else None)


def test_a_failed_row_keeps_its_place_and_knows_nothing_of_the_image() -> None:
    table = rows([SURE] * 3, [0.5] * 3, UNREADABLE)
    known = {"uri", "slide_id", "patient_id", "status", "failure", "verdict", "review_reason"}
    known |= {"abnormal"}  # false, so that it selects rows
    good, failed, _ = table.to_pylist()
    assert {name for name, value in failed.items() if value is not None} == known | set(NAMES)
    alone = {"network_probability", "statistics_probability"}  # of two witnesses
    unknown = {"label", "acquired_at", "failure", "review_reason", *alone, *PIECE, *SHAPE}
    unknown |= {"log_odds", "steady"}  # no such class was given, and nobody looked
    assert {name for name, value in good.items() if value is None} == unknown
    assert table["slide_id"].to_pylist() == ["slide 0", "slide 1", "slide 2"]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_the_columns_are_those_of_classes_and_taps_however_many_rows(n: int) -> None:
    table = rows([SURE] * n, [0.5] * n)
    assert table.num_rows == n
    assert table.column_names == [
        *("image_id", "uri", "label", "slide_id", "patient_id", "acquired_at"),
        *PIECE,
        *SHAPE,
        *("width", "height", "red", "green", "blue", "status", "failure", "diagnosis"),
        *("probability_Parasitized", "probability_Uninfected"),
        *("log_odds", "network_probability", "statistics_probability", "steady"),
        *("distance_blocks.2", "distance_blocks.3"),
        *("abnormality", "p_value", "population_p_value", "compared_with"),
        *("abnormal", "verdict", "review_reason"),
        *NAMES,
    ]
    assert not n or table.schema == rows([SURE], [0.5]).schema


def test_values_stand_in_the_columns_that_are_named_after_them() -> None:
    table = rows([SURE, UNSURE], [0.5, 0.25])
    expected = {
        "image_id": ["0" * 64, "0" * 63 + "1"],
        "diagnosis": ["Uninfected", "Parasitized"],
        "width": [0, 2],
        "height": [1, 3],
        "distance_blocks.2": [0.0, 2.0],
        "distance_blocks.3": [1.0, 3.0],
        "abnormality": [0.0, 1.0],
        "p_value": [0.5, 0.25],
        "population_p_value": [0.25, 0.125],
        "compared_with": ["slide", "slide"],
        "model": ["m", "m"],
        "scored_at": [NAMES["scored_at"]] * 2,
    }
    assert table.select(list(expected)).to_pydict() == expected


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_probabilities_are_the_softmax_of_logits_over_the_temperature(temperature: float) -> None:
    logits = [[1.0, -2.0], [0.0, 0.5], [300.0, -300.0]]
    table = rows(logits, [0.5] * 3, temperature=temperature)
    found = np.stack([table[f"probability_{name}"].to_numpy() for name in CLASSES], axis=1)
    first = [1 / (1 + np.exp((b - a) / temperature)) for a, b in logits]
    assert_allclose(found[:, 0], first, rtol=1e-6)
    assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_odd_characters_in_a_uri_survive() -> None:
    assert rows([SURE] * 4, [0.5] * 4)["uri"].to_pylist() == ODD


@given(st.lists(st.one_of(st.just(np.nan), st.integers(1, 20).map(lambda k: k / 20))))
def test_q_values_are_benjamini_and_hochbergs_among_scored_images(values: list[float]) -> None:
    p = np.array(values, float)
    night = QValues()
    for part in (p[:3], p[3:]):
        night.add(part)
    found = night.of(p)
    assert_array_equal(np.isnan(found), np.isnan(p))
    known = p[~np.isnan(p)]
    assert_array_equal(found[~np.isnan(p)], false_discovery_control(known) if len(known) else known)


def test_a_cell_that_the_border_cuts_is_diagnosed_but_has_no_abnormality() -> None:
    table = rows([SURE] * 3, [0.001] * 3, touches_border=[True, False, None])
    cut, whole, file = table.to_pylist()
    assert (cut["abnormal"], whole["abnormal"]) == (False, True)
    for name in ("abnormality", "p_value", "distance_blocks.2"):
        assert cut[name] is None
        assert whole[name] is not None
        assert file[name] is not None
    assert cut["diagnosis"] == whole["diagnosis"]
    assert (cut["status"], cut["verdict"]) == ("scored", "accept")
    assert whole["verdict"] == "review"
    (white,) = rows([SURE], [0.001], touches_border=[True], kind="white").to_pylist()
    assert white["abnormal"]
