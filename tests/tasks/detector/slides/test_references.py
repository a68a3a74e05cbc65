from dataclasses import replace

import numpy as np

from tasks.detector.probabilities import UNCHANGED
from tasks.detector.slides.cell_score import CellFeatures
from tasks.detector.slides.night_smears import A_NIGHT, ONE_SLIDE, Group
from tasks.detector.slides.own_normal import OwnNormal
from tasks.detector.slides.references import (
    POPULATION,
    CellScores,
    alone,
    fallback_reference,
    group_leans,
    most_ordinary,
    references_of,
    score_cells,
)
from tasks.detector.witnesses import Discriminant, Scales, Witnesses
from tasks.smears.laboratories.learning import SlideCells
from tests.support.altered import AWAY, ELSEWHERE, NOWHERE, by_tap, own, smear, together

ALPHA = 0.05
HEALTHY = 1
FAR = 2 * AWAY * NOWHERE
ABROAD = 1.5 * AWAY * ELSEWHERE[0]  # beyond every fitted slide


def features(cells: SlideCells) -> CellFeatures:
    return CellFeatures(cells.taps, cells.predicted, cells.rows)


def scored(cells: SlideCells, group: Group = A_NIGHT, known: OwnNormal | None = None) -> CellScores:
    known = known or own()
    level = "night" if group is A_NIGHT else "slide"
    mine = features(cells)
    references = references_of(known, mine, level, group)
    return score_cells(known, references, fallback_reference(known), mine)


def abnormal(scores: CellScores) -> np.ndarray:
    return np.asarray((scores.p_value <= ALPHA) | scores.unlike)


def test_a_night_of_rubbish_is_compared_with_the_population() -> None:
    for cells in (smear(0, FAR), smear(0, spread=8.0)):
        for group in (A_NIGHT, ONE_SLIDE):
            scores = scored(cells, group)
            assert set(scores.compared_with) == {POPULATION}
            assert abnormal(scores).all()


def test_without_a_floor_a_night_of_rubbish_is_normal_to_itself() -> None:
    scores = scored(smear(0, FAR), ONE_SLIDE, replace(own(), floor=None))
    assert set(scores.compared_with) == {"slide"}
    assert abnormal(scores).mean() < 0.2
    assert not scores.unlike.any()


def test_the_ordinary_half_of_a_night_keeps_its_level_and_the_strange_half_is_caught() -> None:
    for away, level in ((0.0, POPULATION), (ABROAD, "night")):
        for ordinary, strange in ((200, 22), (100, 100), (80, 160)):
            night = together(smear(0, away, n=ordinary), smear(1, FAR, n=strange))
            scores = scored(night)
            flags = abnormal(scores)
            assert flags[ordinary:].mean() >= 0.99
            assert flags[:ordinary].mean() <= 0.15
            assert set(scores.compared_with[:ordinary]) == {level}


def test_ordinary_cells_of_two_laboratories_in_one_night_are_ordinary() -> None:
    scores = scored(together(smear(0, n=100), smear(1, ABROAD, n=100)))
    assert abnormal(scores).mean() <= 0.12
    assert set(scores.compared_with[:100]) == {POPULATION}
    assert set(scores.compared_with[100:]) == {"night"}


def test_a_cell_unlike_any_smear_is_abnormal_whatever_lies_beside_it() -> None:
    slide = together(smear(0, n=60), smear(1, 3 * AWAY * NOWHERE, n=5))
    scores = scored(slide, ONE_SLIDE)
    assert scores.unlike.tolist() == [False] * 60 + [True] * 5
    assert set(scores.compared_with[60:]) == {POPULATION}
    assert abnormal(scores)[60:].all()


def test_slides_of_few_cells_may_choose_a_night_that_is_like_fitted_slides() -> None:
    night = smear(0, n=100)
    mine = features(night)
    assert references_of(own(), mine, "night", A_NIGHT).known == []
    assert len(references_of(own(), mine, "night", A_NIGHT, of_few=True).known) == 1


def test_few_cells_lean_on_whichever_finds_them_more_ordinary() -> None:
    known = own()
    night = smear(0, ABROAD, n=100)
    references = references_of(known, features(night), "night", A_NIGHT)
    candidates = [*references.known, fallback_reference(known)]
    for shift, level in ((ABROAD, "night"), (0.0, POPULATION)):
        few = smear(5, shift, n=8)
        few = replace(few, rows=few.rows + 1000)
        chosen = most_ordinary(known, candidates, features(few))
        assert candidates[chosen].level == level


def test_cells_that_cannot_be_judged_have_no_score() -> None:
    cells = smear(0, n=40)
    predicted = cells.predicted.copy()
    predicted[3] = -1
    scores = scored(replace(cells, predicted=predicted), ONE_SLIDE)
    assert np.flatnonzero(np.isnan(scores.p_value)).tolist() == [3]
    assert not scores.unlike[3]


def test_a_group_without_references_is_compared_with_fitted_cells() -> None:
    known, cells = own(), smear(0, n=10)
    mine = features(cells)
    scores = score_cells(known, alone(None), fallback_reference(known), mine)
    assert set(scores.compared_with) == {POPULATION}
    assert np.isfinite(scores.p_value).all()


# --- The lean of each part -----------------------------------------------------------------------


def witnesses() -> Witnesses:
    """A second witness that measures how far cells are along the way abroad."""
    at_home = smear(0, n=400)
    weights = by_tap(ELSEWHERE[0])
    scores = Discriminant(weights, 0.0, 0.0).scores(at_home.taps)
    known = Discriminant(weights, 0.0, float(np.median(scores[at_home.predicted == HEALTHY])))
    return Witnesses(1 - HEALTHY, known, Scales(UNCHANGED, UNCHANGED, UNCHANGED))


def test_each_part_of_a_night_has_its_own_lean() -> None:
    known = witnesses()
    night = together(smear(1, n=200), smear(2, ABROAD, n=200))
    mine = features(night)
    references = references_of(own(), mine, "night", A_NIGHT)
    leans = group_leans(known, own(), references, mine)
    away = float(ABROAD @ ELSEWHERE[0])
    assert len(leans) == len(references.own) == 2
    assert min(leans) < 0.2 * away
    assert max(leans) > 0.8 * away


def test_rubbish_leans_as_what_is_expected_of_it() -> None:
    known, night = witnesses(), smear(0, FAR)
    mine = features(night)
    references = references_of(own(), mine, "slide", ONE_SLIDE)
    assert set(group_leans(known, own(), references, mine, parent=0.5)) == {0.5}


def test_a_group_without_parts_has_one_lean_drawn_to_its_parent() -> None:
    known, few = witnesses(), smear(3, ABROAD, n=8)
    mine = features(few)
    (lean,) = group_leans(known, own(), alone(None), mine)
    (drawn,) = group_leans(known, own(), alone(None), mine, parent=10.0)
    assert drawn > lean
