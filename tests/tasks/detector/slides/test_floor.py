import numpy as np
import pytest

from tasks.detector.slides.floor import Floor, Smear, beyond_reach, fit_floor, residuals, smear_of
from tests.support.altered import AWAY, ELSEWHERE, NOWHERE, floor, own, smear


def measured(shift: np.ndarray | float = 0.0, n: int = 80, spread: float = 1.0) -> Smear:
    made = smear(0, shift, n, spread)
    return smear_of(floor(), residuals(own().priors, made.taps, made.predicted)[0])


def test_slides_of_the_population_and_of_other_laboratories_are_plausible() -> None:
    rng = np.random.default_rng(1)
    assert measured().plausible
    shifts = [AWAY * rng.normal(size=3) @ ELSEWHERE for _ in range(50)]
    assert all(measured(shift).plausible for shift in shifts)


def test_as_long_a_shift_in_a_direction_of_no_laboratory_is_implausible() -> None:
    found = measured(AWAY * NOWHERE)
    assert found.shift > 1.0 > found.spread
    assert not found.plausible


def test_cells_that_vary_more_than_those_of_a_smear_are_implausible() -> None:
    found = measured(spread=3.0)
    assert found.spread > 1.0 > found.shift
    assert not found.plausible


def test_three_cells_in_four_decide_on_the_spread() -> None:
    cells = residuals(own().priors, *_taps(400))[0]
    for strange, plausible in ((0.15, True), (0.4, False)):
        some = cells.copy()
        some[: int(strange * len(some))] += 10 * ELSEWHERE[0]
        assert smear_of(floor(), some).plausible is plausible


def _taps(n: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    made = smear(2, n=n)
    return dict(made.taps), made.predicted


def test_a_cell_is_beyond_reach_where_no_laboratory_has_one() -> None:
    cells = residuals(own().priors, *_taps(200))[0]
    assert not beyond_reach(floor(), cells).any()
    assert not beyond_reach(floor(), cells + AWAY * ELSEWHERE[0]).any()
    assert beyond_reach(floor(), cells + 3 * AWAY * NOWHERE).all()


def test_residuals_join_the_taps_in_the_order_of_their_names_and_leave_out_what_is_no_cell() -> (
    None
):
    made = smear(0, n=4)
    predicted = made.predicted.copy()
    predicted[1] = -1
    taps = {tap: values.copy() for tap, values in made.taps.items()}
    taps["late"][2, 0] = np.nan
    cells, usable = residuals(own().priors, taps, predicted)
    assert usable.tolist() == [True, False, False, True]
    prior = own().priors["early"]
    np.testing.assert_allclose(cells[0, :5], taps["early"][0] - prior.means[predicted[0]])
    assert cells.shape == (2, 13)


def test_a_floor_comes_back_from_its_arrays() -> None:
    found = Floor.from_arrays(floor().to_arrays())
    assert (found.shift, found.spread, found.reach) == (
        floor().shift, floor().spread, floor().reach,
    )  # fmt: skip
    np.testing.assert_array_equal(found.within, floor().within)
    np.testing.assert_array_equal(found.between, floor().between)


def test_the_slides_of_one_patient_alone_make_no_floor() -> None:
    cells = [np.random.default_rng(k).normal(size=(16, 13)) for k in range(4)]
    with pytest.raises(ValueError, match="slides, and come from 1"):
        fit_floor(cells, ["p"] * 4)
    with pytest.raises(ValueError, match="come from 0"):
        fit_floor([each[:5] for each in cells], ["p", "q", "r", "s"])
