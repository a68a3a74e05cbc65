"""Decide whether a slide may be called negative: only where the detector's errors were measured.

Rings vanish in a photograph of half the resolution or behind a slight blur, and a sensitivity that
was measured on other slides says nothing of such a one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import betaincinv

from tasks.smears.counting.interpretation import blank_count
from tasks.smears.counting.rates import NODES


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

        It is the limit of blank of the diagnosis, whether a cell counts or not. The rate of a slide
        is beta-distributed, with the mean and deviation that were measured.
        """
        variance = self.deviation**2
        rates = np.full(1, self.mean)
        if 0 < variance < self.mean * (1 - self.mean):
            precision = self.mean * (1 - self.mean) / variance - 1
            shares = (np.arange(NODES) + 0.5) / NODES
            rates = betaincinv(self.mean * precision, (1 - self.mean) * precision, shares)
        return blank_count(cells, rates)
