"""Compute intervals of counts, classes of parasitaemia, and the cells that show a parasitaemia."""

import math
from bisect import bisect_right
from enum import StrEnum

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

    5% (low transmission) and 10% (higher) are usual bounds of hyperparasitaemia (World Health
    Organization, Guidelines for the treatment of malaria, 2006, 8.13); 2% has been one of severe
    malaria of patients who are not immune. All are for Plasmodium falciparum.

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


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """Compute the 95% interval of a share count / total, total > 0 (Wilson 1927)."""
    # A page of answers imports this module, and rarely needs an interval.
    from scipy.stats import binomtest

    low, high = binomtest(count, total).proportion_ci(method="wilson")
    return float(low), float(high)
