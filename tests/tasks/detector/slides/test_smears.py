import numpy as np

from tasks.detector.slides.floor import Floor, residuals
from tasks.detector.slides.smears import (
    A_NIGHT,
    ONE_SLIDE,
    Group,
    Smears,
    find_smears,
    nearest_part,
)
from tasks.laboratories.learning import SlideCells
from tests.support.altered import AWAY, ELSEWHERE, NOWHERE, floor, own, smear, together

FAR = 2 * AWAY * NOWHERE


def found(cells: SlideCells, group: Group = A_NIGHT, known: Floor | None = None) -> Smears:
    return find_smears(own().priors, known or floor(), cells.taps, cells.predicted, group)


def test_the_cells_of_one_slide_are_one_smear() -> None:
    smears = found(smear(0))
    assert len(smears.parts) == len(smears.references) == 1
    assert not smears.implausible
    assert smears.references[0].kept.mean() > 0.9


def test_two_laboratories_in_one_night_are_two_smears() -> None:
    night = together(smear(0, n=100), smear(1, AWAY * ELSEWHERE[0], n=60))
    smears = found(night)
    assert len(smears.references) == 2
    assert smears.whole.spread > 1.0
    assert not smears.implausible
    cells, _ = residuals(own().priors, night.taps, night.predicted)
    part = nearest_part(floor(), smears.parts, cells)
    assert len(set(part[:100])) == len(set(part[100:])) == 1
    assert part[0] != part[-1]


def test_rubbish_has_no_reference_and_the_cells_beside_it_have() -> None:
    night = together(smear(0, n=100), smear(1, FAR, n=100))
    smears = found(night)
    assert [part.reference is None for part in smears.parts].count(True) == 1
    assert smears.outside == 0.5
    assert smears.implausible
    (reference,) = smears.references
    assert reference.kept[:100].sum() > 90
    assert not reference.kept[100:].any()


def test_a_night_wholly_of_rubbish_has_no_reference() -> None:
    for cells in (smear(0, FAR), smear(0, spread=8.0)):
        smears = found(cells)
        assert not smears.references
        assert smears.outside == 1.0
        assert smears.implausible


def test_a_third_of_a_named_slide_may_be_debris_and_it_is_one_smear_without_it() -> None:
    slide = together(smear(0, n=80), smear(1, AWAY * NOWHERE, n=20))
    smears = found(slide, ONE_SLIDE)
    assert len(smears.parts) == 1
    assert not smears.references[0].kept[80:].any()


def test_a_rare_kind_of_cell_is_no_smear_of_its_own() -> None:
    night = together(
        smear(0, n=300), smear(1, AWAY * ELSEWHERE[0], n=300), smear(2, AWAY * ELSEWHERE[1], n=12)
    )
    smears = found(night)
    assert len(smears.references) == 2
    assert all(part.small for part in smears.parts if part.reference is None)


def test_a_group_of_few_cells_is_measured_by_its_shift_and_has_no_parts() -> None:
    for shift, implausible in ((0.0, False), (FAR, True)):
        smears = found(smear(0, shift, n=20))
        assert not smears.parts
        assert smears.implausible is implausible
    assert np.isnan(found(smear(0, FAR, n=5)).whole.shift)


def test_without_a_floor_any_slide_is_a_smear() -> None:
    cells = smear(0, FAR)
    smears = find_smears(own().priors, None, cells.taps, cells.predicted, ONE_SLIDE)
    assert len(smears.references) == 1
    assert not smears.implausible


def test_the_same_cells_have_the_same_parts() -> None:
    night = together(smear(0, n=100), smear(1, AWAY * ELSEWHERE[0], n=60), smear(2, FAR, n=50))
    first, second = found(night), found(night)
    for one, other in zip(first.parts, second.parts, strict=True):
        np.testing.assert_array_equal(one.middle, other.middle)
