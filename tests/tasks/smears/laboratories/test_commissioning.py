from dataclasses import replace

import numpy as np
import pytest

from tasks.detector.slides.groups import group_statistics
from tasks.smears.laboratories import commissioning, learning
from tests.support import altered
from tests.support.laboratories import detector, learned, of_laboratory


@pytest.fixture(scope="module")
def laboratory():
    own, slides = detector().own, of_laboratory(1, 12)
    statistics, evidence = learned(slides, far=6.0)
    return own, learning.commissioned(detector(), statistics, evidence).reference, evidence


def test_false_alarms_are_near_the_level_with_the_laboratory_and_everything_without_slides(
    laboratory,
) -> None:
    own, reference, evidence = laboratory
    found = {(f.name, f.level): f for f in commissioning.false_alarms(own, reference, evidence)}
    here = found["the laboratory", 0.05]
    assert here.part == commissioning.ALARMS
    assert here.slides == 12
    assert here.cells == 12 * 80
    assert 0.02 <= here.found.value <= 0.08
    assert here.found.low <= here.found.value <= here.found.high <= here.worst
    assert found["the population", 0.05].found.value > 0.9
    assert found["the laboratory", 0.01].found.value < here.found.value


def test_planted_things_are_caught(laboratory) -> None:
    found = commissioning.caught(*laboratory)
    assert [(f.part, f.name, f.level) for f in found] == [
        (commissioning.CAUGHT, "far", 0.05),
        (commissioning.CAUGHT, "far", 0.01),
    ]
    assert found[0].found.value == 1.0
    assert found[0].cells == 12 * 9


def test_figures_are_a_table_without_nan(laboratory) -> None:
    own, reference, evidence = laboratory
    table = commissioning.figures_table(
        commissioning.false_alarms(own, reference, evidence[:1]), "lab-v0001"
    )
    row = table.to_pylist()[0]
    assert row["low"] is None
    assert row["detector"] == "lab-v0001"
    assert commissioning.false_alarms(own, reference, []) == []


def confusion(slides: int, right: int, wrong: int) -> np.ndarray:
    """Of either class so many cells a slide are diagnosed right, and wrong."""
    return np.asarray([[[right, wrong], [wrong, right]]] * slides)


def test_a_diagnosis_is_accepted_only_where_both_intervals_reach_far_enough() -> None:
    verdict, figures = commissioning.diagnosis(confusion(10, 99, 1), 0)
    assert verdict == commissioning.ACCEPTED
    assert [figure.name for figure in figures] == ["sensitivity", "specificity"]
    assert figures[0].found.value == 0.99
    assert commissioning.diagnosis(confusion(10, 70, 30), 0)[0] == commissioning.NOT_ACCEPTED
    # As good, but of too few cells to tell.
    assert commissioning.diagnosis(confusion(1, 12, 0), 0)[0] == commissioning.NOT_ACCEPTED


def test_slides_that_differ_make_the_interval_wide() -> None:
    alike = commissioning.diagnosis(confusion(10, 95, 5), 0)[1][0].found
    uneven = np.concatenate([confusion(9, 100, 0), confusion(1, 50, 50)])
    differing = commissioning.diagnosis(uneven, 0)[1][0].found
    assert differing.value == alike.value
    assert differing.low < alike.low


def test_without_labels_of_both_kinds_a_diagnosis_was_not_examined() -> None:
    assert commissioning.diagnosis(np.zeros((3, 2, 2), np.int64), 0) == (
        commissioning.NOT_EXAMINED,
        [],
    )
    one = np.asarray([[[5, 1], [0, 0]]])
    assert commissioning.diagnosis(one, 0)[0] == commissioning.NOT_EXAMINED


def test_a_laboratory_of_a_few_slides_says_that_it_is_a_guess() -> None:
    assert "guess" in commissioning.laboratory_warnings(1)[0]
    assert "one slide" in commissioning.laboratory_warnings(1)[0]
    assert "only 19 slides" in commissioning.laboratory_warnings(19)[0]
    assert commissioning.laboratory_warnings(20) == []


def test_a_person_who_commissions_rubbish_is_told_what_is_vouched_for() -> None:
    known = altered.own()
    for shift, warned in ((0.0, False), (2 * altered.AWAY * altered.NOWHERE, True)):
        made = altered.smear(0, shift)
        statistics = group_statistics(made.taps, made.predicted, [made.key] * len(made.rows), 2)
        warnings = commissioning.smear_warnings(known, statistics)
        assert bool(warnings) is warned
        if warned:
            assert warnings[0].startswith("1 of 1 slides are further from the fitted ones than")
            assert "or no blood" in warnings[0]
        assert commissioning.smear_warnings(replace(known, floor=None), statistics) == []
