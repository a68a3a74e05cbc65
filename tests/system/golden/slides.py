"""Values of slides, of their own normal and of a laboratory."""

import numpy as np

from storage.arrays import Arrays
from tasks.types import nested

LABORATORY, LABEL = "kampala", "kampala/v0001"
KEY = "golden+kampala"  # of the screening at the laboratory

# Statistics by slide, and what a night of the laboratory adds to it.
SLIDES: Arrays = {
    "layout": np.asarray([1]),
    "keys": np.frombuffer(b'[["night", "P1", "S1"], ["night", "P2", "S2"]]', np.uint8),
    "n": np.asarray([[1.0, 1.0], [1.0, 2.0]]),
    "means/layer1": np.arange(8.0).reshape(2, 2, 2),
    "means/layer2": np.arange(4.0).reshape(2, 2, 1),
    "scatter/layer1": np.stack([np.eye(2), np.eye(2) / 2]),
    "scatter/layer2": np.stack([np.eye(1), np.eye(1) / 2]),
}
REFERENCE: Arrays = {
    "layer1/means": np.asarray([[0.0, 0.0], [1.0, 1.0]]),
    "layer1/factor": np.eye(2) / 2,
    "layer1/numbers": np.asarray([1.0, np.inf, 0.0, 1.0, np.nan]),
    "layer2/means": np.asarray([[0.0], [0.25]]),
    "layer2/factor": np.eye(1),
    "layer2/numbers": np.asarray([1.0, np.inf, 0.0, 1.0, np.nan]),
}
NIGHT: Arrays = {
    **nested("groups", SLIDES),
    **nested("normal", REFERENCE),
    "rows": np.asarray([0, 1, 3]),
}


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


OWN = nested("own", own_normal([0.5, 1.0, 2.0], [1.0, 1.0], 1.0))
AT_LABORATORY: Arrays = {
    **nested("own", own_normal([1 / 8, 1 / 2, 2.0], [0.5, 1.0], 0.25)),
    **nested("reference", REFERENCE),
}

# Columns that reports have from v4 on.
IMAGES = {
    "compared_with": ["laboratory"] * 4 + [None],
    "population_p_value": [1.0, 0.5, 0.5, 0.25, None],
    "slide_id": ["S1"] * 5,
    "patient_id": ["P1"] * 5,
    "laboratory": [LABEL] * 5,
    "model": ["golden"] * 5,
    "detector": ["golden"] * 5,
    "batch": ["night"] * 5,
}
SLIDE = {
    "slide_id": ["S1"],
    "patient_id": ["P1"],
    "cells": [5],
    "scored": [4],
    "failed": [1],
    "failures": [[("killed_worker", 1)]],
    "parasitized": [0],
    "density_class": ["none seen"],
    "negative_call": ["too few cells"],
    "abnormal": [1],
    "abnormal_fraction": [0.25],
    "shift": [-2.0],
    "shift_p_value": [0.25],
    "shifted": [True],
    "shift_tap": ["layer1"],
    "verdict": ["review"],
    "review_reasons": [["shifted", "few cells"]],
    "laboratory": [LABEL],
    "batch": ["night"],
    "batch_date": ["2026-01-03"],
}
BATCH = {
    "images": [5],
    "scored": [4],
    "failed": [1],
    "failures": [[("killed_worker", 1)]],
    "parasitized": [0],
    "alpha": [0.05],
    "abnormal": [1],
    "discoveries": [0],
    "uncertain": [0],
    "review": [2],
    "slides": [1],
    "slides_for_review": [1],
    "slides_shifted": [1],
    "clusters": [1],
    "p_values": [[1, 0, 1, 2]],
    "p_value_edges": [[0.0, 0.25, 0.5, 0.75, 1.0]],
    "tap_scores": [[("layer1", [1, 3]), ("layer2", [4, 0])]],
    "tap_edges": [[-1.0, 0.0, 1.0]],
    "psi_taps": [[("layer1", 0.5)]],
    "nights": [0],
    "light": ["amber"],
    "reasons": [["1 of 5 images failed"]],
    "laboratory": [LABEL],
    "model": ["golden"],
    "detector": ["golden"],
    "batch": ["night"],
    "batch_date": ["2026-01-03"],
}
