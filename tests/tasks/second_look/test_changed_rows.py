import numpy as np
import pyarrow as pa
import pytest

from tasks.detector.verdict import VerdictRule
from tasks.second_look.changed_rows import BEYOND, MADE, Looked, with_second_look

CLASSES = ("a", "b")
RULE = VerdictRule(0.05, 0.8)


@pytest.fixture
def rows() -> pa.Table:
    """An accepted image, an abnormal and an uncertain one, one that failed, and an abnormal one."""
    a = [0.9, 0.99, 0.55, None, 0.95]
    return pa.table({
        "probability_a": pa.array(a, pa.float32()),
        "probability_b": pa.array([None if p is None else 1 - p for p in a], pa.float32()),
        "diagnosis": ["a", "a", "a", None, "a"],
        "abnormal": [False, True, False, None, True],
        "status": ["scored", "scored", "scored", "failed", "scored"],
        "verdict": ["accept", "review", "review", "review", "review"],
        "review_reason": [None, "abnormal", "uncertain", "failed", "abnormal"],
    })  # fmt: skip


@pytest.fixture
def looked() -> Looked:
    nothing = np.full(2, np.nan)
    return Looked(
        np.asarray([1, 2, 4]),
        [MADE, MADE, "unreadable: it is gone"],
        np.asarray([[0.7, 0.3], [0.05, 0.95], nothing]),
        np.asarray([4.5, -0.5, np.nan]),
        np.asarray([True, False, False]),
    )


def test_the_first_figures_stand_beside_the_second(rows: pa.Table, looked: Looked) -> None:
    found = with_second_look(rows, CLASSES, RULE, looked)
    for name in CLASSES:
        first = found[f"first_probability_{name}"]
        assert first.equals(rows[f"probability_{name}"])
    assert found["probability_a"].to_pylist() == pytest.approx([0.9, 0.7, 0.05, None, 0.95])
    assert found["diagnosis"].to_pylist() == ["a", "a", "b", None, "a"]
    assert found["stability"].to_pylist() == [None, 4.5, -0.5, None, None]
    assert found["unstable"].to_pylist() == [None, True, False, None, None]
    assert found["second_look"].to_pylist() == [None, MADE, MADE, None, "unreadable: it is gone"]


def test_no_image_leaves_review_and_reasons_grow_alone(rows: pa.Table, looked: Looked) -> None:
    found = with_second_look(rows, CLASSES, RULE, looked)
    assert found["verdict"].equals(rows["verdict"])
    assert found["abnormal"].equals(rows["abnormal"])
    reasons = [None, "abnormal, uncertain, unstable", "uncertain", "failed", "abnormal"]
    assert found["review_reason"].to_pylist() == reasons


def test_an_image_beyond_the_share_says_so(rows: pa.Table, looked: Looked) -> None:
    found = with_second_look(rows, CLASSES, RULE, looked.within(0, 2))
    assert found["second_look"].to_pylist() == [None, MADE, BEYOND, None, BEYOND]


def test_a_detector_that_cannot_look_twice_leaves_all_as_it_is(rows: pa.Table) -> None:
    found = with_second_look(rows, CLASSES, RULE, None)
    assert found.select(rows.column_names).equals(rows)
    for name in ("stability", "unstable", "second_look"):
        assert found[name].null_count == rows.num_rows
    assert found["first_probability_a"].equals(rows["probability_a"])


def test_what_was_found_is_kept_in_a_table(looked: Looked) -> None:
    again = Looked.from_table(looked.to_table(CLASSES), CLASSES)
    for name, values in vars(looked).items():
        np.testing.assert_array_equal(getattr(again, name), values)
    assert again.within(2, 5).rows.tolist() == [0, 2]
    nothing = again.within(3, 4)
    assert Looked.from_table(nothing.to_table(CLASSES), CLASSES).rows.tolist() == []
