"""Estimate the diameter of a red cell in photographs from those of similar size."""

from collections import defaultdict
from collections.abc import Sequence
from math import ceil, log2
from statistics import median

MEASURED = 32  # photographs; their median has an error of some percent of a diameter
SIZES_ALIKE = 0.25  # octaves of the longer side of photographs at one magnification


def measured_every(photographs: int) -> int:
    """Return k: every k-th of ``photographs`` is measured."""
    return max(1, ceil(photographs / MEASURED))


def typical_diameters(
    sizes: Sequence[tuple[int, int] | None], measured: Sequence[float | None]
) -> list[float | None]:
    """Return the median diameter of a red cell in photographs of similar size, for each of n.

    ``sizes`` are width and height, None of anything but a photograph, which keeps its own diameter.
    A diameter is None if it was not measured, or nothing of this size was.
    """
    # Every picture of a telephone at an eyepiece is cut to another size.
    alike = [None if size is None else round(log2(max(size)) / SIZES_ALIKE) for size in sizes]
    known = defaultdict[int, list[float]](list)
    for size, diameter in zip(alike, measured, strict=True):
        if size is not None and diameter is not None:
            known[size].append(diameter)
    medians = {size: median(diameters) for size, diameters in known.items()}
    return [
        diameter if size is None else medians.get(size)
        for size, diameter in zip(alike, measured, strict=True)
    ]
