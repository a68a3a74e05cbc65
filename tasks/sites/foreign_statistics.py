"""Check class statistics of another store before they are merged into this store's.

The statistics in a file cannot be compared with the cells. They can be compared with each other:
sums from real cells agree. And they can be compared with the cells fitted here: the network is the
same, and laboratories differ by some deviations of cells, not by hundreds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.detector.moments import ClassStatistics, Moments
from tasks.detector.slides.groups import GroupStatistics
from tasks.sites.bounds import array, counts, exactly, groups, number, refuse, semidefinite
from tasks.types import Arrays, Float

# Stains move class means by up to ten deviations of cells; nothing real moves them thirty.
MOST_DEVIATIONS = 30.0
LEAST_SPREAD = 1e-4  # of the local variance: the least for many cells
MANY_CELLS = 20  # from which a variance is meaningful
ENOUGH, FEATURES = 5, 4  # cells and features whose mean identifies a slide
DISAGREEMENT = 1e-6  # share of a sum of squares that rounding may add


@dataclass(frozen=True)
class Reach:
    """The location and spread (d,) of fitted cells at one tap."""

    mean: Float
    deviation: Float

    def far(self, means: Float) -> float:
        """Compute the largest distance of some means (n, d), in deviations."""
        away = np.abs(means - self.mean) / self.deviation
        return float(away.max(initial=0.0))


def reach_of(moments: Moments) -> Reach | None:
    """Compute the location and spread of all fitted cells; None if nothing varies.

    A feature that never varied here may vary elsewhere, so the tap's mean variance is added.
    """
    total = moments.n.sum()
    if not total:
        return None
    mean = moments.n @ moments.mean / total
    away = moments.mean - mean
    squares = np.einsum("cii->i", moments.scatter) + moments.n @ away**2
    variance = squares / total
    deviation = np.sqrt(variance + variance.mean())
    return Reach(mean, deviation) if (deviation > 0).all() else None


def checked_statistics(
    field: str,
    arrays: Arrays,
    classes: Sequence[str],
    batch: str,
    images: int,
    local: ClassStatistics,
) -> ClassStatistics:
    """Check the contribution of another store's batch, and return it.

    ``field`` names the batch in messages. The arrays are named as by `ClassStatistics.to_arrays`,
    ``images`` is the number of cells in the file's header, and ``local`` are the statistics fitted
    here.

    Raises:
        UnfitError: a field is beyond its limit; the message states both.
    """
    widths = {tap: moments.width for tap, moments in local.taps.items()}
    wanted = {f"{tap}/raw/{part}" for tap in widths for part in ("n", "mean", "scatter")}
    exactly(field, {k: v for k, v in arrays.items() if not k.startswith("slides/")}, wanted)
    first = next(iter(widths))
    n = counts(f"{first}/raw/n", arrays, (len(classes),))
    if n.sum() != images:
        refuse(f"{first}/raw/n", f"{n.sum():g} cells", f"{images}, as the header says")
    taps = {tap: _moments(tap, arrays, n, moments) for tap, moments in local.taps.items()}
    slides = groups("slides", arrays, widths, len(classes), (batch,))
    for tap, moments in taps.items():
        _agree(tap, moments, slides)
    return ClassStatistics(taps, slides)


def _moments(tap: str, arrays: Arrays, n: Float, local: Moments) -> Moments:
    """Check the moments of one tap for consistency, and against fitted cells."""
    name = f"{tap}/raw"
    if not np.array_equal(counts(f"{name}/n", arrays, n.shape), n):
        refuse(f"{name}/n", "not that of the other taps", "the same at every tap")
    reach, width = reach_of(local), local.width
    mean = array(f"{name}/mean", arrays, (len(n), width))
    scatter = array(f"{name}/scatter", arrays, (len(n), width, width))
    for c, cells in enumerate(n.tolist()):
        of_class = f"of class {c}"
        if not cells and mean[c].any():
            refuse(f"{name}/mean {of_class}", "not 0", "0: the class has no cell")
        if cells <= 1 and scatter[c].any():
            refuse(f"{name}/scatter {of_class}", "not 0", f"0: the class has {cells:g} cells")
        semidefinite(f"{name}/scatter {of_class}", scatter[c])
        if reach is None or not cells:
            continue
        most = f"{MOST_DEVIATIONS:g} deviations of fitted cells at most"
        if not (far := reach.far(mean[c])) <= MOST_DEVIATIONS:
            refuse(f"{name}/mean {of_class}", f"{far:.3g} deviations away", f"within {most}")
        wide = float(np.sqrt(np.max(scatter[c].diagonal() / cells / reach.deviation**2)))
        if not wide <= MOST_DEVIATIONS:
            refuse(f"{name}/scatter {of_class}", f"{wide:.3g} deviations wide", most)
        if cells >= MANY_CELLS:
            spread = float(np.trace(scatter[c]) / cells / (reach.deviation**2).sum())
            number(f"{name}/scatter {of_class}, as a share of the variance of fitted cells",
                   spread, LEAST_SPREAD, MOST_DEVIATIONS**2)  # fmt: skip
    return Moments(n, mean, scatter)


def _agree(tap: str, moments: Moments, slides: GroupStatistics) -> None:
    """Compare the sums over all cells with those by slide, which leave a few cells out.

    The scatter of all cells is the sum of that within slides and that of the slides' means, so the
    slides' part is never larger.
    """
    left = moments.n - slides.n.sum(axis=0)
    if (left < 0).any():
        refuse("slides/n", f"{slides.n.sum():g} cells", f"{moments.n.sum():g} at most")
    away = slides.means[tap] - moments.mean
    squares = np.einsum("gc,gcd,gcd->c", slides.n, away, away)
    within = np.einsum("cii->c", slides.scatter[tap])
    total = np.einsum("cii->c", moments.scatter)
    size = total + moments.n * np.einsum("cd,cd->c", moments.mean, moments.mean)
    if (within + squares > total + DISAGREEMENT * size).any():
        refuse(f"slides/means/{tap} and slides/scatter/{tap}", "more spread than all cells",
               f"at most that of {tap}/raw/scatter")  # fmt: skip


def fingerprints(slides: GroupStatistics) -> set[bytes]:
    """Make a fingerprint of each slide and class with enough cells: their number and mean.

    The same cells have the same mean to the last digits, whatever their slide is called.
    """
    tap = slides.taps[0]
    found = set()
    for row, c in np.argwhere(slides.n >= ENOUGH).tolist():
        mean = slides.means[tap][row, c, :FEATURES]
        # The sum comes from merged or retracted parts, so its last digits may differ.
        digits = " ".join(f"{value:.9e}" for value in mean.tolist())
        found.add(f"{c} {slides.n[row, c]:g} {digits}".encode())
    return found


def moved(before: ClassStatistics, after: ClassStatistics) -> Mapping[str, float]:
    """Compute, by tap, the largest move of a class mean in deviations of fitted cells."""
    found = {}
    for tap, moments in before.taps.items():
        reach, there = reach_of(moments), moments.n > 0
        if reach is None or not there.any():
            continue
        away = np.abs(after.taps[tap].mean - moments.mean)[there] / reach.deviation
        found[tap] = float(away.max())
    return found
