import numpy as np
import pytest

from tasks.counting.error_rates import THRESHOLDS, ErrorCounts, count_errors
from tasks.counting.interpretation import DENSE, KnownRates, detection_limit, expected_width
from tasks.counting.threshold import NEAR, are_enough, known_rates, rates_at


def counts(slides: int = 12, healthy: int = 300, parasites: int = 60) -> ErrorCounts:
    """Slides whose healthy cells lie at -4 and parasites at 4, two deviations wide each."""
    rng = np.random.default_rng(0)
    log_odds = np.concatenate(
        [rng.normal(-4, 2, slides * healthy), rng.normal(4, 2, slides * parasites)]
    )
    parasitized = np.repeat([False, True], [slides * healthy, slides * parasites])
    names = [f"s{i % slides}" for i in range(len(log_odds))]
    return count_errors(log_odds, parasitized, names)


def test_the_chosen_threshold_has_about_the_least_limit_of_detection() -> None:
    known = counts()
    chosen = known_rates(known, 5000).counting
    limits = [detection_limit(5000, rates_at(known, t)) for t in np.arange(0.0, 6.0, 1.0)]
    least = detection_limit(5000, chosen)
    assert least is not None
    assert least <= NEAR * min(limit for limit in limits if limit is not None) + 1e-9
    assert chosen.log_odds > 0


def test_a_threshold_that_hardly_a_parasite_passes_is_not_chosen() -> None:
    chosen = known_rates(counts(), 5000).counting
    assert chosen.found.mean > 0.2
    assert chosen.log_odds in THRESHOLDS


def test_many_parasites_are_counted_by_the_threshold_of_the_narrowest_interval() -> None:
    known = counts()
    rates = known_rates(known, 5000)
    assert rates.dense.log_odds < rates.counting.log_odds
    widths = [expected_width(rates_at(known, t), DENSE, 5000) for t in np.arange(0.0, 6.0, 1.0)]
    assert expected_width(rates.dense, DENSE, 5000) <= NEAR * min(widths) + 1e-9


def test_few_slides_are_not_enough() -> None:
    assert are_enough(counts(slides=5))
    assert not are_enough(counts(slides=4))
    assert not are_enough(counts(parasites=0))
    with pytest.raises(ValueError, match="no slide has cells"):
        rates_at(ErrorCounts.empty(), 0.0)


def test_rates_read_back_as_they_were() -> None:
    rates = rates_at(counts(), 1.0)
    back = KnownRates.from_arrays(KnownRates(rates, rates).to_arrays()).dense
    for one, other in ((rates.false, back.false), (rates.found, back.found)):
        np.testing.assert_array_equal(one.nodes, other.nodes)
        assert (one.mean, one.slides, one.cells) == (other.mean, other.slides, other.cells)
    assert back.log_odds == 1.0
