"""Count the values of cells by slide and bin, and find each slide's median."""

import numpy as np
from numpy.typing import NDArray

from tasks.types import Float


class SlideMedians:
    """The medians of slides' values, to a bin's width.

    Memory grows with the number of slides and of their bins, not of values.

    Args:
        width: of a bin.
    """

    def __init__(self, width: float) -> None:
        self._width = width
        nothing = np.zeros(0, np.int64)
        self._slides, self._places, self._times = nothing, nothing, nothing
        self._waiting: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def count(self, slides: NDArray[np.int64], places: Float) -> None:
        """Count cells (n,) of slides (n,) by number, in bins (n,); NaN and infinity do not count.

        A bin is the value divided by the width, rounded down.
        """
        known = np.isfinite(places)
        self._waiting.append((slides[known], places[known].astype(np.int64)))
        # Seldom enough that counting takes linear time in the number of values.
        if sum(len(each) for each, _ in self._waiting) > max(2**14, len(self._slides)):
            self._merge()

    def of(self, slides: int) -> list[float | None]:
        """Return the medians of so many slides, None without values; between two bins, the middle.

        >>> medians = SlideMedians(1.0)
        >>> medians.count(np.asarray([0, 0, 2]), np.asarray([3.0, 4.0, 7.0]))
        >>> medians.of(3)
        [4.0, None, 7.5]
        """
        self._merge()
        ends = np.searchsorted(self._slides, np.arange(slides + 1))
        return [
            self._median(slice(start, stop))
            for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        ]

    def _median(self, rows: slice) -> float | None:
        places, upto = self._places[rows], np.cumsum(self._times[rows])
        if not len(upto):
            return None
        ranks = [(upto[-1] - 1) // 2, upto[-1] // 2]
        middle = places[np.searchsorted(upto, ranks, side="right")]
        return float((int(middle.sum()) / 2 + 0.5) * self._width)

    def _merge(self) -> None:
        if not self._waiting:
            return
        slides, places = (
            np.concatenate([known, *new])
            for known, new in zip(
                (self._slides, self._places), zip(*self._waiting, strict=True), strict=True
            )
        )
        times = np.ones(len(slides), np.int64)
        times[: len(self._times)] = self._times
        self._waiting.clear()
        order = np.lexsort((places, slides))
        slides, places, times = slides[order], places[order], times[order]
        changed = (np.diff(slides, prepend=-1) != 0) | (np.diff(places, prepend=0) != 0)
        changed[:1] = True
        starts = np.flatnonzero(changed)
        self._slides, self._places = slides[starts], places[starts]
        self._times = np.add.reduceat(times, starts) if len(starts) else times
