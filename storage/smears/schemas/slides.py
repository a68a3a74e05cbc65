"""Define the columns of the report on slides."""

import pyarrow as pa

from storage.reports.schemas.shared import (
    ABNORMAL,
    COUNTS,
    FAILURES,
    OF_BATCH,
    PARASITIZED,
    UNCERTAIN,
    Column,
    colour,
    histogram,
    number_of,
    schema_of,
)
from storage.smears.schemas.columns import count, images, number, text
from storage.smears.schemas.counts import COUNTED, SET_ASIDE, STEADY, counts

NO_FIELDS = "null: cells cut out before"
# Further figures of a slide, from which its reasons for review and its call are computed.
MORE = {
    **COUNTED,
    **STEADY,
    "repeated": number_of("repeated"),
    "several_patients": "slide_id IS NOT NULL "
    "AND coalesce(min(patient_id) <> max(patient_id), false)",
    "field_reasons": "list(field_reason) FILTER (field_reason IS NOT NULL)",
}


def _of_fields(sql: str) -> str:
    return f"CASE WHEN count(is_field) > 0 THEN {sql} END"


def _of_shift(name: str) -> str:
    """Take a value of the slide's most shifted patient, as a slide may name several."""
    return f"arg_max({name}, shift)"


COLUMNS = [
    text("slide_id", "the slide or field of view; null: images that name none", sql="slide_id"),
    text(
        "patient_id",
        "the patient; null if none or several are named",
        sql="CASE WHEN min(patient_id) = max(patient_id) THEN min(patient_id) END",
    ),
    count("cells", "images of the slide", "images", "count(uri)"),
    images("scored", "of these, scored; the others failed", "is_scored"),
    FAILURES,
    count(
        "fields",
        f"fields of view of the slide; {NO_FIELDS}",
        "fields",
        _of_fields("count(is_field)"),
    ),
    count(
        "fields_read",
        f"of these, whose cells were read; {NO_FIELDS}",
        "fields",
        _of_fields(number_of("field_left_out IS NULL AND is_field")),
    ),
    Column(
        "exclusions",
        COUNTS,
        f"the others, by kind (empty, thick, unfocused) or reason of failure; {NO_FIELDS}",
        "fields",
        _of_fields(histogram("field_left_out")),
    ),
    images(
        "red_cells",
        "scored images of red cells; whole files count as such, and copies of an image once",
        "is_scored AND is_red",
    ),
    images("white_cells", "images of white cells; no part of parasitaemia", "kind = 'white'"),
    number(
        "cell_size",
        "mean of the larger side of diagnosed red cells",
        "pixels",
        "avg(greatest(width, height)) FILTER (is_diagnosed)",
    ),
    number(
        "sharpness",
        "variance of the Laplacian over that of brightness, a mean over fields; " + NO_FIELDS,
        sql="avg(sharpness)",
    ),
    PARASITIZED,
    SET_ASIDE,
    ABNORMAL,
    UNCERTAIN,
    *counts("the slide"),
    number(
        "abnormal_p_value",
        "exact binomial p-value of the number of abnormal images at the detector's alpha; too "
        "small, because images of one slide depend on each other",
    ),
    number(
        "abnormality_median",
        "median abnormality",
        "deviations of the log distance over calibration patients",
        "median(abnormality)",
    ),
    number(
        "shift",
        "how far the slide as a whole is from fitted slides, higher is further; null if the "
        "detector does not know how slides differ",
        "deviations of the log distance over fitted slides",
        "max(shift)",
    ),
    Column("shifted", pa.bool_(), "whether no fitted slide is as far", sql=_of_shift("shifted")),
    number(
        "smear_shift",
        "distance of the median cell from fitted cells, where stains, cameras and focus count for "
        "little; above 1 it is not a smear of blood",
        "of the limit on the detector's card",
        _of_shift("smear_shift"),
    ),
    number(
        "smear_spread",
        "variation of the cells among each other; above 1 they are not one smear",
        "of the limit on the detector's card",
        _of_shift("smear_spread"),
    ),
    Column(
        "implausible",
        pa.bool_(),
        "whether more than a quarter of the cells are in no part that can be a smear of blood; "
        "they are compared with the population; null: the detector has no limits",
        sql=_of_shift("implausible"),
    ),
    *colour("mean over scored images: how the slide is stained and lit", "avg({}::DOUBLE)"),
    text("verdict", "accept, or review by a person"),
    Column(
        "review_reasons",
        pa.list_(pa.string()),
        "implausible, diagnoses turn when blurred, shifted, abnormal together, many failed, few "
        "cells, many uncertain, several patients, repeated images, too few cells for a negative "
        "call, and of fields: out of focus, dark, overexposed, crowded, few cells, failed",
    ),
    *OF_BATCH,
]

SLIDE_SCHEMA = schema_of(COLUMNS)
