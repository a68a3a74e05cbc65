import numpy as np
import pytest

from tasks.detector.slides.cell_score import CellFeatures, SlideNormal
from tasks.detector.slides.night_smears import (
    A_NIGHT,
    ABSURD,
    ONE_SLIDE,
    Floor,
    Group,
    Smear,
    Smears,
    beyond_reach,
    find_smears,
    fit_floor,
    residuals,
    smear_of,
)
from tasks.smears.laboratories.learning import SlideCells
from tests.support.altered import AWAY, ELSEWHERE, NOWHERE, floor, own, smear, together

FAR = 2 * AWAY * NOWHERE


def references(smears: Smears) -> list[SlideNormal]:
    return [part.reference for part in smears.parts if part.reference is not None]


def measured(shift: np.ndarray | float = 0.0, n: int = 80, spread: float = 1.0) -> Smear:
    made = smear(0, shift, n, spread)
    return smear_of(floor(), residuals(own().priors, made.taps, made.predicted)[0])


def test_slides_of_the_population_and_of_other_laboratories_are_plausible() -> None:
    rng = np.random.default_rng(1)
    assert measured().plausible
    shifts = [AWAY * rng.normal(size=3) @ ELSEWHERE for _ in range(50)]
    assert all(measured(shift).plausible for shift in shifts)


def test_a_shift_in_a_direction_of_no_laboratory_is_plausible_up_to_a_limit() -> None:
    new, absurd = measured(AWAY * NOWHERE), measured(FAR)
    assert ABSURD > new.shift > 1.0 > new.spread
    assert new.plausible
    assert absurd.shift > ABSURD
    assert not absurd.plausible


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


def test_a_few_slides_with_pieces_of_white_cells_hardly_move_the_limit_of_the_spread() -> None:
    assert floor(pieces=2).spread == pytest.approx(floor().spread, rel=0.1)


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


def test_the_slides_of_one_patient_alone_make_no_floor() -> None:
    cells = [np.random.default_rng(k).normal(size=(16, 13)) for k in range(4)]
    with pytest.raises(ValueError, match="slides, and come from 1"):
        fit_floor(cells, ["p"] * 4)
    with pytest.raises(ValueError, match="come from 0"):
        fit_floor([each[:5] for each in cells], ["p", "q", "r", "s"])


def found(cells: SlideCells, group: Group = A_NIGHT, known: Floor | None = None) -> Smears:
    features = CellFeatures(cells.taps, cells.predicted, cells.rows)
    return find_smears(own().priors, known or floor(), features, group)


def test_the_cells_of_one_slide_are_one_smear() -> None:
    smears = found(smear(0))
    assert len(smears.parts) == len(references(smears)) == 1
    assert not smears.implausible
    assert references(smears)[0].kept.mean() > 0.9


def test_rubbish_has_no_reference_and_the_cells_beside_it_have() -> None:
    night = together(smear(0, n=100), smear(1, FAR, n=100))
    smears = found(night)
    assert [part.reference is None for part in smears.parts].count(True) == 1
    assert smears.outside == 0.5
    assert smears.implausible
    (reference,) = references(smears)
    assert reference.kept[:100].sum() > 90
    assert not reference.kept[100:].any()


def test_a_third_of_a_named_slide_may_be_debris_and_it_is_one_smear_without_it() -> None:
    slide = together(smear(0, n=80), smear(1, AWAY * NOWHERE, n=20))
    smears = found(slide, ONE_SLIDE)
    assert len(smears.parts) == 1
    assert not references(smears)[0].kept[80:].any()


def test_a_slide_that_can_be_one_smear_is_not_refused_because_no_division_makes_two() -> None:
    slide = smear(0, NEW, n=100)
    for of_one in (False, True):
        assert found(slide, Group(0.25, 1.01, of_one=of_one)).implausible is not of_one


def test_a_rare_kind_of_cell_is_no_smear_of_its_own() -> None:
    night = together(
        smear(0, n=300),
        smear(1, 1.5 * AWAY * ELSEWHERE[0], n=300),
        smear(2, 1.5 * AWAY * ELSEWHERE[1], n=12),
    )
    smears = found(night)
    assert len(references(smears)) == 2
    assert all(part.small for part in smears.parts if part.reference is None)


def test_a_group_of_few_cells_is_measured_by_its_shift_and_has_no_parts() -> None:
    for shift, implausible in ((0.0, False), (FAR, True)):
        smears = found(smear(0, shift, n=20))
        assert not smears.parts
        assert smears.implausible is implausible
    assert np.isnan(found(smear(0, FAR, n=5)).whole.shift)


NEW = AWAY * NOWHERE  # as far as laboratories are, where none was seen


def test_the_cells_of_a_laboratory_that_nobody_has_seen_are_one_smear() -> None:
    smears = found(smear(0, NEW, n=100), ONE_SLIDE)
    assert smears.whole.shift > 1.0
    assert len(references(smears)) == 1
    assert not smears.implausible


def test_what_is_far_away_is_no_smear_beside_as_many_ordinary_cells() -> None:
    smears = found(together(smear(0, n=100), smear(1, 1.5 * NEW, n=100)))
    assert smears.outside == 0.5
    (reference,) = references(smears)
    assert not reference.kept[100:].any()


def test_most_cells_of_a_group_may_be_a_new_laboratory_and_others_are_as_near_to_it() -> None:
    near, far = NEW + 0.5 * AWAY * ELSEWHERE[0], -NEW
    smears = found(together(smear(0, NEW, n=300), smear(1, near, n=120), smear(2, far, n=120)))
    kept = np.any([each.kept for each in references(smears)], axis=0)
    assert kept[:420].mean() > 0.8
    assert not kept[420:].any()
    assert smears.outside == pytest.approx(120 / 540, abs=0.02)
