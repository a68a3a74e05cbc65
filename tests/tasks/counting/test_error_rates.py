import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.counting.error_rates import (
    THRESHOLDS,
    ErrorCounts,
    count_errors,
    merge_errors,
    retract_errors,
)

SEEDS = st.integers(0, 2**32 - 1)


def cells(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(scale=5, size=n),
        rng.random(n) < 0.4,
        [f"s{i}" for i in rng.integers(0, 5, n)],
    )


def same(a: ErrorCounts, b: ErrorCounts) -> bool:
    there, here = a.to_arrays(), b.to_arrays()
    return all(np.array_equal(there[name], here[name]) for name in there)


def test_counts_are_those_of_a_plain_loop() -> None:
    log_odds, truth, slides = cells(1)
    log_odds[3] = np.nan
    found = count_errors(log_odds, truth, slides)
    for i, slide in enumerate(found.slides):
        mine = [k for k in range(60) if slides[k] == slide and np.isfinite(log_odds[k])]
        assert found.positives[i] == sum(truth[k] for k in mine)
        for j, threshold in enumerate(THRESHOLDS):
            passing = [k for k in mine if log_odds[k] >= threshold]
            assert found.found[i, j] == sum(truth[k] for k in passing)
            assert found.false[i, j] == sum(not truth[k] for k in passing)


@given(a=SEEDS, b=SEEDS)
def test_merging_is_counting_together_and_retracting_takes_it_back(a: int, b: int) -> None:
    one, other = count_errors(*cells(a)), count_errors(*cells(b, 30))
    together = [np.concatenate([x, y]) for x, y in zip(cells(a), cells(b, 30), strict=True)]
    both = merge_errors(one, other)
    assert same(both, count_errors(together[0], together[1], together[2].tolist()))
    assert same(merge_errors(other, one), both)
    assert same(retract_errors(both, other), one)


def test_counts_read_back_as_they_were() -> None:
    for counts in (count_errors(*cells(3)), ErrorCounts.empty()):
        assert same(ErrorCounts.from_arrays(counts.to_arrays()), counts)


def test_what_is_not_there_cannot_be_taken_out() -> None:
    one = count_errors(*cells(1))
    with pytest.raises(ValueError, match="not there"):
        retract_errors(ErrorCounts.empty(), one)
    with pytest.raises(ValueError, match="more cells"):
        retract_errors(one, merge_errors(one, one))
