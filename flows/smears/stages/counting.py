"""Say how the parasites of a batch are counted."""

from functools import partial

from flows.jobs.scoring.screened import Screened
from flows.jobs.verified import adaptation_of
from flows.settings import Settings
from flows.smears.stages.chosen_thresholds import (
    answers_elsewhere,
    load_error_rates,
    measured_on,
    sure_rates,
)
from storage.models import detectors
from tasks.smears.counting.call import Answers
from tasks.smears.reports import calls


def counting_at(screened: Screened, settings: Settings) -> calls.Counting:
    """Return how parasites are counted: with the error rates of the detector, or without any.

    The detector that comes with slidewatch knows nobody's slides, so nobody is negative with it.
    """
    store, detector, wanted = screened.store, screened.detector, settings.negative_percent / 100
    measured = None if detectors.is_shipped(detector) else measured_on(detector.counting)
    return calls.Counting(
        Answers(load_error_rates(store, detector), wanted),
        partial(answers_elsewhere, store, detector, wanted),
        settings.red_cells_per_microlitre,
        detector.alpha,
        Answers(sure_rates(store, detector), wanted),
        measured,
        adaptation_of(detector),
        detector.counts_abnormal,
        settings.detectable_percent,
        settings.field_limits.tolerated,
    )
