"""Measure the magnification of photographs once for all that one camera has taken."""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from statistics import median

MEASURED = 32  # photographs; the median of so many has an error of some percent of a diameter


def measured_every(photographs: int) -> int:
    """Choose which of so many photographs are measured: one of how many."""
    return max(1, ceil(photographs / MEASURED))


def typical_diameters(
    sizes: Sequence[tuple[int, int] | None], measured: Sequence[float | None]
) -> list[float | None]:
    """Give each of n photographs the median diameter of a red cell in those of its size.

    Args:
        sizes: width and height in pixels; None of what is no photograph.
        measured: diameters in pixels; None where none was measured, or where there are no cells.

    Returns:
        Diameters in pixels; None where nothing of this size was measured. What is no photograph
        keeps its own.
    """
    known = defaultdict[tuple[int, int], list[float]](list)
    for size, diameter in zip(sizes, measured, strict=True):
        if size is not None and diameter is not None:
            known[size].append(diameter)
    medians = {size: median(diameters) for size, diameters in known.items()}
    return [
        diameter if size is None else medians.get(size)
        for size, diameter in zip(sizes, measured, strict=True)
    ]
