"""Find the red cells behind a patient's count: those called parasitized, most probable first."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.reports import image_columns
from tasks.types import Counts

Patient = tuple[str | None, str | None]  # the slide that stands for a patient, or the patient

CHANCE = f"probability_{image_columns.PARASITIZED}"
# Columns to read of image rows, including those that pages and readers need.
COLUMNS = (
    "image_id", "slide_id", "patient_id", "status", "abnormality", "abnormal", "review_reason",
    "kind", "repeated",
)  # fmt: skip


def patient_of(row: Mapping[str, Any]) -> Patient:
    """Return the patient of a row of any report, or the slide that stands for one."""
    return (row["slide_id"], None) if row["patient_id"] is None else (None, row["patient_id"])


class CalledCells:
    """Collect the called cells of some patients; image rows may come in any parts.

    The counting threshold is on log-odds, which rise with the probability. So a patient's called
    cells are the most probable ones read, as many as the report on patients has counted; if these
    are few, the next most probable follow. Memory grows with the number of patients, not of images.
    ``called`` counts called cells by patient; the cells of ``unreadable`` slides do not count. At
    most ``most`` cells are kept of a patient, and ``least`` of one with fewer called ones.
    """

    def __init__(
        self,
        called: Mapping[Patient, int],
        unreadable: Container[str | None],
        *,
        most: int,
        least: int = 0,
    ) -> None:
        self._called, self._unreadable = dict(called), unreadable
        self._most, self._least = most, least
        self._places = {patient: place for place, patient in enumerate(self._called)}
        self._found: pa.Table | None = None

    def count(self, rows: pa.Table) -> None:
        """Collect from rows that have `COLUMNS` and a probability of "parasitized"."""
        if CHANCE not in rows.column_names:
            return
        chance = image_columns.numbers_of(rows, CHANCE)
        places = self._places_of(rows)
        kept = (places >= 0) & image_columns.is_read(rows)
        cells = rows.filter(pa.array(kept)).append_column("place", pa.array(places[kept]))
        cells = image_columns.plain(cells.append_column("chance", pa.array(chance[kept])))
        self._found = self._best(
            cells if self._found is None else pa.concat_tables([self._found, cells])
        )

    def of(self, patient: Patient) -> list[dict[str, Any]]:
        """List a patient's cells, the most probable first, with ``chance`` and ``called``."""
        if self._found is None or patient not in self._places:
            return []
        cells = self._found.filter(pc.equal(self._found["place"], self._places[patient]))
        called = self._called[patient]
        rows = cells.slice(0, max(called, self._least)).to_pylist()
        return [row | {"called": number < called} for number, row in enumerate(rows)]

    def _places_of(self, rows: pa.Table) -> Counts:
        """Number the patients of image rows (n,); -1 for cells of other patients."""
        pairs, group = image_columns.pairs_of(rows)
        return np.asarray([self._place(*pair) for pair in pairs], np.int64)[group]

    def _place(self, slide: str | None, patient: str | None) -> int:
        if slide in self._unreadable:
            return -1
        return self._places.get((slide, None) if patient is None else (None, patient), -1)

    def _best(self, rows: pa.Table) -> pa.Table:
        """Keep the most probable cells of each patient, each image once."""
        order = [("place", "ascending"), ("chance", "descending"), ("image_id", "ascending")]
        rows = rows.take(pc.sort_indices(rows, order))
        ids = np.asarray(rows["image_id"].to_pylist(), object)
        again = np.zeros(len(ids), bool)
        again[1:] = ids[1:] == ids[:-1]
        rows = rows.filter(pa.array(~again))
        ranks = image_columns.rank_within(rows["place"].to_numpy())
        return rows.filter(pa.array(ranks < self._most)).combine_chunks()


def wanted_patients(
    patients: Sequence[Mapping[str, Any]], calls: Container[str]
) -> dict[Patient, int]:
    """Count the called cells of the patients with certain calls, from rows of their report."""
    return {patient_of(row): row["cells_called"] for row in patients if row["call"] in calls}
