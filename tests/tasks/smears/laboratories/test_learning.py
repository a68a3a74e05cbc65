from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tasks.detector.calibration import p_values
from tasks.detector.detector import Detector
from tasks.detector.slides.cell_score import standardised_distances
from tasks.detector.slides.normal import slide_normal
from tasks.detector.slides.own_normal import OwnNormal
from tasks.smears.laboratories import learning
from tests.support.laboratories import commissioned, detector, learned, of_laboratory
from tests.support.slide_scores import score_slide


def own() -> OwnNormal:
    found = detector().own
    assert found is not None
    return found


def night_of(slides: list[learning.SlideCells]) -> learning.NightNormal:
    """The reference of a commissioned night's cells; the rows of its slides follow each other."""
    taps = {tap: np.concatenate([s.taps[tap] for s in slides]) for tap in slides[0].taps}
    predicted = np.concatenate([s.predicted for s in slides])
    normal = slide_normal(own().priors, taps, predicted, learning.LEAST_CELLS)
    return learning.NightNormal(normal, np.flatnonzero(normal.kept))


def numbered(slides: list[learning.SlideCells]) -> list[learning.SlideCells]:
    starts = np.cumsum([0, *(len(s.rows) for s in slides)])
    return [replace(s, rows=a + s.rows) for a, s in zip(starts.tolist(), slides, strict=False)]


def alarms(laboratory: Detector, slides: list[learning.SlideCells]) -> float:
    found = [score_slide(laboratory.own, s.taps, s.predicted) for s in slides]
    return float(np.mean([np.mean(f.p_value <= 0.05) for f in found]))


def test_a_slide_of_a_laboratory_is_no_longer_shifted_and_a_slide_of_elsewhere_is() -> None:
    laboratory, new = commissioned(of_laboratory(1, 30)), of_laboratory(2, 20, batch="later")
    assert all(score_slide(own(), s.taps, s.predicted).beyond for s in new)
    here = [score_slide(laboratory.own, s.taps, s.predicted) for s in new]
    assert np.mean([found.shift_p_value <= 0.05 for found in here]) <= 0.15
    drifted = of_laboratory(3, 5, drift=3.0)
    assert all(score_slide(laboratory.own, s.taps, s.predicted).beyond for s in drifted)


@pytest.mark.parametrize("count", [1, 3, 30])
def test_ordinary_cells_of_new_slides_are_abnormal_at_the_level(count: int) -> None:
    laboratory, new = commissioned(of_laboratory(4, count)), of_laboratory(5, 30, batch="later")
    assert 0.02 <= alarms(laboratory, new) <= 0.08


@pytest.mark.parametrize(("count", "least"), [(1, 0.0), (6, 0.0), (60, 0.02)])
def test_cells_of_small_slides_are_abnormal_at_the_level_and_strangers_are_caught(
    count: int, least: float
) -> None:
    """Slides of 12 cells have no normal of their own: they lean on that of their laboratory."""
    slides = numbered(of_laboratory(6, count, 12))
    night = night_of(slides)
    laboratory = commissioned(slides, night)
    assert learned(slides)[0].keys == ()
    p, strange = [], []
    for slide in of_laboratory(7, 60, 12, batch="later"):
        for found, taps in (
            (p, slide.taps),
            (strange, {tap: x + 4.0 for tap, x in slide.taps.items()}),
        ):
            none = np.zeros(len(slide.rows), bool)
            z = standardised_distances(laboratory.reference, taps, slide.predicted, none)
            assert np.isfinite(z).all()
            scores = np.max((z - laboratory.own.calibration.cells.mean)
                            / laboratory.own.calibration.cells.deviation, axis=1)  # fmt: skip
            found.append(np.mean(p_values(laboratory.own.calibration.cells, scores) <= 0.05))
    assert least <= np.mean(p) <= 0.08
    assert np.mean(strange) > 0.9


def test_what_a_few_slides_say_leans_on_the_population() -> None:
    population = own().calibration.cells
    slides = [np.full(5, 9.0), np.full(50, 9.0)]
    together = learning.mixed(population, slides)
    assert_allclose(together.weights.sum(), 1.0)
    assert_allclose(together.weights[together.scores == 9.0].sum(), 2 / 12)
    assert (np.diff(together.scores) >= 0).all()
    nothing = learning.mixed(population, [])
    assert_allclose(nothing.scores, population.scores)
    assert_allclose(nothing.weights, population.weights)


def test_the_reference_of_small_slides_expects_a_slide_of_the_laboratory() -> None:
    """Cells of a slide never seen vary as cells do, and as slides of the laboratory do."""
    priors = learning.learned_priors(own(), learned(of_laboratory(8, 40))[0])
    for tap, normal in learning.expected_normal(priors).taps.items():
        covariance = normal.factor @ normal.factor.T / normal.nu
        assert_allclose(covariance, priors[tap].within + priors[tap].between, rtol=1e-10)
        d = len(covariance)
        assert 0.9 <= np.trace(covariance) / d <= 1.6  # simulated as 1 + .3^2, and B leans on 1
        assert normal.kappa == np.inf


def test_a_slide_is_judged_by_a_laboratory_without_it() -> None:
    slides = of_laboratory(11, 4)
    others = learning.without(own(), learned(slides)[0], slides[1], None)
    expected, _ = learned([s for s in slides if s is not slides[1]])
    assert others.keys == expected.keys
    for tap in others.taps:
        assert_allclose(others.scatter[tap], expected.scatter[tap], rtol=1e-10, atol=1e-8)


def test_of_a_laboratory_of_one_slide_nothing_is_known_without_it() -> None:
    (slide,) = of_laboratory(12, 1)
    assert learned([slide])[1] == []
    laboratory = commissioned([slide])
    assert len(laboratory.own.calibration.cells.scores) == len(own().calibration.cells.scores)
