"""Simulate slides whose shifts and whose cells are normal, and fit what is known of them."""

from functools import lru_cache

import numpy as np

from tasks.detector.slides import cell_score, groups, normal, own_normal

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


@lru_cache(maxsize=1)
def fitted() -> own_normal.OwnNormal:
    """Priors and a calibration of 40 slides, each left out of its own prior."""
    rng = np.random.default_rng(0)
    slides = [slide_of(rng, int(rng.integers(40, 120))) for _ in range(40)]
    keys = [groups.GroupKey("", "", f"{i:02d}") for i in range(len(slides))]
    parts = [
        groups.group_statistics(t, c, [k] * len(c), 2)
        for (t, c), k in zip(slides, keys, strict=True)
    ]
    taps = {tap: np.concatenate([s[0][tap] for s in slides]) for tap in WIDTHS}
    labels = np.concatenate([s[1] for s in slides])
    every = [key for key, (_, c) in zip(keys, slides, strict=True) for _ in c]
    total = groups.group_statistics(taps, labels, every, 2)

    def priors(statistics: object) -> dict[str, cell_score.Prior]:
        return {tap: normal.prior_of(statistics, tap) for tap in WIDTHS}  # type: ignore[arg-type]

    without = [priors(groups.retract_groups(total, part)) for part in parts]
    spread = own_normal.slides_spread(
        [own_normal.fitted_slide(p, *s) for p, s in zip(without, slides, strict=True)]
    )
    without = [own_normal.with_spread(p, *spread) for p in without]
    calibration = own_normal.own_calibration(
        [own_normal.fitted_slide(p, *s) for p, s in zip(without, slides, strict=True)]
    )
    return own_normal.OwnNormal(own_normal.with_spread(priors(total), *spread), calibration)
