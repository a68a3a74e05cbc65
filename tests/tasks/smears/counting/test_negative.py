"""A negative call rests on the slides on which errors were measured."""

import numpy as np
import pytest
from scipy.stats import betabinom

from tasks.detector.error_counts import (
    LEAST_CELLS,
    ErrorCounts,
    count_errors,
    merge_errors,
    retract_errors,
)
from tasks.smears.counting.negative import Measured

KNOWN = Measured(least_size=80.0, least_sharpness=0.02, mean=0.01, deviation=0.01)


@pytest.mark.parametrize(
    ("size", "sharpness", "covered"),
    [
        (80.0, None, True), (79.9, None, False), (None, None, False),
        (100.0, 0.02, True), (100.0, 0.019, False), (79.0, 0.1, False),
    ],
)  # fmt: skip
def test_a_slide_is_covered_if_it_is_as_large_and_as_sharp(
    size: float | None, sharpness: float | None, covered: bool
) -> None:
    assert KNOWN.covers({"cell_size": size, "sharpness": sharpness}) is covered


def test_photographs_are_not_covered_where_none_were_measured() -> None:
    of_cells = Measured(80.0, None, 0.01, 0.01)
    assert of_cells.covers({"cell_size": 90.0, "sharpness": None})
    assert not of_cells.covers({"cell_size": 90.0, "sharpness": 1.0})


def test_healthy_slides_stay_below_the_most_in_95_of_100() -> None:
    random = np.random.default_rng(0)
    precision = 0.01 * 0.99 / 0.01**2 - 1
    shares = random.beta(0.01 * precision, 0.99 * precision, 20_000)
    for cells in (50, 500, 5000):
        most, called = KNOWN.most_healthy(cells), random.binomial(cells, shares)
        assert np.mean(called <= most) >= 0.94
        assert np.mean(called < most) <= 0.96
        exact = betabinom.ppf(0.95, cells, 0.01 * precision, 0.99 * precision)
        assert most == pytest.approx(exact, rel=0.01, abs=1)
    assert Measured(1.0, None, 0.01, 0.0).most_healthy(1000) == 15  # binomial
    assert Measured(1.0, None, 0.0, 0.0).most_healthy(1000) == 0


def test_the_least_size_is_of_slides_with_enough_cells_and_can_be_taken_out() -> None:
    def counted(slide: str, cells: int, size: int) -> ErrorCounts:
        return count_errors(
            np.zeros(cells), np.zeros(cells, bool), [slide] * cells, np.full(cells, size)
        )

    large, small, few = counted("a", 40, 100), counted("b", 40, 60), counted("c", 10, 20)
    both = merge_errors(merge_errors(large, small), few)
    assert both.least_size() == 60
    assert retract_errors(both, small).least_size() == 100
    assert few.least_size() is None
    unknown = count_errors(np.zeros(LEAST_CELLS), np.zeros(LEAST_CELLS, bool), ["d"] * LEAST_CELLS)
    assert merge_errors(both, unknown).least_size() is None
