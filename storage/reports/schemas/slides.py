"""Define the columns of the report on slides."""

import pyarrow as pa

from storage.reports.schemas.counts import counts
from storage.reports.schemas.fields import NO_FIELDS
from storage.reports.schemas.shared import (
    COUNT,
    COUNTS,
    TEXT,
    colour,
    column,
    made_by,
    parasitaemia,
    per_1000,
)


def slide_schema() -> pa.Schema:
    """Define the columns of a slide report, with meaning and unit in field metadata."""
    return pa.schema([*_of_cells(), *_of_parasites(), *counts("the slide"), *_of_scores()])


def _of_cells() -> list[pa.Field]:
    """Define the slide's name, and how many cells and fields it has."""
    return [
        column("slide_id", TEXT, "the slide or field of view; null: images that name none"),
        column("patient_id", TEXT, "the patient; null if none or several are named"),
        column("cells", COUNT, "images of the slide", "images"),
        column("scored", COUNT, "of these, scored", "images"),
        column("failed", COUNT, "of these, failed", "images"),
        column("failures", COUNTS, "how many failed, by reason", "images"),
        column("fields", COUNT, f"fields of view of the slide; {NO_FIELDS}", "fields"),
        column("fields_read", COUNT, f"of these, whose cells were read; {NO_FIELDS}", "fields"),
        column("fields_excluded", COUNT, f"of these, not read; {NO_FIELDS}", "fields"),
        column(
            "exclusions",
            COUNTS,
            f"how many, by kind (empty, thick, unfocused) or reason; {NO_FIELDS}",
            "fields",
        ),
        column(
            "fields_for_review",
            COUNT,
            f"fields that failed or are beyond a limit of quality; {NO_FIELDS}",
            "fields",
        ),
        column(
            "cells_at_border",
            COUNT,
            f"cells that the border of a field cuts; {NO_FIELDS}",
            "cells",
        ),
    ]


def _of_parasites() -> list[pa.Field]:
    """Define the columns on parasites in the red cells."""
    return [
        column(
            "red_cells",
            COUNT,
            "scored images of red cells; whole files count as such, and copies of an image once",
            "images",
        ),
        column("white_cells", COUNT, "images of white cells; no part of parasitaemia", "images"),
        column("parasitized", COUNT, "red cells diagnosed as parasitized", "images"),
        *parasitaemia("", "red cells"),
        *per_1000(),
        *parasitaemia("_ordinary", "red cells that are not abnormal"),
        column(
            "density_class",
            TEXT,
            "none seen, below 2%, 2% to 5%, 5% to 10%, or 10% or more",
        ),
        column(
            "detectable_percent",
            pa.float64(),
            "the least parasitaemia of which these red cells show a parasite with 95% probability",
            "%",
        ),
        column(
            "negative_call",
            pa.string(),
            "if no parasite was seen: enough cells for a negative call, or too few cells",
        ),
        column(
            "negative_call_percent",
            pa.float64(),
            "the parasitaemia that the red cells must be able to show for a negative call",
            "%",
        ),
    ]


def _of_scores() -> list[pa.Field]:
    """Define how abnormal the cells are, and how far the slide is from fitted ones."""
    return [
        column("abnormal", COUNT, "scored images that are abnormal", "images"),
        column("abnormal_fraction", pa.float64(), "abnormal over scored"),
        column(
            "abnormal_p_value",
            pa.float64(),
            "exact binomial p-value of the number of abnormal images at the detector's alpha; too "
            "small, because images of one slide depend on each other",
        ),
        column("uncertain", COUNT, "scored images whose diagnosis is uncertain", "images"),
        column(
            "abnormality_median",
            pa.float64(),
            "median abnormality, to .03",
            "deviations of the log distance over calibration patients",
        ),
        column("p_value_median", pa.float64(), "median p-value, to 6%"),
        column(
            "shift",
            pa.float64(),
            "how far the slide as a whole is from fitted slides, higher is further; null if "
            "the detector does not know how slides differ",
            "deviations of the log distance over fitted slides",
        ),
        column("shift_p_value", pa.float64(), "conformal p-value of the shift"),
        column("shifted", pa.bool_(), "whether no fitted slide is as far"),
        column("shift_tap", TEXT, "the tap at which the slide is furthest"),
        column(
            "smear_shift",
            pa.float64(),
            "distance of the median cell from fitted cells, where stains, cameras and focus count "
            "for little; above 1 it is not a smear of blood",
            "of the limit on the detector's card",
        ),
        column(
            "smear_spread",
            pa.float64(),
            "variation of the cells among each other; above 1 they are not one smear",
            "of the limit on the detector's card",
        ),
        column(
            "implausible",
            pa.bool_(),
            "whether more than a quarter of the cells are in no part that can be a smear of blood; "
            "they are compared with the population; null: the detector has no limits",
        ),
        *colour("mean over scored images: how the slide is stained and lit"),
        column("verdict", TEXT, "accept, or review by a person"),
        column(
            "review_reasons",
            pa.list_(pa.string()),
            "implausible, shifted, abnormal together, many failed, few cells, many uncertain, "
            "several patients, repeated images, too few cells for a negative call, and of "
            "fields: out of focus, dark, overexposed, crowded, few cells, failed",
        ),
        *made_by(),
    ]
