"""Define the columns of the report on patients."""

from storage.reports.schemas.shared import MADE_BY, PARASITIZED, schema_of
from storage.smears.schemas.columns import count, text
from storage.smears.schemas.counts import COUNTED, SET_ASIDE, counts

COLUMNS = [
    text(
        "patient_id",
        "the patient; null if a slide without one counts as a patient, or images have neither",
        sql="patient_id",
    ),
    text(
        "slide_id",
        "the slide that counts as a patient; null if the patient is named",
        sql="own_slide",
    ),
    count("slides", "slides of the patient", "slides", "count(DISTINCT slide)"),
    count(
        "slides_read",
        "of these, those that can be read: their cells count",
        "slides",
        "count(DISTINCT slide) FILTER (is_readable)",
    ),
    PARASITIZED,
    SET_ASIDE,
    *counts("the patient's readable slides"),
    *MADE_BY,
]

MORE = {
    **COUNTED,
    "slide_faults": "list_sort(list_distinct(flatten(list(faults))))",
    "is_new": "bool_or(is_readable AND is_new)",
    "is_covered": "bool_and(is_covered) FILTER (is_readable)",
}

PATIENT_SCHEMA = schema_of(COLUMNS)
