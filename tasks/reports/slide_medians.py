"""Find the median of the values of each slide's cells, which come in parts."""

from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from tasks.types import Float

MOST = 2**31 - 1  # bins to each side of 0


class SlideMedians:
    """The medians of slides' values, to a bin's width.

    A value takes four bytes.

    Args:
        width: of a bin.
    """

    def __init__(self, width: float) -> None:
        self._width = width
        self._places: defaultdict[int, list[NDArray[np.int32]]] = defaultdict(list)

    def count(self, slides: NDArray[np.int64], places: Float) -> None:
        """Count cells (n,) of slides (n,) by number, in bins (n,); NaN and infinity do not count.

        A bin is the value divided by the width, rounded down.
        """
        known = np.flatnonzero(np.abs(places) <= MOST)
        known = known[np.argsort(slides[known], kind="stable")]
        numbers, starts = np.unique(slides[known], return_index=True)
        parts = np.split(places[known].astype(np.int32), starts[1:])
        for number, part in zip(numbers.tolist(), parts, strict=False):
            self._places[number].append(part.copy())

    def of(self, slides: int) -> list[float | None]:
        """Return the median of each slide, None without values; between two bins, the middle.

        >>> medians = SlideMedians(1.0)
        >>> medians.count(np.asarray([0, 0, 2]), np.asarray([3.0, 4.0, 7.0]))
        >>> medians.of(3)
        [4.0, None, 7.5]
        """
        return [self._median(number) for number in range(slides)]

    def _median(self, number: int) -> float | None:
        if number not in self._places:
            return None
        return (float(np.median(np.concatenate(self._places[number]))) + 0.5) * self._width
