"""Values of error counts, error rates and reports on patients, which golden stores have from v5."""

import numpy as np

from storage.arrays import Arrays
from storage.models.detectors import CountingCard, RateCard, ThresholdCard
from storage.models.laboratories import AdaptationCard
from tasks.types import nested

SLIDES = b'["patient", "P2"]\n["patient", "P3"]'
PASSING = np.arange(65)[::-1] // 4  # cells of a slide that pass each of the thresholds

# Error counts of two patients in the statistics, and the rates at the threshold of a detector.
ERRORS: Arrays = nested(
    "errors",
    {
        "slides": np.frombuffer(SLIDES, np.uint8),
        "negatives": np.asarray([40, 60]),
        "positives": np.asarray([20, 16]),
        "false": np.stack([PASSING // 8, PASSING * 0]),
        "found": np.stack([PASSING, PASSING]),
    },
)
RATE: Arrays = {
    "log_odds": np.asarray([2.5]),
    "false/figures": np.asarray([0.0, 0.0, 0.0, 0.0, 6.0, 600.0]),
    "false/nodes": np.zeros(101),
    "found/figures": np.asarray([0.5, 0.5, 0.5, 0.0, 6.0, 300.0]),
    "found/nodes": np.full(101, 0.5),
}
RATES: Arrays = nested(
    "error_rates",
    nested("counting", RATE) | nested("dense", RATE | {"log_odds": np.asarray([1.5])}),
)
FALSE = RateCard(mean=0.0, low=0.0, high=0.0, deviation=0.0, slides=6, cells=600)
FOUND = RateCard(mean=0.5, low=0.5, high=0.5, deviation=0.0, slides=6, cells=300)
THRESHOLD = ThresholdCard(
    log_odds=2.5, limit_of_detection=0.125, false_positives=FALSE, sensitivity=FOUND
)
CARD = CountingCard(
    cells=5000,
    counting=THRESHOLD,
    dense=THRESHOLD.model_copy(update={"log_odds": 1.5}),
    diagnosis=THRESHOLD.model_copy(update={"log_odds": 0.0}),
)

# An adaptation of a diagnosis by labelled cells of a laboratory.
LABELLED: Arrays = nested(
    "labelled",
    {
        "log_odds": np.asarray([-1.0, 0.5]),
        "parasitized": np.asarray([False, True]),
        "slides": np.frombuffer(SLIDES, np.uint8),
    },
)
ADAPTATION = AdaptationCard(
    scale=2.0, bias=0.5, accepted=True, cells=40, slides=2, by_slide=False, loss_before=0.5,
    loss_after=0.25, accuracy_before=0.75, accuracy_after=0.875, gain=0.25, gain_low=0.125,
    gain_high=0.375,
)  # fmt: skip

COUNTED = {
    "cells_read": [3],
    "cells_called": [1],
    "cells_called_dense": [2],
    "counting_threshold": [2.5],
    "dense_threshold": [1.5],
    "call": ["unreadable"],
    "call_reasons": [["shifted"]],
    "expected_false_calls": [0.25],
    "expected_doubt": ["other laboratory"],
}
PATIENT = {
    "patient_id": ["P1"],
    "slides": [1],
    "slides_read": [0],
    **COUNTED,
    "laboratory": ["kampala/v0001"],
    "batch": ["night"],
    "batch_date": ["2026-01-03"],
}
BATCH = {
    "patient_calls": [[("unreadable", 1)]],
    "expected_false_calls": [0.25],
    "expected_doubt": ["other laboratory"],
}
