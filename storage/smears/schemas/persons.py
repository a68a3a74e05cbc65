"""Define the columns of the table of what persons answer on patients."""

import pyarrow as pa

from storage.reports.schemas.shared import OF_BATCH, Column, schema_of
from storage.smears.schemas.columns import count, number, text

COLUMNS = [
    text("patient_id", "the patient, as in the report on patients"),
    text("slide_id", "the slide that counts as a patient, as in the report on patients"),
    text(
        "person_answer",
        "confirmed: a person sees a parasite; refused: none in all cells shown; unsure; disputed: "
        "readers differ on a cell, and no parasite is certain; open: some cells are not read",
    ),
    text("person_call", "the call by these answers; null while they do not decide"),
    number("person_percent", "parasitaemia by these answers", "percent"),
    number("person_low", "lower bound of its 95% interval", "percent"),
    number("person_high", "upper bound of its 95% interval", "percent"),
    count("person_cells", "cells that persons have read", "cells"),
    count("person_parasites", "of these, the parasites", "cells"),
    Column("readers", pa.list_(pa.string()), "who has read them; once decided, who said so"),
    Column("read_at", pa.timestamp("us", "UTC"), "when the last one was read"),
    *(each for each in OF_BATCH if each.name != "detector"),
]

PERSON_SCHEMA = schema_of(COLUMNS)

# Of the rows of reports on patients, which are called `patients_read`.
WITH_PERSONS = """
SELECT patients_read.*, person_answer, person_call, person_percent, person_low, person_high,
  person_cells, person_parasites, readers, read_at
FROM patients_read LEFT JOIN persons
  ON persons.batch = patients_read.batch AND persons.batch_date = patients_read.batch_date
  AND persons.patient_id IS NOT DISTINCT FROM patients_read.patient_id
  AND persons.slide_id IS NOT DISTINCT FROM patients_read.slide_id
"""
