import numpy as np
import pyarrow as pa
import pytest

from tasks.detector.verdict import VerdictRule
from tasks.second_look.choice import Doubtful, columns, doubtful, most_looked_at, spread_over

RULE = VerdictRule(0.05, 0.8)
CLASSES = ("a", "b")


def rows_of(*cells: tuple[str | None, float | None, float]) -> pa.Table:
    """Image rows of cells: their slide, p-value and probability; None has failed or is cut."""
    p = np.asarray([np.nan if each[1] is None else each[1] for each in cells])
    chance = np.asarray([each[2] for each in cells])
    review = (p <= RULE.alpha) | (chance < RULE.uncertain_below)
    n = len(cells)
    return pa.table({
        "probability_a": chance, "probability_b": 1 - chance,
        "p_value": pa.array(p, mask=np.isnan(p)),
        "abnormality": pa.array(-np.log(p) + np.arange(n) / 100, mask=np.isnan(p)),
        "abnormal": p <= RULE.alpha,
        "review_reason": pa.array([None] * n, pa.string()),
        "verdict": np.where(review, "review", "accept"),
        "status": ["scored"] * n,
        "slide_id": pa.array([each[0] for each in cells], pa.string()),
        "patient_id": pa.array(["p"] * n, pa.string()),
    })  # fmt: skip


def found(rows: pa.Table, count: int = 100) -> list[int]:
    return doubtful(rows, CLASSES, RULE, part=0, start=0).first(count).rows.tolist()


def test_only_images_for_review_are_looked_at_and_failed_ones_are_not() -> None:
    rows = rows_of(("s", 0.5, 0.9), ("s", 0.01, 0.9), ("s", 0.5, 0.6), ("s", None, 0.5))
    assert sorted(found(rows)) == [1, 2, 3]
    place = rows.column_names.index("status")
    failed = rows.set_column(place, "status", pa.array(["scored", "failed", "scored", "scored"]))
    assert sorted(found(failed)) == [2, 3]
    assert set(columns(CLASSES)) == set(rows.column_names)


def test_every_slide_has_its_most_doubtful_images_before_any_has_another() -> None:
    foreign = [("far", 0.001, 0.9)] * 5
    rows = rows_of(*foreign, ("near", 0.04, 0.9), ("near", 0.02, 0.9), ("third", 0.5, 0.79))
    assert found(rows, 2) == [4, 6]  # of equal p-values, the highest abnormality
    assert found(rows, 5) == [4, 6, 7, 3, 5]
    assert len(found(rows)) == 8


def test_the_closest_diagnosis_of_a_slide_and_its_most_abnormal_image_come_together() -> None:
    rows = rows_of(
        ("s", 0.001, 0.99), ("s", 0.01, 0.95), ("s", 0.5, 0.7), ("s", 0.001, 0.55), ("s", 0.5, 0.6)
    )
    assert found(rows, 2) == [0, 3]
    assert sorted(found(rows, 4)) == [0, 1, 3, 4]


def test_slides_of_one_name_are_their_patients_own() -> None:
    rows = rows_of(*[("1", 0.001, 0.9)] * 3, ("1", 0.04, 0.9))
    place = rows.column_names.index("patient_id")
    rows = rows.set_column(place, "patient_id", pa.array(["p", "p", "p", None], pa.string()))
    assert found(rows, 2) == [2, 3]


def test_a_choice_does_not_depend_on_how_parts_are_joined() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for part in range(6):
        cells = [(f"{part}-{rng.integers(3)}", rng.choice([0.001, 0.03, 0.6]), rng.random())
                 for _ in range(40)]  # fmt: skip
        parts.append(doubtful(rows_of(*cells), CLASSES, RULE, part=part, start=40 * part))
    whole = parts[0]
    kept = parts[0].first(30)
    for part in parts[1:]:
        whole, kept = whole.beside(part), kept.beside(part).first(30)
    assert kept.rows.tolist() == whole.first(30).rows.tolist()
    rows = np.concatenate([kept.of_part(part) for part in range(6)])
    assert sorted(rows) == sorted(kept.rows)
    assert all((kept.of_part(part) // 40 == part).all() for part in range(6))


def test_cells_that_the_border_cuts_are_chosen_by_their_diagnosis() -> None:
    rows = rows_of(("s", None, 0.6), ("s", 0.5, 0.7), ("s", None, 0.9))
    assert found(rows) == [0, 1]
    assert found(rows_of(("s", None, 0.79), ("s", 0.04, 0.9)), 1) == [1]


@pytest.mark.parametrize(("images", "most"), [(0, 64), (1600, 64), (1625, 65), (10**6, 40_000)])
def test_a_share_of_the_night_is_looked_at_twice(images: int, most: int) -> None:
    assert most_looked_at(images) == most


def test_a_part_without_doubt_has_none() -> None:
    none = doubtful(rows_of(("s", 0.5, 0.9)), CLASSES, RULE, part=0, start=0)
    assert isinstance(none, Doubtful)
    assert not len(none.first(9).rows)


def test_rows_are_spread_over_groups_and_within_them() -> None:
    groups = np.repeat([3, 1, 2], [100, 4, 60])
    rows = spread_over(groups, 44)
    assert np.bincount(groups[rows])[1:].tolist() == [4, 20, 20]
    assert np.diff(rows[:20]).max() <= 6
    assert (rows[0], rows[19]) == (0, 99)
    assert spread_over(groups, 1000).tolist() == list(range(164))
    assert len(spread_over(np.arange(50), 20)) == 20
    assert not len(spread_over(np.zeros(0, int), 20))
