"""Measure the magnification once for all photographs of one camera."""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil
from statistics import median

MEASURED = 32  # photographs; their median has an error of some percent of a diameter


def measured_every(photographs: int) -> int:
    """Return k: every k-th of ``photographs`` is measured."""
    return max(1, ceil(photographs / MEASURED))


def typical_diameters(
    sizes: Sequence[tuple[int, int] | None], measured: Sequence[float | None]
) -> list[float | None]:
    """Return the median diameter of a red cell in photographs of the same size, for each of n.

    Args:
        sizes: width and height in pixels; None if it is not a photograph.
        measured: diameters in pixels; None if not measured, or without cells.

    Returns:
        Diameters in pixels; None if nothing of this size was measured. Anything but a photograph
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
