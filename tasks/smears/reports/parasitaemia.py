"""Compute intervals of counts, classes of parasitaemia, and the cells that show a parasitaemia."""

import math
from bisect import bisect_right
from enum import StrEnum

import numpy as np
from scipy.special import ndtri

from tasks.types import Counts, Float

SURE = 0.95  # the probability with which a parasite would have been seen


class DensityClass(StrEnum):
    """Name the ranges of a parasitaemia."""

    NONE_SEEN = "none seen"
    BELOW_2 = "below 2%"
    FROM_2 = "2% to 5%"
    FROM_5 = "5% to 10%"
    FROM_10 = "10% or more"


UPPER = (2.0, 5.0, 10.0)  # bounds of the classes from `DensityClass.BELOW_2` on, in percent
MEANINGS: dict[str, str] = {
    DensityClass.FROM_2: "high for a patient who is not immune",
    DensityClass.FROM_5: "hyperparasitaemia where transmission is low",
    DensityClass.FROM_10: "hyperparasitaemia",
}


def density_class(percent: float) -> DensityClass:
    """Classify a parasitaemia above 0.

    The bounds of 5% (low transmission) and 10% (higher transmission) are those commonly used for
    hyperparasitaemia, according to the World Health Organization (Guidelines for the treatment of
    malaria, 2006, 8.13); its criteria of severe malaria have used 2% for patients who are not
    immune. All are for Plasmodium falciparum.

    >>> str(density_class(0.4)), str(density_class(2.0))
    ('below 2%', '2% to 5%')
    """
    return list(DensityClass)[1 + bisect_right(UPPER, percent)]


def density_text(density: str) -> str:
    """Describe a class of density in words.

    >>> density_text("2% to 5%"), density_text("none seen")
    ('2% to 5%: high for a patient who is not immune', 'none seen')
    """
    return f"{density}: {MEANINGS[density]}" if density in MEANINGS else density


def cells_needed(percent: float) -> int:
    """Compute how many cells show a parasitaemia with 95% probability.

    For small ones it is the "rule of three", 300% / n (Hanley & Lippman-Hand 1983).

    >>> cells_needed(0.06)
    4992
    """
    return math.ceil(math.log1p(-SURE) / math.log1p(-percent / 100))


def wilson_interval(count: Counts, total: Counts) -> tuple[Float, Float]:
    """Compute the 95% interval of shares count / total (Wilson 1927); NaN where the total is 0."""
    z = float(ndtri(0.975))
    with np.errstate(divide="ignore", invalid="ignore"):
        p, n = count / total, total.astype(np.float64)
        middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    # Without the limits, rounding could make the lower bound negative.
    low, high = (
        np.where(count == 0, 0.0, middle - half),
        np.where(count == total, 1.0, middle + half),
    )
    return np.where(total > 0, low, np.nan), np.where(total > 0, high, np.nan)
