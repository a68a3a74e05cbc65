"""Decide whether a slide may be called negative: only where the detector's errors were measured.

Rings vanish in a photograph of half the resolution or behind a slight blur, and a sensitivity that
was measured on other slides says nothing of such a one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy.stats import betabinom, binom

from tasks.counting.interpretation import LEVEL

LEAST_CELLS = 30  # of a slide with known cells, whose mean size says how it was photographed


@dataclass(frozen=True)
class Measured:
    """The slides on which error rates were measured: how they were photographed, what they showed.

    ``least_size`` is the smallest mean size of a slide's red cells, in pixels; ``least_sharpness``
    the lowest mean sharpness of a slide's photographs, None if there were none. ``mean`` and
    ``deviation`` between slides are of the share of healthy cells diagnosed as parasitized.
    """

    least_size: float
    least_sharpness: float | None
    mean: float
    deviation: float

    def covers(self, slide: Mapping[str, Any]) -> bool:
        """Return whether a slide was photographed at least as large and sharp as these.

        ``slide`` has the ``cell_size`` and the ``sharpness`` of its row of the report on slides;
        without photographs it has no sharpness.
        """
        size, sharpness = slide["cell_size"], slide["sharpness"]
        if size is None or size < self.least_size:
            return False
        if sharpness is None:
            return True
        return self.least_sharpness is not None and bool(sharpness >= self.least_sharpness)

    def most_healthy(self, cells: int) -> int:
        """Compute the number of ``cells`` that look parasitized on at most 95% of healthy slides.

        It is the limit of blank of the diagnosis, whether a cell counts or not: beta-binomial, with
        the mean and deviation between slides that were measured (as `tasks.counting.rates`).
        """
        variance = self.deviation**2
        if not 0 < variance < self.mean * (1 - self.mean):
            return int(binom.ppf(LEVEL, cells, self.mean))
        precision = self.mean * (1 - self.mean) / variance - 1
        alpha, beta = self.mean * precision, (1 - self.mean) * precision
        return int(betabinom.ppf(LEVEL, cells, alpha, beta))
