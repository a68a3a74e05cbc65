"""The cells behind a patient's count are found, whatever parts their rows come in."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.reports.image_columns import STRANGEST
from tasks.smears.reports.called_cells import CalledCells, patient_of

N = 400


def rows_of(n: int = N) -> pa.Table:
    rng = np.random.default_rng(0)
    chance = rng.uniform(0, 1, n).astype(np.float32)
    return pa.table(
        {
            "image_id": [f"{i % (n - 10):064x}" for i in range(n)],  # the last ten are copies
            "uri": [f"{i}.png" for i in range(n)],
            "slide_id": [f"s{i % 8}" for i in range(n)],
            "patient_id": [None if i % 8 == 7 else f"p{i % 8 // 2}" for i in range(n)],
            "status": ["failed" if i % 50 == 49 else "scored" for i in range(n)],
            "abnormality": np.where(np.arange(n) % 20 == 3, 2 * STRANGEST, 0),
            "abnormal": [i % 20 == 3 for i in range(n)],
            "review_reason": pa.nulls(n, pa.string()),
            "kind": ["white" if i % 33 == 5 else "red" for i in range(n)],
            "probability_Parasitized": np.concatenate([chance[:-10], chance[:10]]),
        }
    )


CALLED = {(None, "p0"): 5, (None, "p1"): 0, ("s7", None): 2}


@pytest.mark.parametrize("length", [7, 64, N])
def test_they_are_the_most_probable_and_as_many_of_those_read_as_were_called(length: int) -> None:
    rows = rows_of()
    found = CalledCells(CALLED, {"s1"}, most=6, least=3)
    for start in range(0, N, 2 * length):
        found.count(rows.slice(start, length))
        others = found.empty()
        others.count(rows.slice(start + length, length))
        found.add(others)
    for patient, called in CALLED.items():
        expected = [
            row
            for row in rows.slice(0, N - 10).to_pylist()
            if patient_of(row) == patient and (row["status"], row["kind"]) == ("scored", "red")
        ]
        expected.sort(key=lambda row: -row["probability_Parasitized"])
        read = [row for row in expected if row["slide_id"] != "s1" and row["abnormality"] == 0]
        shown = found.of(patient)
        assert [row["image_id"] for row in shown[:3]] == [row["image_id"] for row in expected[:3]]
        assert [row["image_id"] for row in shown if row["called"]] == [
            row["image_id"] for row in read[:called]
        ]
        for row in shown:
            strange = "unlike its slide" if row["abnormality"] else None
            assert row["aside"] == ("slide is unreadable" if row["slide_id"] == "s1" else strange)
    assert found.of((None, "p3")) == []


def test_no_more_are_kept_than_wanted() -> None:
    found = CalledCells({(None, "p0"): 90}, (), most=6)
    found.count(rows_of())
    assert len(found.of((None, "p0"))) == 6


def test_rows_without_such_a_class_have_none() -> None:
    found = CalledCells(CALLED, (), most=6)
    found.count(rows_of().drop_columns(["probability_Parasitized"]))
    assert found.of((None, "p0")) == []
