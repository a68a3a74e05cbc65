import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tasks.reports.parasitaemia import (
    NegativeCall,
    cells_needed,
    density_class,
    detectable_percent,
    negative_call,
)


@pytest.mark.parametrize(
    ("parasitized", "cells", "starts"),
    [
        (0, 5000, "none seen"),
        (1, 5000, "below 2%"),
        (199, 10_000, "below 2%"),
        (200, 10_000, "2% to 5%"),
        (499, 10_000, "2% to 5%"),
        (500, 10_000, "5% to 10%"),
        (999, 10_000, "5% to 10%"),
        (1000, 10_000, "10% or more"),
        (1, 1, "10% or more"),
    ],
)
def test_classes_begin_at_their_bounds(parasitized: int, cells: int, starts: str) -> None:
    assert str(density_class(parasitized, cells)).startswith(starts)


def test_without_cells_there_is_neither_a_class_nor_a_power() -> None:
    assert density_class(0, 0) is None
    assert detectable_percent(0) is None


@given(st.floats(0.001, 50))
def test_as_many_as_needed_are_enough_and_one_less_is_not(percent: float) -> None:
    needed = cells_needed(percent)
    seen = [binom.sf(0, cells, percent / 100) for cells in (needed, needed - 1)]
    assert seen[0] >= 0.95 - 1e-9
    assert seen[1] < 0.95
    assert float(detectable_percent(needed) or math.nan) <= percent * (1 + 1e-9)


def test_a_negative_call_says_whether_the_cells_were_enough() -> None:
    assert negative_call(5120, 0.06) == NegativeCall.ENOUGH
    assert negative_call(500, 0.06) == NegativeCall.TOO_FEW
