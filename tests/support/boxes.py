"""Boxes of cells as rows of left, top, right and bottom."""

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]


def overlap(some: Boxes, others: Boxes) -> Boxes:
    """Intersection over union of boxes, (n, m)."""
    low = np.maximum(some[:, None, :2], others[:, :2])
    high = np.minimum(some[:, None, 2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas, other_areas = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (some, others))
    return np.asarray(shared / (areas[:, None] + other_areas - shared))
