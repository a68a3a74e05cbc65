"""Read log-odds by the ruler of a laboratory's own healthy cells, and not of the training cells.

A network that is tuned to a laboratory finds more parasites there, and the log-odds of all cells
move. The bulk of a laboratory's cells is healthy, so its median shows by how much: the ruler moves
it to that of home, or `LOWER`, because the network is surer of parasites then, and of dirt. So
thresholds keep their meaning, the share of healthy cells that they call.

The ruler has no scale: parasites of three laboratories lie as far above the median of their healthy
cells (10 to 12), and stretching by the spread of those cells drove them, and dirt, apart.
"""

from dataclasses import dataclass

import numpy as np

from tasks import bundles
from tasks.types import Numbers

# In log-odds, chosen by the healthy cells that thresholds call at five laboratories, each left out.
LOWER = 2.0


@dataclass(frozen=True)
class Ruler(bundles.Bundle):
    """A change of the log-odds of the class at ``place``: ``bias`` is added."""

    bias: float = 0.0
    place: int = 0

    def of(self, logits: Numbers) -> Numbers:
        """Change logits (n, C)."""
        changed = logits.copy()
        changed[:, self.place] += np.float32(self.bias)
        return changed
