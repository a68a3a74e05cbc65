import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.detector import error_counts
from tasks.smears.counting import error_rates
from tasks.smears.counting.interpretation import DENSE, detection_limit, expected_width

SEEDS = st.integers(0, 2**32 - 1)


def cells(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(scale=5, size=n),
        rng.random(n) < 0.4,
        [f"s{i}" for i in rng.integers(0, 5, n)],
    )


def same(a: error_counts.ErrorCounts, b: error_counts.ErrorCounts) -> bool:
    there, here = a.to_arrays(), b.to_arrays()
    return all(np.array_equal(there[name], here[name]) for name in there)


def test_counts_are_those_of_a_plain_loop() -> None:
    log_odds, truth, slides = cells(1)
    log_odds[3] = np.nan
    found = error_counts.count_errors(log_odds, truth, slides)
    for i, slide in enumerate(found.slides):
        mine = [k for k in range(60) if slides[k] == slide and np.isfinite(log_odds[k])]
        assert found.positives[i] == sum(truth[k] for k in mine)
        for j, threshold in enumerate(error_counts.THRESHOLDS):
            passing = [k for k in mine if log_odds[k] >= threshold]
            assert found.found[i, j] == sum(truth[k] for k in passing)
            assert found.false[i, j] == sum(not truth[k] for k in passing)


@given(a=SEEDS, b=SEEDS)
def test_merging_is_counting_together_and_retracting_takes_it_back(a: int, b: int) -> None:
    one, other = error_counts.count_errors(*cells(a)), error_counts.count_errors(*cells(b, 30))
    together = [np.concatenate([x, y]) for x, y in zip(cells(a), cells(b, 30), strict=True)]
    both = error_counts.merge_errors(one, other)
    assert same(both, error_counts.count_errors(together[0], together[1], together[2].tolist()))
    assert same(error_counts.merge_errors(other, one), both)
    assert same(error_counts.retract_errors(both, other), one)


def test_what_is_not_there_cannot_be_taken_out() -> None:
    one = error_counts.count_errors(*cells(1))
    with pytest.raises(ValueError, match="not there"):
        error_counts.retract_errors(error_counts.ErrorCounts.empty(), one)
    with pytest.raises(ValueError, match="more cells"):
        error_counts.retract_errors(one, error_counts.merge_errors(one, one))


# --- Thresholds ----------------------------------------------------------------------------------


def counts(slides: int = 12, healthy: int = 300, parasites: int = 60) -> error_counts.ErrorCounts:
    """Slides whose healthy cells lie at -4 and parasites at 4, two deviations wide each."""
    rng = np.random.default_rng(0)
    log_odds = np.concatenate(
        [rng.normal(-4, 2, slides * healthy), rng.normal(4, 2, slides * parasites)]
    )
    parasitized = np.repeat([False, True], [slides * healthy, slides * parasites])
    names = [f"s{i % slides}" for i in range(len(log_odds))]
    return error_counts.count_errors(log_odds, parasitized, names)


def test_the_chosen_threshold_has_about_the_least_limit_of_detection() -> None:
    known = counts()
    chosen = error_rates.known_rates(known, 5000).counting
    limits = [
        detection_limit(5000, error_rates.rates_at(known, t)) for t in np.arange(0.0, 6.0, 1.0)
    ]
    least = detection_limit(5000, chosen)
    assert least is not None
    assert least <= error_rates.NEAR * min(limit for limit in limits if limit is not None) + 1e-9
    assert chosen.log_odds > 0
    assert chosen.log_odds in error_counts.THRESHOLDS
    assert chosen.found.mean > 0.2  # a threshold that hardly a parasite passes is not chosen


def test_many_parasites_are_counted_by_the_threshold_of_the_narrowest_interval() -> None:
    known = counts()
    rates = error_rates.known_rates(known, 5000)
    assert rates.dense.log_odds < rates.counting.log_odds
    widths = [
        expected_width(error_rates.rates_at(known, t), DENSE, 5000)
        for t in np.arange(0.0, 6.0, 1.0)
    ]
    assert expected_width(rates.dense, DENSE, 5000) <= error_rates.NEAR * min(widths) + 1e-9


def test_few_slides_are_not_enough() -> None:
    assert error_counts.are_enough(counts(slides=5))
    assert not error_counts.are_enough(counts(slides=4))
    assert not error_counts.are_enough(counts(parasites=0))
    with pytest.raises(ValueError, match="no slide has cells"):
        error_rates.rates_at(error_counts.ErrorCounts.empty(), 0.0)
