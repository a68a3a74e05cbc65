"""Define the columns of the report on images."""

from collections.abc import Sequence

import pyarrow as pa

from storage.reports.schemas.shared import COUNT, MADE_BY, TEXT, Column, colour, schema_of


def image_schema(classes: Sequence[str], taps: Sequence[str]) -> pa.Schema:
    """Define the columns of an image report, with meaning and unit in field metadata."""
    return schema_of([*_of_source(), *_of_diagnosis(classes), *_of_abnormality(taps)])


def _of_source() -> list[Column]:
    return [
        Column(
            "image_id",
            pa.string(),
            "sha256 of the file, or of its digest and the region; null: unreadable",
        ),
        Column("uri", pa.string(), "where the image was read"),
        Column(
            "repeated",
            pa.bool_(),
            "whether an earlier image of the batch has the same digest; copies are not counted",
        ),
        Column("label", TEXT, "the class that the source gave the image, if any"),
        Column("slide_id", TEXT, "the slide or field of view"),
        Column("patient_id", TEXT, "the patient"),
        Column("acquired_at", pa.timestamp("us"), "when the image was taken, as its source says"),
        Column("source_uri", TEXT, "the file that the image is a region of; null: a whole file"),
        Column("x", COUNT, "the region's left edge in that file", "pixels"),
        Column("y", COUNT, "the region's upper edge in that file", "pixels"),
        Column("level", pa.int8(), "level of the slide's pyramid that was read"),
        Column("kind", TEXT, "kind of region: red or white cell (a hint by nucleus), or tile"),
        Column(
            "touches_border",
            pa.bool_(),
            "whether the field's border or a neighbour cuts the cell; a red one has no abnormality",
        ),
        Column("area", pa.float32(), "of the cell's outline; null: a whole file", "square pixels"),
        Column("eccentricity", pa.float32(), "of the outline: 0 for a circle, below 1"),
        Column("solidity", pa.float32(), "share of its convex hull that the outline fills"),
        Column("width", pa.int32(), "width in its file", "pixels"),
        Column("height", pa.int32(), "height in its file", "pixels"),
        *colour("mean over pixels that are not black"),
    ]


def _of_diagnosis(classes: Sequence[str]) -> list[Column]:
    return [
        Column("status", TEXT, "scored or failed"),
        Column("failure", pa.string(), "why it failed: a reason, a colon and the details"),
        Column("diagnosis", TEXT, "the most probable class"),
        *(
            Column(
                f"probability_{name}",
                pa.float32(),
                f"calibrated probability of {name} by both witnesses",
            )
            for name in classes
        ),
        Column(
            "log_odds",
            pa.float64(),
            "log-odds of Parasitized by both witnesses, before labelled cells adapt them: what "
            "counting thresholds are compared with",
        ),
        Column(
            "network_probability",
            pa.float32(),
            "calibrated probability of Parasitized by the network alone; null: it is the only "
            "witness",
        ),
        Column(
            "statistics_probability",
            pa.float32(),
            "calibrated probability of Parasitized by the class statistics alone, relative to the "
            "slide's healthy cells; null: they are no witness",
        ),
        Column(
            "steady",
            pa.bool_(),
            "whether the network's diagnosis stays when the image is blurred: those of attacked "
            "images do not; null: nobody looked again, or the network is not sure",
        ),
    ]


def _of_abnormality(taps: Sequence[str]) -> list[Column]:
    return [
        *(
            Column(
                f"distance_{name}",
                pa.float64(),
                f"squared Mahalanobis distance at tap {name} to the nearest class",
                "within-class variances",
            )
            for name in taps
        ),
        Column(
            "abnormality",
            pa.float64(),
            "fused score given what the cell is compared with, higher is more abnormal",
            "deviations of the log distance over cells like those",
        ),
        Column(
            "compared_with",
            TEXT,
            "cells that the abnormality is relative to: of its slide, patient, laboratory, night, "
            "or the population, which are all cells that were fitted: so are cells of a group that "
            "is no smear, and those unlike any smear",
        ),
        Column("p_value", pa.float64(), "conformal p-value of the abnormality"),
        Column(
            "population_p_value",
            pa.float64(),
            "conformal p-value of the distance to the population, whatever its slide is like",
        ),
        Column("q_value", pa.float64(), "Benjamini-Hochberg q-value over the batch"),
        Column(
            "abnormal",
            pa.bool_(),
            "whether p_value is at most the detector's alpha, or the cell is unlike any smear; "
            "false for cells not judged: failed images, and red cells cut by border or neighbour",
        ),
        Column("verdict", TEXT, "accept, or review by a person"),
        Column(
            "review_reason",
            TEXT,
            "unlike any smear (further from fitted cells than any smear's), abnormal (for "
            "what it is compared with), uncertain, network and statistics disagree (on which class "
            "is more probable), turns when blurred, its slide is no smear (or its diagnoses turn "
            "when blurred), or several; or failed",
        ),
        *MADE_BY,
    ]
