"""Slides composed of made-up patients: what is measured of them, and that nobody sees himself."""

from functools import cache

import numpy as np
import pyarrow as pa
import pytest

from tasks.counting.error_rates import ErrorCounts, count_errors
from tasks.counting.threshold import known_rates
from tasks.evaluation.composed import (
    SHARES,
    SIZES,
    SLIDES,
    TODAY,
    KnownCells,
    agreement,
    compose,
    composed_metrics,
    without,
)
from tasks.evaluation.scored import OWN


def cells() -> KnownCells:
    """20 patients of 200 healthy cells each, 12 of them with 100 parasites too."""
    rng = np.random.default_rng(3)
    log_odds, parasitized, patients = [], [], []
    for number in range(20):
        shift = rng.normal(0, 0.5)
        parasites = 100 if number < 12 else 0
        log_odds += [rng.normal(-5, 2, 200) + shift, rng.normal(5, 2, parasites) + shift]
        parasitized += [np.zeros(200, bool), np.ones(parasites, bool)]
        patients += [f"p{number:02d}"] * (200 + parasites)
    return KnownCells(np.concatenate(log_odds), np.concatenate(parasitized), patients)


@cache
def composed() -> tuple[pa.Table, ErrorCounts]:
    known = cells()
    counts = count_errors(known.log_odds, known.parasitized, known.patients)
    return compose(known, counts, 5000, seed=0), counts


def test_slides_have_every_size_and_parasitaemia_and_negative_ones_are_healthy() -> None:
    slides, _ = composed()
    assert slides.schema.equals(SLIDES)
    assert set(slides["cells"].to_pylist()) == set(SIZES)
    assert set(slides["parasitaemia"].to_pylist()) == set(SHARES)
    for row in slides.to_pylist():
        assert (row["parasitaemia"] == 0) == row["healthy"] == (row["patient"] >= "p12")
        assert row["called"] <= row["diagnosed"]


def test_intervals_cover_what_was_composed_and_healthy_patients_are_not_positive() -> None:
    slides, counts = composed()
    metrics = composed_metrics(slides, counts, known_rates(counts, 5000), "m", 0)
    found = {
        (m.subject.set, m.subject.strength, m.detector, m.metric): m.found.value for m in metrics
    }
    covered = [value for key, value in found.items() if key[2:] == (OWN, "covered")]
    assert len(covered) == len(SIZES) * len(SHARES)
    # Of so few patients, of each of whom only so many cells are known.
    assert np.mean(covered) >= 0.88
    assert found["5,000 cells", 0.0, OWN, "called positive"] <= 0.05
    assert found["5,000 cells", 0.0, TODAY, "called positive"] >= 0.5
    assert found["5,000 cells", 10.0, OWN, "called positive"] == 1.0
    limits = [found[f"{n:,} cells", None, OWN, "limit of detection"] for n in SIZES]
    assert limits == sorted(limits, reverse=True)
    assert limits[1] < found["5,000 cells", None, TODAY, "limit of detection"]
    assert found["20,000 cells", None, OWN, "within 25% from 1% on"] >= 0.5


def test_error_rates_of_a_slide_are_those_of_other_patients() -> None:
    _, counts = composed()
    left = without(counts, {"p03", "p11"})
    assert set(counts.slides) - set(left.slides) == {"p03", "p11"}
    assert left.found.sum() < counts.found.sum()
    assert without(left, set()).slides == left.slides


def test_agreement_is_of_square_roots() -> None:
    mean, difference = agreement(np.asarray([0.04]), np.asarray([0.01]))
    assert mean[0] == pytest.approx(np.sqrt(5e6) * 0.15)
    assert difference[0] == pytest.approx(-np.sqrt(5e6) * 0.1)
