"""Find a patient's likeliest parasites, whether they count or not."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.reports import image_columns
from tasks.smears.counting.call import Call

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


@dataclass
class CalledCells:
    """Collect the likeliest parasites of some patients; image rows may come in any parts.

    These are the red cells with the highest probability of "parasitized", also those that do not
    count: cut or very strange ones, and cells of ``unreadable`` slides. The counting threshold is
    on log-odds, which rise with the probability, so of the cells that are read the most probable
    ones are called, as many as the report on patients has counted: ``called`` has them by patient.
    Memory grows with the number of patients, not of images. At most ``most`` cells are kept of a
    patient, and ``least`` of one with fewer called ones.
    """

    called: Mapping[Patient, int]
    unreadable: Container[str | None]
    _: KW_ONLY
    most: int
    least: int = 0
    _found: pa.Table | None = None

    @cached_property
    def _places(self) -> dict[Patient, int]:
        return {patient: place for place, patient in enumerate(self.called)}

    def count(self, rows: pa.Table) -> None:
        """Collect from rows that have `COLUMNS` and a probability of "parasitized"."""
        if CHANCE not in rows.column_names:
            return
        chance = image_columns.numbers_of(rows, CHANCE)
        pairs, group = image_columns.pairs_of(rows)
        keys = [(slide, None) if patient is None else (None, patient) for slide, patient in pairs]
        places = np.asarray([self._places.get(key, -1) for key in keys], np.int64)[group]
        readable = np.asarray([slide not in self.unreadable for slide, _ in pairs], bool)[group]
        kept = (places >= 0) & image_columns.is_diagnosed(rows)
        read = kept & readable & image_columns.is_read(rows)
        cells = rows.filter(pa.array(kept))
        for name, values in (
            *(("place", places), ("chance", chance)),
            *(("read", read), ("readable", readable)),
        ):
            cells = cells.append_column(name, pa.array(values[kept]))
        self._keep(image_columns.plain(cells))

    def empty(self) -> "CalledCells":
        """Make a collector for the same patients, without any cells."""
        return replace(self, _found=None)

    def add(self, *others: "CalledCells") -> None:
        """Add the cells of the same patients from other rows."""
        self._keep(*(other._found for other in others if other._found is not None))

    def _keep(self, *cells: pa.Table) -> None:
        """Keep the most probable cells of each patient, each image once."""
        known = [] if self._found is None else [self._found]
        if not known and not cells:
            return
        order = [("place", "ascending"), ("chance", "descending"), ("image_id", "ascending")]
        rows = pa.concat_tables([*known, *cells])
        rows = rows.take(pc.sort_indices(rows, order))
        ids = np.asarray(rows["image_id"].to_pylist(), object)
        again = np.zeros(len(ids), bool)
        again[1:] = ids[1:] == ids[:-1]
        rows = rows.filter(pa.array(~again))
        places, read = (rows[name].to_numpy() for name in ("place", "read"))
        # Suspects that do not count must not crowd out those that do.
        kept = image_columns.rank_within(places) < self.most
        kept |= read & (image_columns.rank_within(2 * places + read) < self.most)
        self._found = rows.filter(pa.array(kept)).combine_chunks()

    def of(self, patient: Patient) -> list[dict[str, Any]]:
        """List a patient's cells, the most probable first.

        Each has its ``chance``; whether it is ``called``; and ``aside``, why it does not count, if
        it is no matter of probability.
        """
        if self._found is None or patient not in self._places:
            return []
        cells = self._found.filter(pc.equal(self._found["place"], self._places[patient]))
        called = self.called[patient]
        rows = cells.to_pylist()
        before = np.cumsum([row["read"] for row in rows])
        marked = [
            row | {"called": row["read"] and number <= called, "aside": _aside(row)}
            for row, number in zip(rows, before.tolist(), strict=True)
        ]
        return [row for n, row in enumerate(marked) if row["called"] or n < self.least]


def cells_behind(
    patients: Sequence[Mapping[str, Any]], slides: pa.Table, **options: Any
) -> CalledCells:
    """Make the collector of the cells behind the calls of patients, rows of their report.

    ``slides`` is the report on slides; the options are those of `CalledCells`.
    """
    counts = {patient_of(row): row["cells_called"] for row in patients}
    unreadable = slides.filter(pc.equal(slides["call"].cast(pa.string()), Call.UNREADABLE.value))
    names = unreadable.select(["slide_id", "patient_id"]).to_pylist()
    # A slide of several patients names none.
    lost: set[str | None] = {
        row["slide_id"] for row in names if row["patient_id"] is None or patient_of(row) in counts
    }
    return CalledCells(counts, lost, **options)


def _aside(row: Mapping[str, Any]) -> str | None:
    """Say why a cell does not count; None of one that may."""
    if row["read"]:
        return None
    if row["abnormality"] is None:
        return "cut off or touching another"
    return "unlike its slide" if row["readable"] else "slide is unreadable"
