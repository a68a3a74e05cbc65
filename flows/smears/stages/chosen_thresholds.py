"""Choose the counting thresholds, write them on a detector's card, and read them back.

A commissioned detector has the thresholds of its parent, with the error rates of its laboratory.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from flows.jobs.scoring.screened import Screened
from flows.settings import Settings
from flows.stages.error_counts import ERRORS
from storage.models import classifiers, detectors
from storage.store import Store
from tasks.detector import error_counts
from tasks.detector.verdict import parse_reasons
from tasks.reports.image_columns import PARASITIZED
from tasks.smears.counting import error_rates
from tasks.smears.counting.advice import next_text
from tasks.smears.counting.call import Call, Interpreter
from tasks.smears.counting.interpretation import (
    ErrorRates,
    KnownRates,
    cells_to_decide,
    detection_limit,
)
from tasks.smears.counting.negative import Measured
from tasks.smears.counting.rates import OF_SURE
from tasks.smears.reports import calls
from tasks.smears.reports.slide_reasons import FieldReason
from tasks.types import Arrays, below, laboratory_of, nested

# Prefixes of the rates' names in a detector's arrays: its own, and the parent's if it has one.
COUNTING, FITTED = "error_rates", "fitted_rates"


def counting_arrays(
    card: classifiers.ModelCard, counts: error_counts.ErrorCounts | None, cells: int
) -> tuple[Arrays, detectors.CountingCard | None, list[str]]:
    """Choose the thresholds for counting parasites, or warn why this is impossible.

    ``counts`` are the errors on cells that no diagnosing witness has seen; the thresholds are
    optimal for slides with that many red ``cells``. The rates are arrays of a detector.
    """
    if PARASITIZED not in card.classes:
        return {}, None, []
    if counts is None or not error_counts.are_enough(counts):
        return {}, None, [
            f"error rates unknown: fewer than {error_counts.LEAST_SLIDES} patients or slides that "
            "training has not seen have labelled cells of both kinds"
        ]  # fmt: skip
    rates = error_rates.known_rates(counts, cells)
    diagnosis = error_rates.rates_at(counts, error_rates.DIAGNOSIS)
    return nested(COUNTING, rates.to_arrays()), _card(rates, diagnosis, cells, counts), []


def laboratory_counting(
    store: Store,
    detector: detectors.DetectorCard,
    counts: error_counts.ErrorCounts,
    sharpness: float | None,
) -> tuple[KnownRates | None, detectors.CountingCard | None, list[str]]:
    """Predict the error rates of a laboratory's slides; warn if this is impossible or uncertain.

    ``counts`` are of the laboratory's slides with known cells; without negative ones it has no
    rates. The error counts of the detector's statistics replace missing ones. ``sharpness`` is the
    lowest of its negative slides, None if they have no photographs.
    """
    slides = int((counts.negatives > 0).sum())
    if not slides:
        return None, None, []
    known = load_error_rates(store, detector)
    fitted = errors_of_detector(store, detector)
    if known is None or fitted is None or detector.counting is None:
        return None, None, [
            f"the laboratory has {slides} negative slides, but detector {detector.name} knows no "
            "error rates to begin with: fit labelled images once more, and commission the "
            "laboratory again"
        ]  # fmt: skip
    thresholds = (known.counting.log_odds, known.dense.log_odds)
    rates = KnownRates(*(error_rates.laboratory_rates(fitted, counts, each) for each in thresholds))
    diagnosis = error_rates.laboratory_rates(fitted, counts, error_rates.DIAGNOSIS)
    card = _card(rates, diagnosis, detector.counting.cells, counts, sharpness)
    warnings = []
    if slides < error_counts.LEAST_SLIDES:
        known_slides = "one slide is" if slides == 1 else f"{slides} slides are"
        warnings.append(
            f"{known_slides} known to be negative: below {error_counts.LEAST_SLIDES} the "
            "false-positive rate leans on the fitted laboratories"
        )
    rate, fitted_rate = card.counting.false_positives, known.counting.false
    if rate.low > fitted_rate.high:
        warnings.append(
            f"healthy cells are counted more often than on fitted slides ({rate.mean:.2%}, not "
            f"{fitted_rate.mean:.2%}): if slides that are said to be negative have parasites, few "
            "slides of this laboratory will be called positive"
        )
    return rates, card, warnings


def counting_at(screened: Screened, settings: Settings) -> calls.Counting:
    """Return how parasites are counted: with the error rates of the detector, or without any."""
    store, detector = screened.store, screened.detector
    wanted = settings.negative_percent / 100
    return calls.Counting(
        Interpreter(load_error_rates(store, detector), wanted),
        partial(interpreter_elsewhere, store, detector, wanted),
        settings.red_cells_per_microlitre,
        detector.alpha,
        Interpreter(sure_rates(store, detector), wanted),
        measured_on(store, detector),
        detector.learned is not None,
        settings.detectable_percent,
        settings.field_limits.tolerated,
    )


@lru_cache(maxsize=4)
def interpreter_elsewhere(
    store: Store, detector: detectors.DetectorCard, wanted: float
) -> Interpreter:
    """Interpret counts of sure parasites of a laboratory of which nothing is known.

    Its error rates are those of the detector, as far apart as laboratories are.
    """
    sure = sure_rates(store, detector)
    if sure is None:
        return Interpreter(None, wanted)
    fitted, none = errors_of_detector(store, detector), error_counts.ErrorCounts.empty()
    rates = error_rates.laboratory_rates(fitted, none, sure.counting.log_odds, OF_SURE)
    return Interpreter(KnownRates(rates, rates), wanted)


@lru_cache(maxsize=4)
def sure_rates(store: Store, detector: detectors.DetectorCard) -> KnownRates | None:
    """Predict the error rates of sure parasites; None if a detector's are unknown."""
    if fitted_rates(store, detector) is None:
        return None
    rates = error_rates.sure_rates(errors_of_detector(store, detector))
    return KnownRates(rates, rates)


def rates_of(store: Store, detector: detectors.DetectorCard, log_odds: float) -> ErrorRates | None:
    """Find the error rates of a counting threshold of a detector; None if they are unknown."""
    known = load_error_rates(store, detector), sure_rates(store, detector)
    rates = (each for both in known if both for each in (both.counting, both.dense))
    return next((each for each in rates if each.log_odds == log_odds), None)


def next_step(
    store: Store,
    detector: detectors.DetectorCard,
    row: Mapping[str, Any],
    faults: Sequence[str | None],
) -> str:
    """Write what to do after photographs of a patient, from its row and each one's ``faults``."""
    blurred = sum(FieldReason.OUT_OF_FOCUS in parse_reasons(each) for each in faults)
    if row["call"] == Call.INDETERMINATE and 2 * blurred > len(faults):
        return next_text(Call.UNREADABLE, 0, None)
    cells, rates = row["cells_read"], rates_of(store, detector, row["counting_threshold"])
    needed = cells_to_decide(row["cells_called"], cells, rates) if rates else None
    return next_text(row["call"], cells, needed, len(faults))


@lru_cache(maxsize=4)
def errors_of_detector(store: Store, card: detectors.DetectorCard) -> error_counts.ErrorCounts:
    """Read the error counts of a fitted detector's diagnosis, or of the parent's."""
    return error_counts.ErrorCounts.from_arrays(below(ERRORS, detectors.load_detector(store, card)))


@lru_cache(maxsize=4)
def load_error_rates(
    store: Store, card: detectors.DetectorCard, prefix: str = COUNTING
) -> KnownRates | None:
    """Read the error rates of a detector; None if unknown, as without slides known as negative."""
    arrays = below(prefix, detectors.load_detector(store, card))
    return KnownRates.from_arrays(arrays) if arrays else None


def fitted_rates(store: Store, card: detectors.DetectorCard) -> KnownRates | None:
    """Read the error rates of a fitted detector, or of the parent; None if unknown."""
    return load_error_rates(store, card, FITTED if card.parent else COUNTING)


def measured_on(store: Store, detector: detectors.DetectorCard) -> Measured | None:
    """Return what error rates were measured on; None if the sizes of those cells are unknown.

    A commissioned laboratory has the sensitivity of fitted cells. In smaller ones it is unknown,
    unless they are still as large as the picture that the network sees: at 26 and at 50 pixels a
    cell, patients with .9% parasites were called negative.

    None, too, for a detector that was fitted with several laboratories, as the one that comes along
    was: a slide of any other laboratory may be like theirs, so each is new until commissioned.
    """
    card = detector.counting
    if card is None or card.least_size is None:
        return None
    fitted, least = errors_of_detector(store, detector), card.least_size
    if detector.parent:
        side = detectors.load_model_of(store, detector).network["side"]
        least = max(least, min(fitted.least_size() or side, side))
    elif len({laboratory_of(json.loads(slide)[-1]) for slide in fitted.slides}) > 1:
        return None
    false = card.diagnosis.false_positives
    return Measured(least, card.least_sharpness, false.mean, false.deviation)


def _card(
    rates: KnownRates,
    diagnosis: ErrorRates,
    cells: int,
    counts: error_counts.ErrorCounts,
    sharpness: float | None = None,
) -> detectors.CountingCard:
    return detectors.CountingCard(
        cells=cells,
        counting=_threshold(rates.counting, cells),
        dense=_threshold(rates.dense, cells),
        diagnosis=_threshold(diagnosis, cells),
        least_size=counts.least_size(),
        least_sharpness=sharpness,
    )


def _threshold(rates: ErrorRates, cells: int) -> detectors.ThresholdCard:
    return detectors.ThresholdCard(
        log_odds=rates.log_odds,
        limit_of_detection=detection_limit(cells, rates),
        false_positives=detectors.RateCard.model_validate(rates.false, from_attributes=True),
        sensitivity=detectors.RateCard.model_validate(rates.found, from_attributes=True),
    )
