"""Define the columns of the report on batches."""

import pyarrow as pa

from storage.reports.schemas.shared import (
    ABNORMAL,
    COUNT,
    COUNTS,
    FAILURES,
    MADE_BY,
    PARASITIZED,
    REVIEW,
    TEXT,
    UNCERTAIN,
    Column,
    histogram,
    number_of,
    schema_of,
)

EXPECTED = {
    "sensitivity": "share of parasitized cells that are diagnosed as such",
    "accuracy": "share of cells that are diagnosed rightly",
}
BOUNDS = {"": "", "_low": "lower bound (95%): ", "_high": "upper bound (95%): "}

COLUMNS = [
    Column("images", COUNT, "images of the batch", "images", "count(uri)"),
    Column("scored", COUNT, "of these, scored", "images", number_of("is_scored")),
    FAILURES,
    Column("diagnoses", COUNTS, "scored images by diagnosis", "images", histogram("diagnosis")),
    PARASITIZED,
    Column("alpha", pa.float64(), "the detector's level"),
    ABNORMAL,
    Column(
        "discoveries",
        COUNT,
        "scored images whose q_value is at most .1",
        "images",
        number_of("q_value <= .1"),
    ),
    UNCERTAIN,
    REVIEW,
    Column(
        "beyond_population",
        COUNT,
        "scored images whose population_p_value is at most alpha",
        "images",
        number_of("population_p_value <= $alpha"),
    ),
    Column("slides", COUNT, "slides; images that name none count as one", "slides"),
    Column("slides_for_review", COUNT, "slides for review by a person", "slides"),
    Column(
        "slides_shifted",
        COUNT,
        "slides further away than any fitted slide; null if not known",
        "slides",
    ),
    Column(
        "slides_implausible",
        COUNT,
        "slides that cannot be a smear of blood; null if not known",
        "slides",
    ),
    Column("p_values", pa.list_(COUNT), "p-values in 20 equal bins from 0 to 1", "images"),
    Column(
        "tap_scores",
        pa.map_(pa.string(), pa.list_(COUNT)),
        "by tap, standardised log distances in bins with edges at -2, -1.5, -1, -.5, 0, .5, 1, "
        "1.5, 2, 3 and 5",
        "images",
    ),
    Column("ks_distance", pa.float64(), "Kolmogorov-Smirnov distance of p_values from uniform"),
    Column("psi", pa.float64(), "population stability index of the score, calibration"),
    Column("psi_earlier", pa.float64(), "the same against earlier nights; null: too few"),
    Column("nights", COUNT, "earlier nights that this one was compared with"),
    Column("light", TEXT, "green, amber or red"),
    Column("reasons", pa.list_(pa.string()), "why it is not green; what could not be judged"),
    Column(
        "patient_calls",
        COUNTS,
        "how many patients are positive, negative, indeterminate and unreadable",
        "patients",
    ),
    Column(
        "expected_false_calls",
        pa.float64(),
        "cells read that are expected to be diagnosed as parasitized wrongly: a sum of calibrated "
        "probabilities",
        "cells",
    ),
    Column("expected_missed", pa.float64(), "parasitized cells expected to be missed", "cells"),
    *(
        Column(f"expected_{name}{bound}", pa.float64(), f"{words}{what}, as expected")
        for name, what in EXPECTED.items()
        for bound, words in BOUNDS.items()
    ),
    Column(
        "expected_doubt",
        TEXT,
        "why expected errors cannot be believed: shifted, or other laboratory; null if nothing "
        "speaks against them",
    ),
    Column("arithmetic", pa.string(), "how the network multiplied"),
    *MADE_BY,
]

_P = "(1 / (1 + exp(-adapted)))"
MORE = {
    "repeated": number_of("repeated"),
    # Sums over the cells read, from which expected errors are computed (`ProbabilitySums`).
    **{
        f"{name}_{which}": f"coalesce(sum({sql}) FILTER (is_read AND adapted {sign} 0), 0)::DOUBLE"
        for name, sql in {"n": "1", "p": _P, "v": f"{_P} * (1 - {_P})"}.items()
        for which, sign in {"called": ">=", "others": "<"}.items()
    },
}


def batch_schema() -> pa.Schema:
    """Define the columns of a batch's one row, with meaning and unit in field metadata."""
    return schema_of(COLUMNS)
