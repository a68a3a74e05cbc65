"""Simulated slides of a population and of a laboratory, and a detector that was fitted on the
first.
"""

from functools import lru_cache

import numpy as np

from tasks.detector.calibration import calibrate, leave_group_out
from tasks.detector.detector import Detector, fit_gaussians
from tasks.detector.moments import statistics_of
from tasks.detector.slides import groups
from tasks.detector.slides.own_normal import OwnNormal
from tasks.smears.laboratories import learning
from tests.support.simulated import WIDTHS, own_of, slide_of

LABORATORY = {
    tap: np.linspace(4.0, 6.0, d) for tap, d in WIDTHS.items()
}  # how far all its slides are


def slide(
    rng: np.random.Generator,
    name: str,
    n: int = 80,
    *,
    batch: str = "night",
    away: dict[str, np.ndarray] | None = None,
    shift: float = 1.0,
) -> learning.SlideCells:
    """Cells of one slide: B is shift^2 I around the population or a laboratory, and W is I."""
    taps, classes = slide_of(rng, n, shift)
    if away is not None:
        taps = {tap: values + away[tap] for tap, values in taps.items()}
    key = groups.GroupKey(batch, "", name)
    return learning.SlideCells(key, np.arange(n), taps, classes, np.ones(n, bool))


def of_laboratory(
    seed: int, count: int, n: int = 80, *, batch: str = "night", drift: float = 0.0
) -> list[learning.SlideCells]:
    """Slides of the laboratory, each a third as far from each other as slides of the population."""
    rng = np.random.default_rng(seed)
    away = {tap: shift + drift for tap, shift in LABORATORY.items()}
    return [
        slide(rng, f"{batch}-{i:02d}", n, batch=batch, away=away, shift=0.3) for i in range(count)
    ]


def learned(
    slides: list[learning.SlideCells], night: learning.NightNormal | None = None, far: float = 0.0
) -> tuple[groups.GroupStatistics, list[learning.SlideEvidence]]:
    """Statistics of a laboratory's slides, and the evidence of each that the others allow.

    Nine cells of each slide are also planted in it, ``far`` away from where they are.
    """
    own = detector().own
    assert own is not None
    statistics = learning.merged([learning.kept_statistics(own, s, 2, night) for s in slides], own)
    evidence = []
    for s in slides:
        planted = {"far": ({tap: x[:9] + far for tap, x in s.taps.items()}, s.predicted[:9])}
        evidence.append(learning.slide_evidence(detector(), statistics, s, night, planted))
    return statistics, [each for each in evidence if each is not None]


def commissioned(
    slides: list[learning.SlideCells], night: learning.NightNormal | None = None
) -> Detector:
    """Commission the laboratory of these slides."""
    return learning.commissioned(detector(), *learned(slides, night))


@lru_cache(maxsize=1)
def detector() -> Detector:
    """A detector of 30 slides, each left out of its own prior."""
    rng = np.random.default_rng(0)
    slides = [slide(rng, f"{i:02d}", int(rng.integers(40, 120))) for i in range(30)]
    taps = {tap: np.concatenate([s.taps[tap] for s in slides]) for tap in WIDTHS}
    labels = np.concatenate([s.predicted for s in slides])
    total = statistics_of(taps, labels, 2, [s.key for s in slides for _ in s.rows])
    own = own_of([(s.taps, s.predicted) for s in slides], [s.key for s in slides])
    own = OwnNormal.from_arrays(own.to_arrays())  # as it is where it is used
    logs = [
        np.stack([leave_group_out(total.taps[t], s.taps[t], s.predicted) for t in WIDTHS], axis=1)
        for s in slides
    ]
    number = np.repeat(np.arange(len(slides)), [len(s.rows) for s in slides])
    return Detector(fit_gaussians(total), calibrate(np.concatenate(logs), number), own)
