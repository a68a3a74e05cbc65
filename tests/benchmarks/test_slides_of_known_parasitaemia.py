"""Slides composed of made-up patients: what is measured of them, and that nobody judges himself."""

import numpy as np
import pytest

from tasks.detector.error_counts import ErrorCounts, count_errors
from tests.benchmarks.slides_of_known_parasitaemia import SHARES, SIZES, compose, folds, measured


def counts() -> ErrorCounts:
    """20 patients of 200 healthy cells each, 12 of them with 100 parasites too."""
    rng = np.random.default_rng(3)
    log_odds, parasitized, patients = [], [], []
    for number in range(20):
        shift = rng.normal(0, 0.5)
        parasites = 100 if number < 12 else 0
        log_odds += [rng.normal(-5, 2, 200) + shift, rng.normal(5, 2, parasites) + shift]
        parasitized += [np.zeros(200, bool), np.ones(parasites, bool)]
        patients += [f"p{number:02d}"] * (200 + parasites)
    return count_errors(np.concatenate(log_odds), np.concatenate(parasitized), patients)


@pytest.mark.slow
def test_intervals_cover_what_was_composed_and_healthy_patients_are_not_positive() -> None:
    slides = compose(counts(), 5000, seed=0)
    healthy = slides["patient"] >= "p12"
    assert set(slides["cells"]) == set(SIZES)
    np.testing.assert_array_equal(slides["parasitaemia"] == 0, healthy)
    found = {(n, share, name): value[0] for n, share, name, value in measured(slides)}
    covered = [found[n, share, "covered"] for n in SIZES for share in SHARES]
    # Of so few patients, of each of whom only so many cells are known.
    assert np.mean(covered) >= 0.88
    assert found[5000, 0.0, "positive"] <= 0.05
    assert found[5000, 0.1, "positive"] == 1.0
    assert found[20_000, 0.03, "within 25%"] >= 0.5


def test_every_patient_is_judged_by_others() -> None:
    healthy = np.arange(20) >= 12
    made = list(folds(healthy, np.random.default_rng(0)))
    assert sorted(np.concatenate(made).tolist()) == list(range(20))
    assert {int(healthy[fold].sum()) for fold in made} == {1, 2}
