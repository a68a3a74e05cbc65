from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from tasks.bundles import join, take
from tasks.detector.detector import Detector
from tasks.detector.slides.normal import slide_normal
from tasks.metrics.metrics import Subject
from tasks.smears.evaluation.compositions import (
    CELLS,
    MOST,
    NIGHTS,
    OWN_NORMAL,
    POPULATION,
    SHARES,
    SLIDES,
    CellSet,
    JudgedGroups,
    Mixture,
    compose,
    judge,
    measure,
)
from tasks.smears.laboratories import learning
from tests.support import altered, laboratories
from tests.support.detectors import fit_detector
from tests.support.simulated import fitted, slide_of, strangers
from tests.support.slide_scores import score_slide

FAR = 2 * altered.AWAY * altered.NOWHERE


def cells(rng: np.random.Generator, slide: str, n: int, away: float = 0.0) -> CellSet:
    taps, classes = slide_of(rng, n)
    return CellSet(
        {tap: values + away for tap, values in taps.items()},
        classes,
        np.full(n, slide),
        np.asarray([f"{slide}-{i}" for i in range(n)]),
        np.zeros(n, np.int8),
    )


def rubbish(rng: np.random.Generator, n: int) -> CellSet:
    taps, classes = strangers(rng, n, away=12.0)
    return replace(cells(rng, "x", n), taps=taps, predicted=classes)


def as_cells(made: learning.SlideCells, name: str = "s") -> CellSet:
    taps = {tap: values.astype(np.float32) for tap, values in made.taps.items()}
    names = np.asarray([f"{name}-{row}" for row in range(len(made.rows))])
    slides = np.full(len(made.rows), name)
    return CellSet(taps, made.predicted, slides, names, np.zeros(len(slides), np.int8))


def changed(cells: CellSet, rows: Sequence[int]) -> CellSet:
    some = take(cells, np.asarray(rows))
    taps = {tap: values + 12 for tap, values in some.taps.items()}
    return replace(some, taps=taps)


def ordinary_groups(slides: Sequence[CellSet]) -> list[Mixture]:
    return [Mixture(slide, np.zeros(len(slide), bool)) for slide in slides]


@pytest.fixture(scope="module")
def detector() -> Detector:
    rng = np.random.default_rng(5)
    every = join([cells(rng, str(number), 60) for number in range(30)])
    groups = np.repeat(np.arange(30), 60)
    return replace(fit_detector(every.taps, every.predicted, 2, groups), own=fitted())


def values(judged: JudgedGroups, detector: str = OWN_NORMAL) -> dict[str, float]:
    results = measure(Subject("s"), judged)
    return {each.measure: each.found.value for each in results if each.detector == detector}


# Compositions


@pytest.mark.parametrize("share", SHARES)
def test_a_group_has_its_share_of_strange_cells(share: float) -> None:
    rng = np.random.default_rng(0)
    hosts = join([cells(rng, name, 80) for name in "abc"])
    strange = rubbish(rng, 600)
    for named in (True, False):
        groups = compose(hosts if share < 1 else None, strange, share, named=named)
        count = (SLIDES if share == 1 else 3) if named else NIGHTS
        assert len(groups) == count
        for number, group in enumerate(groups):
            assert group.strange.mean() == pytest.approx(share, abs=0.01)
            assert len(group.cells) <= (CELLS if named and share == 1 else MOST)
            assert len(set(group.cells.image_ids)) == len(group.cells)
            names = set(group.cells.slides[~group.strange])
            assert len(names) == (0 if share == 1 else 1 if named else 3)
            assert set(group.cells.slides[group.strange]) == {"x"}
            if named and share < 1:
                assert names == {"abc"[number]}


def test_where_one_kind_is_rare_the_group_is_smaller_and_the_share_is_kept() -> None:
    rng = np.random.default_rng(0)
    (few, *_) = compose(cells(rng, "a", 400), rubbish(rng, 20), 0.5, named=False)
    assert (len(few.cells), few.strange.sum()) == (40, 20)
    (many, *_) = compose(cells(rng, "a", 20), rubbish(rng, 400), 0.9, named=True)
    assert (len(many.cells), many.strange.sum()) == (200, 180)


def test_changed_cells_of_a_slide_take_the_place_of_its_ordinary_ones(detector: Detector) -> None:
    rng = np.random.default_rng(2)
    hosts = join([cells(rng, "a", 50), cells(rng, "b", 50), cells(rng, "c", 50)])
    groups = compose(hosts, changed(hosts, [0, 1, 2, 3, 4, 5, 60]), 0.1, named=True)
    # The third slide has no changed cell.
    assert [(len(group.cells), group.strange.sum()) for group in groups] == [(50, 6), (10, 1)]
    for group, name in zip(groups, "ab", strict=True):
        assert set(group.cells.slides) == {name}
        assert len(set(group.cells.image_ids)) == len(group.cells)
    assert values(judge(detector, groups[:1], named=True))["caught at 0.05"] == 1.0
    for night in compose(hosts, changed(hosts, range(6)), 0.1, named=False):
        assert len(set(night.cells.image_ids)) == len(night.cells)


def test_nothing_strange_makes_slides_as_they_are() -> None:
    rng = np.random.default_rng(3)
    hosts = join([cells(rng, "b", 30), cells(rng, "a", 20)])
    groups = compose(hosts, None, 0.0, named=True)
    assert [len(group.cells) for group in groups] == [20, 30]
    assert not any(group.strange.any() for group in groups)
    assert [len(group.cells) for group in compose(hosts, None, 0.0, named=False)] == [50] * NIGHTS


# The results of a night


def test_a_foreign_laboratory_is_ordinary_by_its_slides_and_strange_cells_are_found(
    detector: Detector,
) -> None:
    rng = np.random.default_rng(1)
    foreign = join([cells(rng, f"f{number}", 100, away=8.0) for number in range(6)])
    judged = judge(detector, compose(foreign, rubbish(rng, 200), 0.1, named=True), named=True)
    assert np.bincount(judged.group).tolist() == [111] * 6
    own, population = values(judged), values(judged, POPULATION)
    assert own["AUROC"] > 0.99
    assert own["caught at 0.05"] > 0.95
    assert own["false alarms at 0.05"] < 0.1
    assert population["false alarms at 0.05"] == 1.0
    assert own["shifted"] == 1.0


def test_slides_of_few_cells_lean_on_their_night(detector: Detector) -> None:
    rng = np.random.default_rng(7)
    ward = cells(rng, "ward", 200, away=8.0)
    few = [take(ward, np.arange(start, start + 10)) for start in range(0, 200, 10)]
    judged = judge(detector, ordinary_groups(few), named=True)
    assert values(judged)["false alarms at 0.05"] < 0.1
    assert values(judged, POPULATION)["false alarms at 0.05"] == 1.0


def test_slides_of_few_cells_of_another_stain_than_their_nights_lean_on_fitted_ones(
    detector: Detector,
) -> None:
    rng = np.random.default_rng(8)
    assert detector.own is not None
    slides = [cells(rng, "many", 400), *(cells(rng, str(number), 10) for number in range(10))]
    judged = judge(detector, ordinary_groups(slides), named=True)
    assert np.mean(judged.verdicts[OWN_NORMAL].p_values[judged.group > 0] <= 0.05) < 0.1
    night = slide_normal(detector.own.priors, slides[0].taps, slides[0].predicted)
    leaning = [
        score_slide(detector.own, s.taps, s.predicted, laboratory=night).p_value for s in slides[1:]
    ]
    assert np.mean(np.concatenate(leaning) <= 0.05) > 0.3


def test_false_alarms_are_measured_by_group(detector: Detector) -> None:
    rng = np.random.default_rng(4)
    slides = [cells(rng, f"{number:02d}", 80) for number in range(20)]
    judged = judge(detector, compose(join(slides), None, 0.0, named=True), named=True)
    found = values(judged)
    rates = np.asarray(
        [
            np.mean(judged.verdicts[OWN_NORMAL].p_values[judged.group == k] <= 0.05)
            for k in range(20)
        ]
    )
    assert found["false alarms at 0.05, mean of groups"] == pytest.approx(rates.mean())
    assert found["false alarms at 0.05, deviation of groups"] == pytest.approx(rates.std())
    assert found["false alarms at 0.05, worst group"] == rates.max()
    assert 0.02 < found["false alarms at 0.05"] < 0.1
    assert found["shifted"] < 0.3
    assert "AUROC" not in found


def test_a_slide_wholly_of_one_kind_is_found_as_a_slide(detector: Detector) -> None:
    strange = rubbish(np.random.default_rng(6), 40)
    found = values(judge(detector, compose(None, strange, 1.0, named=True), named=True))
    assert found["shifted"] == 1.0
    assert found["caught at 0.05"] < 0.3  # this detector does not know what no smear can be


@pytest.fixture(scope="module")
def knowing() -> Detector:
    """A detector that knows what no smear can be."""
    return replace(laboratories.detector(), own=altered.own())


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("share", [*SHARES, 0.0])
def test_rubbish_is_caught_in_every_composition_and_the_ordinary_keep_their_level(
    knowing: Detector, share: float, named: bool
) -> None:
    ordinary = as_cells(altered.smear(0, n=300))
    strange = as_cells(altered.smear(1, FAR, n=300), "x")
    groups = compose(
        ordinary if share < 1 else None, strange if share else None, share, named=named
    )
    found = values(judge(knowing, groups, named=named))
    assert found["no smear"] == (share >= 0.5)
    if share:
        assert found["caught at 0.05"] >= 0.99
    if share < 1:
        assert found["false alarms at 0.05"] <= 0.15
    if 0 < share < 1:
        assert found["AUROC"] >= 0.99
