import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from tasks.smears.reports.parasitaemia import cells_needed, density_class


@pytest.mark.parametrize(
    ("percent", "starts"),
    [
        (0.02, "below 2%"),
        (1.99, "below 2%"),
        (2.0, "2% to 5%"),
        (4.99, "2% to 5%"),
        (5.0, "5% to 10%"),
        (9.99, "5% to 10%"),
        (10.0, "10% or more"),
        (100.0, "10% or more"),
    ],
)
def test_classes_begin_at_their_bounds(percent: float, starts: str) -> None:
    assert str(density_class(percent)).startswith(starts)


@given(st.floats(0.001, 50))
def test_as_many_as_needed_are_enough_and_one_less_is_not(percent: float) -> None:
    needed = cells_needed(percent)
    seen = [binom.sf(0, cells, percent / 100) for cells in (needed, needed - 1)]
    assert seen[0] >= 0.95 - 1e-9
    assert seen[1] < 0.95
