"""Compute the density of parasites among red cells, and the density that could go unseen."""

import math
from enum import StrEnum

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import betainc, ndtri

from tasks.types import Float

SURE = 0.95  # the probability with which a parasite would have been seen


class DensityClass(StrEnum):
    """Name the ranges of a parasitaemia."""

    NONE_SEEN = "none seen"
    BELOW_2 = "below 2%"
    FROM_2 = "2% to 5%"
    FROM_5 = "5% to 10%"
    FROM_10 = "10% or more"


class NegativeCall(StrEnum):
    """The answer to whether a slide without parasites has enough red cells for a negative call."""

    ENOUGH = "enough cells"
    TOO_FEW = "too few cells"


BOUNDS = (
    (2.0, DensityClass.BELOW_2),
    (5.0, DensityClass.FROM_2),
    (10.0, DensityClass.FROM_5),
    (math.inf, DensityClass.FROM_10),
)  # upper ones, in percent
MEANINGS: dict[str, str] = {
    DensityClass.FROM_2: "high for a patient who is not immune",
    DensityClass.FROM_5: "hyperparasitaemia where transmission is low",
    DensityClass.FROM_10: "hyperparasitaemia",
}


def density_class(parasitized: int, cells: int) -> DensityClass | None:
    """Classify a parasitaemia; None without cells.

    The bounds of 5% (low transmission) and 10% (higher transmission) are those commonly used for
    hyperparasitaemia, according to the World Health Organization (Guidelines for the treatment of
    malaria, 2006, 8.13); its criteria of severe malaria have used 2% for patients who are not
    immune. All are for Plasmodium falciparum.

    >>> str(density_class(0, 100)), str(density_class(3, 100))
    ('none seen', '2% to 5%')
    """
    if not cells:
        return None
    if not parasitized:
        return DensityClass.NONE_SEEN
    return next(found for bound, found in BOUNDS if 100 * parasitized < bound * cells)


def density_of_percent(percent: float) -> DensityClass:
    """Classify a parasitaemia above 0; see `density_class`.

    >>> str(density_of_percent(0.4)), str(density_of_percent(2.0))
    ('below 2%', '2% to 5%')
    """
    return next(found for bound, found in BOUNDS if percent < bound)


def density_text(density: str) -> str:
    """Describe a class of density in words.

    >>> density_text("2% to 5%"), density_text("none seen")
    ('2% to 5%: high for a patient who is not immune', 'none seen')
    """
    return f"{density}: {MEANINGS[density]}" if density in MEANINGS else density


def detectable_percent(cells: int) -> float | None:
    """Compute the least parasitaemia in percent that n cells show with 95% probability.

    None without cells. For many cells it is the "rule of three", 300% / n (Hanley & Lippman-Hand
    1983).

    >>> round(detectable_percent(5000), 3)
    0.06
    """
    return -100 * math.expm1(math.log1p(-SURE) / cells) if cells else None


def cells_needed(percent: float) -> int:
    """Compute how many cells show a parasitaemia with 95% probability.

    >>> cells_needed(0.06)
    4992
    """
    return math.ceil(math.log1p(-SURE) / math.log1p(-percent / 100))


def negative_call(cells: int, percent: float) -> NegativeCall:
    """Decide whether a slide without parasites has enough red cells for a negative call.

    ``percent`` is the parasitaemia that the cells must be able to show.
    """
    return NegativeCall.ENOUGH if cells >= cells_needed(percent) else NegativeCall.TOO_FEW


def wilson_interval(count: NDArray[np.int64], total: NDArray[np.int64]) -> tuple[Float, Float]:
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


def binomial_p_value(count: NDArray[np.int64], total: NDArray[np.int64], level: float) -> Float:
    """Compute the exact one-sided binomial p-value of a count at a level; NaN for total 0."""
    return np.where(total > 0, betainc(count, total - count + 1, level), np.nan)


def parasitaemia(
    parasitized: NDArray[np.int64], cells: NDArray[np.int64], suffix: str
) -> dict[str, pa.Array]:
    """Make columns ``parasitaemia_percent``, ``_low`` and ``_high``; null without cells."""
    low, high = wilson_interval(parasitized, cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {"percent": parasitized / cells, "low": low, "high": high}
    return {
        f"parasitaemia{suffix}_{name}": pa.array(100.0 * each, from_pandas=True)
        for name, each in values.items()
    }


def per_1000(parasitized: NDArray[np.int64], cells: NDArray[np.int64]) -> dict[str, pa.Array]:
    """Make columns ``parasitized_per_1000``, ``_low`` and ``_high``; null without cells."""
    low, high = wilson_interval(parasitized, cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = {"": parasitized / cells, "_low": low, "_high": high}
    return {
        f"parasitized_per_1000{name}": pa.array(1000.0 * each, from_pandas=True)
        for name, each in values.items()
    }
