"""Values of the golden store."""

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.batches.features import FAILED, SCORED, FeatureBlock
from storage.models.detectors import (
    AdaptationCard,
    CountingCard,
    FloorCard,
    RateCard,
    ThresholdCard,
    WitnessCard,
)
from storage.records import Arrays
from tasks.types import below, nested

WHEN = datetime(2026, 1, 3, 8, tzinfo=UTC)
DAY = date(2026, 1, 3)
CLASSES = ["Parasitized", "Uninfected"]
ROWS, SHARD_ROWS, BAD = 5, 3, 4
URIS = [f"file:///night/{row}.png" for row in range(ROWS)]
FAILURE = "killed_worker: this image alone kills the worker that decodes it"


def good_rows(values: NDArray[Any]) -> NDArray[Any]:
    """The values, without those of the row that failed."""
    values[BAD] = np.nan if values.dtype.kind == "f" else 0
    return values


WEIGHTS: Arrays = {
    "conv.weight": np.arange(8, dtype=np.float32).reshape(2, 1, 2, 2),
    "norm.seen": np.asarray(7),
}
BLOCK = FeatureBlock(
    taps={
        "layer1": good_rows(np.arange(10, dtype=np.float32).reshape(5, 2) / 4),
        "layer2": good_rows(np.arange(5, dtype=np.float32).reshape(5, 1) / 8),
    },
    logits=good_rows(np.linspace(-2, 2, 10, dtype=np.float32).reshape(5, 2)),
    label=np.asarray([0, 1, -1, 1, 0], np.int8),
    status=np.asarray([SCORED, SCORED, SCORED, SCORED, FAILED], np.uint8),
    image_id=good_rows(np.arange(1, 161, dtype=np.uint8).reshape(5, 32)),
    size=good_rows(np.arange(100, 110, dtype=np.int32).reshape(5, 2)),
    colour=good_rows(np.arange(100, 115, dtype=np.float32).reshape(5, 3)),
    steady=np.asarray([1, -1, -1, 0, -1], np.int8),
)
LABORATORY, COMMISSIONED = "kampala", "kampala-v0001"

# Class statistics: moments, the same by slide, and the errors of two patients.
MOMENTS: Arrays = {
    f"taps/{tap}/{name}": values
    for tap, width in (("layer1", 2), ("layer2", 1))
    for name, values in {
        "n": np.asarray([2.0, 3.0]),
        "mean": np.arange(2.0 * width).reshape(2, width),
        "scatter": np.stack([np.eye(width), np.eye(width) / 2]),
    }.items()
}
SLIDES: Arrays = {
    "keys": np.frombuffer(b'[["night", "P1", "S1"], ["night", "P2", "S2"]]', np.uint8),
    "n": np.asarray([[1.0, 1.0], [1.0, 2.0]]),
    "means/layer1": np.arange(8.0).reshape(2, 2, 2),
    "means/layer2": np.arange(4.0).reshape(2, 2, 1),
    "scatter/layer1": np.stack([np.eye(2), np.eye(2) / 2]),
    "scatter/layer2": np.stack([np.eye(1), np.eye(1) / 2]),
}
PATIENTS = b'["[\\"patient\\", \\"P2\\"]", "[\\"patient\\", \\"P3\\"]"]'
PASSING = np.arange(65)[::-1] // 4  # cells of a slide that pass each of the thresholds
ERRORS: Arrays = nested(
    "errors",
    {
        "slides": np.frombuffer(PATIENTS, np.uint8),
        "negatives": np.asarray([40, 60]),
        "positives": np.asarray([20, 16]),
        "false": np.stack([PASSING // 8, PASSING * 0]),
        "found": np.stack([PASSING, PASSING]),
    },
)
STATISTICS: Arrays = {**MOMENTS, **nested("slides", SLIDES), **ERRORS}


# A detector: error rates, limits of a smear, two witnesses, a slide's own normal.
def rate(mean: float, cells: int) -> Arrays:
    """Name the arrays of a rate that is the same on all of six slides."""
    ends = {name: np.asarray([mean]) for name in ("mean", "low", "high")}
    counts = {"slides": np.asarray([6]), "cells": np.asarray([cells])}
    return {**ends, **counts, "deviation": np.zeros(1), "nodes": np.full(101, mean)}


RATE: Arrays = {
    "log_odds": np.asarray([2.5]),
    **nested("false", rate(0.0, 600)),
    **nested("found", rate(0.5, 300)),
}
RATES: Arrays = nested(
    "error_rates",
    nested("counting", RATE) | nested("dense", RATE | {"log_odds": np.asarray([1.5])}),
)
# By hand: of two features at layer1 and one at layer2, all of variance 1 within and 3 between.
FLOOR: Arrays = nested(
    "own/floor",
    {
        "within": np.eye(3),
        "between": 3 * np.eye(3),
        "shift": np.asarray([2.0]),
        "spread": np.asarray([1.5]),
        "reach": np.asarray([4.0]),
    },
)
# By hand: f scores f_0 / 2 + f_1 + 0.25 at layer1; the network's log-odds are believed by half.
WITNESSES: Arrays = nested(
    "witnesses",
    {
        "positive": np.asarray([0]),
        "discriminant/weights/layer1": np.asarray([0.5, 1.0]),
        "discriminant/offset": np.asarray([0.25]),
        "discriminant/healthy": np.asarray([-1.0]),
        "scales/network/scale": np.asarray([0.5]),
        "scales/network/bias": np.asarray([0.0]),
        "scales/statistics/scale": np.asarray([2.0]),
        "scales/statistics/bias": np.asarray([1.0]),
        "scales/both/scale": np.asarray([1.0]),
        "scales/both/bias": np.asarray([-0.5]),
    },
)


def own_normal(cells: list[float], means: list[float], between: float) -> Arrays:
    """Name the arrays of a normal.

    Args:
        cells: the squared distances (3,) that calibrate cells.
        means: (2,) of the second class at the tap `layer1`; those of the first one are 0.
        between: the share of W that B is.
    """

    def calibration(distances: list[float]) -> Arrays:
        return {
            "mean": np.zeros(2),
            "deviation": np.ones(2),
            "scores": np.log(distances),
            "weights": np.asarray([0.25, 0.25, 0.5]),
        }

    return {
        "location": np.zeros(2),
        "scale": np.ones(2),
        **nested("cells", calibration(cells)),
        **nested("population", calibration([1 / 64, 1 / 16, 1 / 4])),
        **nested("slides", calibration([1 / 64, 1 / 32, 1 / 16])),
        "prior/layer1/means": np.asarray([[0.0, 0.0], means]),
        "prior/layer1/within": np.eye(2),
        "prior/layer1/between": np.eye(2) * between,
        "prior/layer1/k": np.asarray([2.0]),
        "prior/layer2/means": np.asarray([[0.0], [0.25]]),
        "prior/layer2/within": np.eye(1) / 2,
        "prior/layer2/between": np.eye(1) / 2 * between,
        "prior/layer2/k": np.asarray([1.0]),
    }


DETECTOR: Arrays = {
    "calibration/mean": np.asarray([0.0, 1.0]),
    "calibration/deviation": np.asarray([1.0, 2.0]),
    "calibration/scores": np.asarray([-1.0, 0.0, 1.0]),
    "calibration/weights": np.asarray([0.25, 0.25, 0.5]),
    "tap/layer1/means": np.asarray([[0.0, 0.0], [1.0, 1.0]]),
    "tap/layer1/factor": np.asarray([[2.0, 0.0], [0.0, 4.0]]),
    "tap/layer1/shrinkage": np.asarray([0.125]),
    "tap/layer2/means": np.asarray([[0.0], [4.0]]),
    "tap/layer2/factor": np.asarray([[0.5]]),
    "tap/layer2/shrinkage": np.asarray([0.25]),
    **nested("own", own_normal([0.5, 1.0, 2.0], [1.0, 1.0], 1.0)),
    **FLOOR,
    **RATES,
    **ERRORS,
    **WITNESSES,
}
FALSE = RateCard(mean=0.0, low=0.0, high=0.0, deviation=0.0, slides=6, cells=600)
FOUND = RateCard(mean=0.5, low=0.5, high=0.5, deviation=0.0, slides=6, cells=300)
THRESHOLD = ThresholdCard(
    log_odds=2.5, limit_of_detection=0.125, false_positives=FALSE, sensitivity=FOUND
)
COUNTING_CARD = CountingCard(
    cells=5000,
    counting=THRESHOLD,
    dense=THRESHOLD.model_copy(update={"log_odds": 1.5}),
    diagnosis=THRESHOLD.model_copy(update={"log_odds": 0.0}),
)
FLOOR_CARD = FloorCard(shift=2.0, spread=1.5, reach=4.0, slides=5)
WITNESS_CARD = WitnessCard(
    taps=["layer1"], slides=4, cells=200, disagreeing=0.03, errors_disagreeing=None
)

# A laboratory: its normal, and what a night added to it.
TAP: Arrays = {
    "nu": np.ones(1),
    "kappa": np.asarray([np.inf]),
    "location": np.zeros(1),
    "scale": np.ones(1),
    "t2": np.asarray([np.nan]),
}
REFERENCE: Arrays = {
    "taps/layer1/means": np.asarray([[0.0, 0.0], [1.0, 1.0]]),
    "taps/layer1/factor": np.eye(2) / 2,
    **nested("taps/layer1", TAP),
    "taps/layer2/means": np.asarray([[0.0], [0.25]]),
    "taps/layer2/factor": np.eye(1),
    **nested("taps/layer2", TAP),
    "kept": np.zeros(0, bool),
}
AT_LABORATORY: Arrays = {
    **DETECTOR,
    **nested("own", own_normal([1 / 8, 1 / 2, 2.0], [0.5, 1.0], 0.25)),
    **nested("reference", REFERENCE),
    "reference/level": np.frombuffer(b'"laboratory"', np.uint8),
    **nested("fitted_rates", below("error_rates", RATES)),
    # By hand: f scores f_0 + f_1 / 2 - 0.5.
    "witnesses/discriminant/weights/layer1": np.asarray([1.0, 0.5]),
    "witnesses/discriminant/offset": np.asarray([-0.5]),
    "witnesses/discriminant/healthy": np.asarray([-1.5]),
}
NIGHT: Arrays = {
    **nested("statistics", SLIDES),
    **nested("normal/normal", REFERENCE),
    "normal/normal/level": np.frombuffer(b'"slide"', np.uint8),
    "normal/rows": np.asarray([0, 1, 3]),
    **ERRORS,
    "labelled/log_odds": np.asarray([-1.0, 0.5]),
    "labelled/parasitized": np.asarray([False, True]),
    "labelled/slides": np.frombuffer(PATIENTS, np.uint8),
    "labelled/network": np.asarray([-2.0, 1.5]),
    "labelled/features/layer1": np.asarray([[0.0, -1.0], [1.0, 1.0]], np.float32),
}
ADAPTATION_CARD = AdaptationCard(
    scale=2.0, bias=0.5, statistics=True, accepted=True, cells=40, slides=2, by_slide=False,
    loss_before=0.5, loss_after=0.25, accuracy_before=0.75, accuracy_after=0.875, gain=0.25,
    gain_low=0.125, gain_high=0.375,
)  # fmt: skip

# Reports.
MADE_BY = {
    "model": "golden",
    "detector": COMMISSIONED,
    "batch": "night",
    "batch_date": DAY.isoformat(),
    "scored_at": WHEN,
}
IMAGES = {
    "uri": URIS,
    "label": ["Parasitized", "Uninfected", None, "Uninfected", "Parasitized"],
    "slide_id": ["S1"] * ROWS,
    "patient_id": ["P1"] * ROWS,
    "width": [100, 102, 104, 106, None],
    "status": ["scored"] * 4 + ["failed"],
    "failure": [None] * 4 + [FAILURE],
    "diagnosis": ["Uninfected"] * 4 + [None],
    "log_odds": [-0.5, -0.5, -1.0, -2.0, None],
    "repeated": [False] * ROWS,
    "probability_Uninfected": [0.625, 0.625, 0.75, 0.875, None],
    "network_probability": [0.75, 0.25, 0.5, 0.5, None],
    "statistics_probability": [0.5, 0.25, 0.75, 0.5, None],
    "distance_layer1": [0.25, 0.5, 1.0, 4.0, None],
    "abnormality": [-1.0, 0.0, 0.5, 2.0, None],
    "compared_with": ["laboratory"] * 4 + [None],
    "p_value": [1.0, 0.75, 0.5, 0.03125, None],
    "population_p_value": [1.0, 0.5, 0.5, 0.25, None],
    "q_value": [1.0, 1.0, 1.0, 0.125, None],
    "abnormal": [False, False, False, True, None],
    "verdict": ["accept"] * 3 + ["review"] * 2,
    "review_reason": [None] * 3 + ["abnormal", "failed"],
    **{name: [value] * ROWS for name, value in MADE_BY.items()},
}
CALLED = {
    "cells_read": 3,
    "cells_called": 1,
    "counting_threshold": 2.5,
    "call": "unreadable",
    "call_reasons": ["shifted"],
}
SLIDE = {
    "slide_id": "S1",
    "patient_id": "P1",
    "cells": 5,
    "scored": 4,
    "failures": [("killed_worker", 1)],
    "parasitized": 0,
    "abnormal": 1,
    "shift": -2.0,
    "shifted": True,
    "smear_shift": 0.5,
    "smear_spread": 0.25,
    "implausible": False,
    "verdict": "review",
    "review_reasons": ["shifted", "few cells"],
    **CALLED,
    "batch": "night",
    "batch_date": DAY.isoformat(),
}
PATIENT = {"patient_id": "P1", "slides": 1, "slides_read": 0, **CALLED, **MADE_BY}
BATCH = {
    "images": 5,
    "scored": 4,
    "failures": [("killed_worker", 1)],
    "diagnoses": [("Uninfected", 4)],
    "parasitized": 0,
    "alpha": 0.05,
    "abnormal": 1,
    "discoveries": 0,
    "uncertain": 0,
    "review": 2,
    "slides": 1,
    "slides_for_review": 1,
    "slides_shifted": 1,
    "slides_implausible": 0,
    "beyond_population": 1,
    "p_values": [1, 0, 1, 2],
    "tap_scores": [("layer1", [1, 3]), ("layer2", [4, 0])],
    "psi": 0.5,
    "nights": 0,
    "light": "amber",
    "reasons": ["1 of 5 images failed"],
    "patient_calls": [("unreadable", 1)],
    **MADE_BY,
}
