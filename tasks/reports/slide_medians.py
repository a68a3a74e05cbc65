"""Find the median of the values of each slide's cells, which come in parts."""

from itertools import pairwise
from tempfile import TemporaryFile
from typing import IO
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from tasks.types import Float

MOST = 2**31 - 1  # bins to each side of 0
KEPT = 2**16  # values in memory together, or those of one slide if they are more


class SlideMedians:
    """The medians of slides' values, to a bin's width.

    Values wait in a temporary file that has no name, so memory does not grow with their number.

    Args:
        width: of a bin.
    """

    def __init__(self, width: float) -> None:
        self._width = width
        self._file: IO[bytes] = TemporaryFile()  # noqa: SIM115  (closed with this object)
        finalize(self, self._file.close)
        self._values = 0

    def count(self, slides: NDArray[np.int64], places: Float) -> None:
        """Count cells (n,) of slides (n,) by number, in bins (n,); NaN and infinity do not count.

        A bin is the value divided by the width, rounded down.
        """
        known = np.abs(places) <= MOST
        pairs = np.stack([slides[known], places[known]], axis=1).astype(np.int32)
        self._file.write(pairs.tobytes())
        self._values += len(pairs)

    def of(self, slides: int) -> list[float | None]:
        """Return the median of each slide, None without values; between two bins, the middle.

        >>> medians = SlideMedians(1.0)
        >>> medians.count(np.asarray([0, 0, 2]), np.asarray([3.0, 4.0, 7.0]))
        >>> medians.of(3)
        [4.0, None, 7.5]
        """
        medians: list[float | None] = [None] * slides
        piles = -(-self._values // KEPT)
        for pile in range(piles):
            pairs = self._pile(pile, piles)
            pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
            numbers, starts = np.unique(pairs[:, 0], return_index=True)
            ranges = pairwise([*starts.tolist(), len(pairs)])
            for number, (start, stop) in zip(numbers.tolist(), ranges, strict=True):
                middle = float(np.median(pairs[start:stop, 1]))
                medians[number] = (middle + 0.5) * self._width
        return medians

    def _pile(self, pile: int, piles: int) -> NDArray[np.int32]:
        """Read the slides and bins (k, 2) of every n-th slide."""
        self._file.seek(0)
        found = []
        for _ in range(0, self._values, KEPT):
            pairs = np.frombuffer(self._file.read(8 * KEPT), np.int32).reshape(-1, 2)
            found.append(pairs[pairs[:, 0] % piles == pile])
        return np.concatenate(found)
