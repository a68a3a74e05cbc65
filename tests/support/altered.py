"""Simulated slides as other laboratories would show them, and what is no smear at all."""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from tasks.detector.slides.night_smears import Floor, fit_floor, residuals
from tasks.detector.slides.own_normal import OwnNormal
from tasks.smears.laboratories.learning import SlideCells
from tests.support.laboratories import WIDTHS, detector, slide

FEATURES = sum(WIDTHS.values())
# Laboratories differ in three directions, by a deviation of 8 where cells vary by 1.
DIRECTIONS = np.linalg.qr(np.random.default_rng(7).normal(size=(FEATURES, FEATURES)))[0]
AWAY = 8.0
ELSEWHERE = DIRECTIONS[:3]
NOWHERE = DIRECTIONS[3]  # no laboratory lies that way


def by_tap(shift: np.ndarray) -> dict[str, np.ndarray]:
    """Divide a shift (D,) into its taps, in the order of their names."""
    early = WIDTHS["early"]
    return {"early": shift[:early], "late": shift[early:]}


def smear(
    seed: int, shift: np.ndarray | float = 0.0, n: int = 80, spread: float = 1.0
) -> SlideCells:
    """Cells of one slide that lies away from the population; ``spread`` is how much they vary."""
    rng = np.random.default_rng(seed)
    away = np.zeros(FEATURES) + shift
    made = slide(rng, f"s{seed}", n, away=by_tap(away), shift=0.3)
    if spread == 1.0:
        return made
    noise = spread * rng.normal(size=(n, FEATURES))
    taps = {tap: made.taps[tap] + by_tap(noise.T)[tap].T for tap in WIDTHS}
    return replace(made, taps=taps)


def together(*slides: SlideCells) -> SlideCells:
    """Make one group of the cells of several slides."""
    n = sum(len(each.rows) for each in slides)
    return SlideCells(
        slides[0].key,
        np.arange(n),
        {tap: np.concatenate([each.taps[tap] for each in slides]) for tap in WIDTHS},
        np.concatenate([each.predicted for each in slides]),
        np.ones(n, bool),
    )


@lru_cache(maxsize=2)
def floor(pieces: int = 0) -> Floor:
    """The floor of 90 altered slides of 30 patients; those with ``pieces`` vary more."""
    own, rng = detector().own, np.random.default_rng(3)
    assert own is not None
    cells, names = [], []
    for number in range(90):
        away, spread = AWAY * rng.normal(size=3) @ ELSEWHERE, 2.0 if number < pieces else 1.0
        made = smear(100 + number, away, 16, spread)
        cells.append(residuals(own.priors, made.taps, made.predicted)[0])
        names.append(number % 30)
    fitted = fit_floor(cells, names)
    return replace(fitted, spread=0.4 * fitted.spread)  # photographs' spreads differ more


def own() -> OwnNormal:
    """The own normal of the simulated population, with a floor."""
    known = detector().own
    assert known is not None
    return replace(known, floor=floor())
