"""Choose the thresholds that count, write them on a detector's card, and read them back."""

from functools import lru_cache

from flows.counting.errors import kept_errors
from storage.models.classifiers import ModelCard
from storage.models.detectors import (
    CountingCard,
    DetectorCard,
    RateCard,
    ThresholdCard,
    load_detector,
)
from storage.models.statistics import Lineage
from storage.store import Store
from tasks.counting.limits import ErrorRates, KnownRates, detection_limit
from tasks.counting.rates import Rate
from tasks.counting.threshold import DIAGNOSIS, LEAST_SLIDES, are_enough, known_rates, rates_at
from tasks.reports.columns import PARASITIZED
from tasks.types import below

COUNTING = "error_rates"  # how the names of the rates begin in a detector's arrays


def counting_of(
    store: Store, card: ModelCard, lineage: Lineage, cells: int
) -> tuple[KnownRates | None, CountingCard | None, list[str]]:
    """Choose the thresholds that count parasites, or warn why none can be chosen.

    Args:
        store: where the statistics are.
        card: of the model.
        lineage: the version of the statistics whose error counts tell.
        cells: red cells of a slide for which they are best.
    """
    if PARASITIZED not in card.classes:
        return None, None, []
    counts = kept_errors(store, lineage)
    if counts is None or not are_enough(counts):
        return None, None, [
            f"error rates unknown: fewer than {LEAST_SLIDES} patients or slides that training has "
            "not seen have labelled cells of both kinds"
        ]  # fmt: skip
    rates = known_rates(counts, cells)
    told = CountingCard(
        cells=cells,
        counting=_threshold(rates.counting, cells),
        dense=_threshold(rates.dense, cells),
        diagnosis=_threshold(rates_at(counts, DIAGNOSIS), cells),
    )
    return rates, told, []


@lru_cache(maxsize=4)
def load_error_rates(store: Store, card: DetectorCard) -> KnownRates | None:
    """Read the error rates of a detector's thresholds; None where they are not known."""
    arrays = below(COUNTING, load_detector(store, card))
    return KnownRates.from_arrays(arrays) if arrays else None


def _threshold(rates: ErrorRates, cells: int) -> ThresholdCard:
    return ThresholdCard(
        log_odds=rates.log_odds,
        limit_of_detection=detection_limit(cells, rates),
        false_positives=_rate(rates.false),
        sensitivity=_rate(rates.found),
    )


def _rate(rate: Rate) -> RateCard:
    figures = ("mean", "low", "high", "deviation", "slides", "cells")
    return RateCard(**{name: getattr(rate, name) for name in figures})
