import numpy as np
import pytest

from tasks.bundles import join, take
from tasks.detector.calibration import calibrate, log_distance
from tasks.detector.detector import Detector
from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import moments
from tasks.detector.slides.normal import slide_normal
from tasks.detector.slides.own_normal import OwnNormal
from tasks.evaluation.metrics import Metric, Subject
from tasks.evaluation.planted import (
    LABORATORY_NORMAL,
    OWN_NORMAL,
    POPULATION,
    Cells,
    Normal,
    alarm_metrics,
    by_slide,
    judge,
    plant,
    planted_metrics,
    whole_metrics,
    whole_slides,
)
from tasks.laboratories.learning import kept_statistics, laboratory_normal, merged, slide_evidence
from tests.support import laboratories
from tests.support.simulated import WIDTHS, fitted, slide_of, strangers
from tests.support.slide_scores import score_slide

SUBJECT = Subject("m", 0, "g", "s")


def cells(rng: np.random.Generator, slide: str, n: int, away: float = 0.0) -> Cells:
    taps, classes = slide_of(rng, n)
    return Cells(
        {tap: values + away for tap, values in taps.items()},
        classes,
        np.full(n, slide),
        np.asarray([f"{slide}-{i}" for i in range(n)]),
    )


def rubbish(rng: np.random.Generator, n: int) -> Cells:
    taps, classes = strangers(rng, n, away=12.0)
    return Cells(taps, classes, np.full(n, "x"), np.asarray([f"x-{i}" for i in range(n)]))


@pytest.fixture(scope="module")
def detector() -> Detector:
    rng = np.random.default_rng(5)
    slides = [cells(rng, str(number), 60) for number in range(30)]
    every = join(slides)
    gaussians = {
        tap: tied_gaussian(moments(every.taps[tap], every.predicted, 2)) for tap in sorted(WIDTHS)
    }
    logs = [
        log_distance(nearest_class_distance(gaussian, every.taps[tap]))
        for tap, gaussian in gaussians.items()
    ]
    calibration = calibrate(np.stack(logs, axis=1), np.repeat(np.arange(30), 60))
    return Detector(gaussians, calibration, OwnNormal(*fitted()))


def values(metrics: list[Metric], detector: str) -> dict[str, float]:
    return {m.metric: m.found.value for m in metrics if m.detector == detector}


def test_a_foreign_laboratory_is_ordinary_by_its_slides_and_what_is_planted_is_found(
    detector: Detector,
) -> None:
    rng = np.random.default_rng(1)
    foreign = join([cells(rng, f"f{number}", 100, away=8.0) for number in range(6)])
    found = plant(detector, foreign, rubbish(rng, 200), 0.1, own=False)
    assert np.bincount(found.slide).tolist() == [111] * 6
    assert found.planted.sum() == 66
    metrics = planted_metrics(SUBJECT, found)
    own, population = values(metrics, OWN_NORMAL), values(metrics, POPULATION)
    assert own["AUROC"] > 0.99
    assert own["caught at 0.05"] > 0.95
    assert own["false alarms at 0.05"] < 0.1
    assert population["false alarms at 0.05"] == 1.0
    assert found.shifted[OWN_NORMAL].all()


def test_changed_cells_of_a_slide_take_the_place_of_its_ordinary_ones(detector: Detector) -> None:
    rng = np.random.default_rng(2)
    hosts = join([cells(rng, "a", 50), cells(rng, "b", 50)])
    chosen = take(hosts, np.asarray([0, 1, 2, 60]))
    changed = Cells(
        {tap: values + 12 for tap, values in chosen.taps.items()},
        chosen.predicted,
        chosen.slides,
        chosen.image_ids,
    )
    found = plant(detector, hosts, changed, 0.1, own=True)
    assert np.bincount(found.slide).tolist() == [50, 50]
    assert np.bincount(found.slide, found.planted).tolist() == [3, 1]
    assert values(planted_metrics(SUBJECT, found), OWN_NORMAL)["caught at 0.05"] == 1.0


def test_slides_of_few_cells_lean_on_their_night(detector: Detector) -> None:
    rng = np.random.default_rng(7)
    ward = cells(rng, "ward", 200, away=8.0)
    few = [take(ward, np.arange(start, start + 10)) for start in range(0, 200, 10)]
    judged = judge(detector, few, [np.zeros(10, bool)] * 20)
    assert np.mean(judged.p_values[OWN_NORMAL] <= 0.05) < 0.1
    assert np.mean(judged.p_values[POPULATION] <= 0.05) == 1.0


def test_slides_of_few_cells_of_another_stain_than_their_nights_lean_on_fitted_ones(
    detector: Detector,
) -> None:
    rng = np.random.default_rng(8)
    assert detector.own is not None
    slides = [cells(rng, "many", 400), *(cells(rng, str(number), 10) for number in range(10))]
    judged = judge(detector, slides, [np.zeros(len(slide), bool) for slide in slides])
    few = judged.slide > 0
    assert np.mean(judged.p_values[OWN_NORMAL][few] <= 0.05) < 0.1
    night = slide_normal(detector.own.priors, slides[0].taps, slides[0].predicted)
    leaning = [
        score_slide(
            detector.own.priors, detector.own.calibration, s.taps, s.predicted, laboratory=night
        ).p_value
        for s in slides[1:]
    ]
    assert np.mean(np.concatenate(leaning) <= 0.05) > 0.3


def test_slides_are_judged_at_a_laboratory_beside() -> None:
    detector = laboratories.detector()
    own = detector.own
    assert own is not None
    nights = laboratories.of_laboratory(1, 20)
    statistics = merged([kept_statistics(own, s, 2, None) for s in nights], own)
    evidence = [slide_evidence(detector, statistics, s, None) for s in nights]
    made = laboratory_normal(own, statistics, [each for each in evidence if each])
    there = Normal(made.own, made.reference)
    hosts = [*laboratories.of_laboratory(2, 12), *laboratories.of_laboratory(3, 12, n=12)]
    slides = [
        Cells(
            s.taps,
            s.predicted,
            np.full(len(s.rows), str(i)),
            np.asarray([f"{i}-{j}" for j in s.rows]),
        )
        for i, s in enumerate(hosts)
    ]
    none = [np.zeros(len(slide), bool) for slide in slides]
    judged = judge(detector, slides, none, there)
    for host, slide in enumerate(slides):
        reference = made.reference
        alone = score_slide(
            made.own.priors, made.own.calibration, slide.taps, slide.predicted, laboratory=reference
        )
        assert alone.level == ("slide" if len(slide) > 12 else "laboratory")
        np.testing.assert_array_equal(
            judged.p_values[LABORATORY_NORMAL][judged.slide == host], alone.p_value
        )
    without = judge(detector, slides, none)
    np.testing.assert_array_equal(judged.p_values[OWN_NORMAL], without.p_values[OWN_NORMAL])
    assert LABORATORY_NORMAL not in without.p_values
    metrics = alarm_metrics(SUBJECT, judged)
    here, alone = values(metrics, LABORATORY_NORMAL), values(metrics, OWN_NORMAL)
    assert 0.02 < here["mean at 0.05"] < 0.1
    assert here["slides shifted"] < 0.2
    assert alone["slides shifted"] == 1.0
    whole = whole_metrics(SUBJECT, judged)
    assert {m.detector for m in whole} == {OWN_NORMAL, LABORATORY_NORMAL, POPULATION}
    planted = plant(
        detector,
        join(slides),
        rubbish(np.random.default_rng(8), 50),
        0.1,
        own=False,
        laboratory=there,
    )
    assert values(planted_metrics(SUBJECT, planted), LABORATORY_NORMAL)["caught at 0.05"] > 0.95


def test_nothing_to_plant_is_nothing_measured(detector: Detector) -> None:
    rng = np.random.default_rng(3)
    hosts, none = cells(rng, "a", 50), take(rubbish(rng, 5), np.empty(0, np.intp))
    assert planted_metrics(SUBJECT, plant(detector, hosts, none, 0.1, own=False)) == []


def test_false_alarms_are_told_by_slide(detector: Detector) -> None:
    rng = np.random.default_rng(4)
    slides = by_slide(join([cells(rng, f"{number:02d}", 80) for number in range(20)]))
    assert [len(slide) for slide in slides] == [80] * 20
    judged = judge(detector, slides, [np.zeros(80, bool)] * 20)
    found = values(alarm_metrics(SUBJECT, judged), OWN_NORMAL)
    rates = np.asarray(
        [np.mean(judged.p_values[OWN_NORMAL][judged.slide == k] <= 0.05) for k in range(20)]
    )
    assert found["mean at 0.05"] == pytest.approx(rates.mean())
    assert found["deviation at 0.05"] == pytest.approx(rates.std())
    assert found["worst at 0.05"] == rates.max()
    assert 0.02 < found["mean at 0.05"] < 0.1
    assert found["slides shifted"] < 0.3


def test_a_slide_wholly_of_one_kind_is_found_as_a_slide(detector: Detector) -> None:
    rng = np.random.default_rng(6)
    slides = whole_slides(rubbish(rng, 40))
    judged = judge(detector, slides, [np.zeros(40, bool)] * len(slides))
    found = values(whole_metrics(SUBJECT, judged), OWN_NORMAL)
    assert found["slides shifted"] == 1.0
    assert found["cells abnormal at 0.05"] < 0.3
