"""Define the columns of the report on batches."""

import pyarrow as pa

from storage.reports.schemas import shared
from storage.smears.schemas.counts import STEADY

EXPECTED = {
    "sensitivity": "share of parasitized cells that are diagnosed as such",
    "accuracy": "share of cells that are diagnosed rightly",
}
BOUNDS = {"": "", "_low": "lower bound (95%): ", "_high": "upper bound (95%): "}

COLUMNS = [
    shared.Column("images", shared.COUNT, "images of the batch", "images", "count(uri)"),
    shared.Column(
        "scored", shared.COUNT, "of these, scored", "images", shared.number_of("is_scored")
    ),
    shared.FAILURES,
    shared.Column(
        "diagnoses",
        shared.COUNTS,
        "scored images by diagnosis",
        "images",
        shared.histogram("diagnosis"),
    ),
    shared.PARASITIZED,
    shared.Column("alpha", pa.float64(), "the detector's level"),
    shared.ABNORMAL,
    shared.Column(
        "discoveries",
        shared.COUNT,
        "scored images whose q_value is at most .1",
        "images",
        shared.number_of("q_value <= .1"),
    ),
    shared.UNCERTAIN,
    shared.REVIEW,
    shared.Column(
        "beyond_population",
        shared.COUNT,
        "scored images whose population_p_value is at most alpha",
        "images",
        shared.number_of("population_p_value <= $alpha"),
    ),
    shared.Column("slides", shared.COUNT, "slides; images that name none count as one", "slides"),
    shared.Column("slides_for_review", shared.COUNT, "slides for review by a person", "slides"),
    shared.Column(
        "slides_shifted",
        shared.COUNT,
        "slides further away than any fitted slide; null if not known",
        "slides",
    ),
    shared.Column(
        "slides_implausible",
        shared.COUNT,
        "slides that cannot be a smear of blood; null if not known",
        "slides",
    ),
    shared.Column(
        "p_values", pa.list_(shared.COUNT), "p-values in 20 equal bins from 0 to 1", "images"
    ),
    shared.Column(
        "tap_scores",
        pa.map_(pa.string(), pa.list_(shared.COUNT)),
        "by tap, standardised log distances in bins with edges at -2, -1.5, -1, -.5, 0, .5, 1, "
        "1.5, 2, 3 and 5",
        "images",
    ),
    shared.Column(
        "ks_distance", pa.float64(), "Kolmogorov-Smirnov distance of p_values from uniform"
    ),
    shared.Column("psi", pa.float64(), "population stability index of the score, calibration"),
    shared.Column("psi_earlier", pa.float64(), "the same against earlier nights; null: too few"),
    shared.Column("nights", shared.COUNT, "earlier nights that this one was compared with"),
    shared.Column("light", shared.TEXT, "green, amber or red"),
    shared.Column(
        "reasons", pa.list_(pa.string()), "why it is not green; what could not be judged"
    ),
    shared.Column(
        "patient_calls",
        shared.COUNTS,
        "how many patients are positive, suspected, negative, indeterminate and unreadable",
        "patients",
    ),
    shared.Column(
        "expected_false_calls",
        pa.float64(),
        "cells read that are expected to be diagnosed as parasitized wrongly: a sum of calibrated "
        "probabilities",
        "cells",
    ),
    shared.Column(
        "expected_missed", pa.float64(), "parasitized cells expected to be missed", "cells"
    ),
    *(
        shared.Column(f"expected_{name}{bound}", pa.float64(), f"{words}{what}, as expected")
        for name, what in EXPECTED.items()
        for bound, words in BOUNDS.items()
    ),
    shared.Column(
        "expected_doubt",
        shared.TEXT,
        "why expected errors cannot be believed: shifted, or other laboratory; null if nothing "
        "speaks against them",
    ),
    shared.Column("arithmetic", pa.string(), "how the network multiplied"),
    *shared.MADE_BY,
]

_P = "(1 / (1 + exp(-adapted)))"
MORE = {
    **STEADY,
    "repeated": shared.number_of("repeated"),
    # Sums over the cells read, from which expected errors are computed (`expected_errors`).
    **{
        f"{name}_{which}": f"coalesce(sum({sql}) FILTER (is_read AND adapted {sign} 0), 0)::DOUBLE"
        for name, sql in {"n": "1", "p": _P, "v": f"{_P} * (1 - {_P})"}.items()
        for which, sign in {"called": ">=", "others": "<"}.items()
    },
}


def batch_schema() -> pa.Schema:
    """Define the columns of a batch's one row, with meaning and unit in field metadata."""
    return shared.schema_of(COLUMNS)
