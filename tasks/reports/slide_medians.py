"""Count the values of cells by slide and bin, and find each slide's median."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tasks.types import Float

TOGETHER = 2**14  # values that are counted at once
# Numbers of slides, of bins, and of values in each, all (k,).
Counts = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


class SlideMedians:
    """The medians of slides' values, to a bin's width.

    Memory grows with the number of slides and of their bins, not of values.

    Args:
        width: of a bin.
    """

    def __init__(self, width: float) -> None:
        self._width = width
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._counted: list[Counts] = []
        self._merged = 0

    def count(self, slides: NDArray[np.int64], places: Float) -> None:
        """Count cells (n,) of slides (n,) by number, in bins (n,); NaN and infinity do not count.

        A bin is the value divided by the width, rounded down.
        """
        known = np.isfinite(places)
        self._waiting.append((slides[known], places[known].astype(np.int64)))
        if sum(len(each) for each, _ in self._waiting) > TOGETHER:
            self._count_waiting()

    def of(self, slides: int) -> list[float | None]:
        """Return the median of each slide, None without values; between two bins, the middle.

        >>> medians = SlideMedians(1.0)
        >>> medians.count(np.asarray([0, 0, 2]), np.asarray([3.0, 4.0, 7.0]))
        >>> medians.of(3)
        [4.0, None, 7.5]
        """
        self._count_waiting()
        found, places, times = _merged(self._counted)
        ends = np.searchsorted(found, np.arange(slides + 1)).tolist()
        return [
            self._median(places[start:stop], times[start:stop]) for start, stop in pairwise(ends)
        ]

    def _median(self, places: NDArray[np.int64], times: NDArray[np.int64]) -> float | None:
        upto = np.cumsum(times)
        if not len(upto):
            return None
        ranks = [(upto[-1] - 1) // 2, upto[-1] // 2]
        middle = places[np.searchsorted(upto, ranks, side="right")]
        return float((int(middle.sum()) / 2 + 0.5) * self._width)

    def _count_waiting(self) -> None:
        for slides, places in self._waiting:
            self._counted.append(_merged([(slides, places, np.ones(len(slides), np.int64))]))
        self._waiting.clear()
        # The cells of a slide mostly come together, so there is hardly anything to merge.
        if sum(len(each) for each, *_ in self._counted) > max(TOGETHER, 2 * self._merged):
            self._counted = [_merged(self._counted)]
            self._merged = len(self._counted[0][0])


def _merged(parts: Sequence[Counts]) -> Counts:
    """Sort counts by slide and bin, and add up those of the same."""
    nothing = np.zeros(0, np.int64)
    slides, places, times = (
        np.concatenate(each) for each in zip((nothing,) * 3, *parts, strict=True)
    )
    order = np.lexsort((places, slides))
    slides, places, times = slides[order], places[order], times[order]
    changed = (np.diff(slides, prepend=-1) != 0) | (np.diff(places, prepend=0) != 0)
    changed[:1] = True
    starts = np.flatnonzero(changed)
    if not len(starts):
        return nothing, nothing, nothing
    return slides[starts], places[starts], np.add.reduceat(times, starts)
