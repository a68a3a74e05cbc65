"""Simulate slides whose shifts and whose cells are normal, and fit what is known of them."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from tasks.detector.slides import groups, normal, own_normal

WIDTHS = {"early": 5, "late": 8}
MEANS = {tap: np.stack([np.zeros(d), np.full(d, 1.5)]) for tap, d in WIDTHS.items()}
Slide = tuple[dict[str, np.ndarray], np.ndarray]


def slide_of(
    rng: np.random.Generator, n: int = 100, shift: float = 1.0, scale: float = 1.0
) -> Slide:
    """Cells of one slide: B is shift^2 I, W is scale^2 I."""
    classes = rng.integers(0, 2, n)
    taps = {
        tap: means[classes]
        + shift * rng.normal(size=means.shape[1])
        + scale * rng.normal(size=(n, means.shape[1]))
        for tap, means in MEANS.items()
    }
    return taps, classes


def joined(a: Slide, b: Slide) -> Slide:
    taps = {tap: np.concatenate([a[0][tap], b[0][tap]]) for tap in a[0]}
    return taps, np.concatenate([a[1], b[1]])


def strangers(rng: np.random.Generator, n: int, away: float = 6.0) -> Slide:
    """Things that are alike, all to one side of every slide."""
    return {t: away + rng.normal(size=(n, d)) for t, d in WIDTHS.items()}, rng.integers(0, 2, n)


def own_of(slides: Sequence[Slide], keys: Sequence[groups.GroupKey]) -> own_normal.OwnNormal:
    """The own normal of slides, calibrated on each of them left out of its own prior."""
    parts = [
        groups.group_statistics(*slide, [key] * len(slide[1]), 2)
        for slide, key in zip(slides, keys, strict=True)
    ]
    taps = {tap: np.concatenate([own[tap] for own, _ in slides]) for tap in slides[0][0]}
    classes = np.concatenate([own for _, own in slides])
    every = [key for key, (_, own) in zip(keys, slides, strict=True) for _ in own]
    total = groups.group_statistics(taps, classes, every, 2)
    priors = [normal.priors_of(groups.retract_groups(total, part)) for part in parts]
    pairs = list(zip(priors, slides, strict=True))
    spread = own_normal.slides_spread([own_normal.fitted_slide(p, *own) for p, own in pairs])
    calibration = own_normal.own_calibration(
        [own_normal.fitted_slide(own_normal.with_spread(p, *spread), *own) for p, own in pairs]
    )
    prior = own_normal.with_spread(normal.priors_of(total), *spread)
    return own_normal.OwnNormal(prior, calibration)


@lru_cache(maxsize=1)
def fitted() -> own_normal.OwnNormal:
    """The own normal of 40 slides."""
    rng = np.random.default_rng(0)
    slides = [slide_of(rng, int(rng.integers(40, 120))) for _ in range(40)]
    return own_of(slides, [groups.GroupKey("", "", f"{i:02d}") for i in range(len(slides))])
