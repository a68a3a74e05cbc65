import numpy as np

from tasks.detector.probabilities import UNCHANGED
from tasks.detector.slides.leans import group_leans
from tasks.detector.slides.references import alone, references_of
from tasks.detector.slides.smears import A_NIGHT, ONE_SLIDE
from tasks.detector.witnesses import Discriminant, Scales, Witnesses
from tests.support.altered import AWAY, ELSEWHERE, NOWHERE, by_tap, own, smear, together

HEALTHY = 1
ABROAD = 1.5 * AWAY * ELSEWHERE[0]
FAR = 2 * AWAY * NOWHERE


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
    mine = night.taps, night.predicted, night.rows
    references = references_of(own(), *mine, "night", A_NIGHT)
    leans = group_leans(known, own(), references, *mine)
    away = float(ABROAD @ ELSEWHERE[0])
    assert len(leans) == len(references.own) == 2
    assert min(leans) < 0.2 * away
    assert max(leans) > 0.8 * away


def test_rubbish_leans_as_what_is_expected_of_it() -> None:
    known, night = witnesses(), smear(0, FAR)
    mine = night.taps, night.predicted, night.rows
    references = references_of(own(), *mine, "slide", ONE_SLIDE)
    assert set(group_leans(known, own(), references, *mine, parent=0.5)) == {0.5}


def test_a_group_without_parts_has_one_lean_drawn_to_its_parent() -> None:
    known, few = witnesses(), smear(3, ABROAD, n=8)
    mine = few.taps, few.predicted, few.rows
    (lean,) = group_leans(known, own(), alone(None), *mine)
    (drawn,) = group_leans(known, own(), alone(None), *mine, parent=10.0)
    assert drawn > lean
