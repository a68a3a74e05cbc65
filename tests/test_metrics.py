import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, recall_score, roc_auc_score

from tasks.metrics import (
    accuracy,
    auroc,
    patient_bootstrap,
    sensitivity,
    specificity,
    tnr_at_tpr,
)

# Both sides have an image, and small whole scores make ties.
SIDES = st.integers(2, 25).flatmap(
    lambda n: st.tuples(
        arrays(bool, n).filter(lambda side: bool(side.any()) and not side.all()),
        arrays(np.float64, n, elements=st.integers(-4, 4)),
    )
)


@given(SIDES)
def test_diagnosis_metrics_equal_scikit_learn(sides: tuple[NDArray, NDArray]) -> None:
    truth, predicted = sides[0], sides[1] > 0
    assert accuracy(truth, predicted) == pytest.approx(accuracy_score(truth, predicted))
    assert sensitivity(truth, predicted) == pytest.approx(recall_score(truth, predicted))
    expected = recall_score(truth, predicted, pos_label=False)
    assert specificity(truth, predicted) == pytest.approx(expected)


@given(SIDES)
def test_auroc_is_the_chance_that_a_positive_scores_higher(sides: tuple[NDArray, NDArray]) -> None:
    positive, scores = sides
    ahead = scores[positive][:, None] - scores[~positive]
    assert auroc(positive, scores) == pytest.approx(((ahead > 0) + (ahead == 0) / 2).mean())
    assert auroc(positive, scores) == pytest.approx(roc_auc_score(positive, scores))


def test_scores_that_are_all_tied_tell_nothing_apart() -> None:
    positive, tied = np.arange(10) < 3, np.ones(10)
    assert auroc(positive, tied) == 0.5
    assert tnr_at_tpr(positive, tied) == 0.0


@given(SIDES, st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]))
def test_tnr_at_tpr_is_the_best_of_all_thresholds_that_find_enough(
    sides: tuple[NDArray, NDArray], tpr: float
) -> None:
    positive, scores = sides
    rates = [
        (np.mean(scores[positive] >= at), np.mean(scores[~positive] < at)) for at in set(scores)
    ]
    expected = max(tnr for found, tnr in rates if found >= tpr)
    assert tnr_at_tpr(positive, scores, tpr) == pytest.approx(expected)


def test_a_threshold_finds_95_percent_by_default() -> None:
    positive = np.arange(40) < 20
    scores = np.where(positive, np.arange(40), 0.5)  # one positive, of 20, is below the negatives
    assert tnr_at_tpr(positive, scores) == 1.0
    assert tnr_at_tpr(positive, scores, 0.96) == 0.0


def test_every_threshold_counts_also_where_the_curve_is_straight() -> None:
    positive, scores = np.arange(8) % 2 == 0, np.arange(8) // 2
    assert tnr_at_tpr(positive, scores, 0.5) == 0.5


@pytest.mark.parametrize("side", [True, False])
def test_what_needs_both_sides_is_nan_where_one_is_empty(side: bool) -> None:
    positive, scores = np.full(4, side), np.arange(4.0)
    assert math.isnan(auroc(positive, scores))
    assert math.isnan(tnr_at_tpr(positive, scores))
    assert math.isnan(specificity(positive, positive)) == side
    assert math.isnan(sensitivity(positive, positive)) != side


PATIENTS = np.repeat(np.arange(20), 15)


def test_an_interval_is_that_of_the_percentiles_over_resampled_patients() -> None:
    found = patient_bootstrap(lambda rows: PATIENTS[rows].mean(), PATIENTS, repeats=4000)
    rng = np.random.default_rng(1)
    means = rng.integers(0, 20, (4000, 20)).mean(axis=1)  # all have the same number of cells
    assert found.value == 9.5
    assert found[1:] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.3)


def test_an_interval_holds_its_value_and_is_wider_where_cells_of_a_patient_agree() -> None:
    right = np.random.default_rng(0).random(20)[PATIENTS] < 0.6
    by_patient = patient_bootstrap(lambda rows: float(right[rows].mean()), PATIENTS)
    by_image = patient_bootstrap(lambda rows: float(right[rows].mean()), np.arange(300))
    for found in (by_patient, by_image):
        assert found.low < found.value < found.high
    # 15 cells that agree are worth one: the interval is about the square root of 15 wider.
    ratio = (by_patient.high - by_patient.low) / (by_image.high - by_image.low)
    assert ratio == pytest.approx(np.sqrt(15), rel=0.15)


def test_patients_keep_all_their_cells_together() -> None:
    patients = np.array([3, 1, 3, 2, 1, 3])

    def whole(rows: NDArray[np.intp]) -> float:
        drawn = np.bincount(rows, minlength=6)
        return float(all(len(set(drawn[patients == p])) == 1 for p in (1, 2, 3)))

    assert patient_bootstrap(whole, patients, repeats=50) == (1.0, 1.0, 1.0)


def test_an_interval_depends_on_its_seed_alone() -> None:
    values = np.random.default_rng(2).normal(size=300)
    first, again, other = (
        patient_bootstrap(lambda rows: float(values[rows].mean()), PATIENTS, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first[1:] != other[1:]


def test_resamples_without_a_value_are_left_out_of_an_interval() -> None:
    positive, scores = PATIENTS == 0, np.arange(300.0)  # most draws of so rare a side have none
    found = patient_bootstrap(lambda rows: auroc(positive[rows], scores[rows]), PATIENTS)
    assert found == (0.0, 0.0, 0.0)
    none = patient_bootstrap(lambda rows: math.nan, PATIENTS, repeats=5)
    assert all(math.isnan(bound) for bound in none)
