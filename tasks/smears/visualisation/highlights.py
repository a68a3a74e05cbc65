"""Choose the few images of a batch that a page shows, and count all, over rows in parts.

Memory does not grow with the number of images.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.detector.verdict import Reason
from tasks.reports import image_columns
from tasks.types import Float, Mask

PERSON, UNCERTAIN, ABNORMAL, SAMPLE = "person", "uncertain", "abnormal", "sample"
CELLS_SHOWN = {PERSON: 18, UNCERTAIN: 12, ABNORMAL: 12, SAMPLE: 12}
# More cells of one slide add nothing to the slide's own row.
MOST_OF_A_SLIDE = 3
EXAMPLES = 3  # of each reason to fail
ROW = "row"  # the column of an image's place in its batch, from 0

# Bins of the score have equal widths on an asinh axis: scores of other images may be ten times the
# threshold, and most scores are within one or two of zero.
BIN = 0.08
BINS = 48  # to each side of the threshold; scores beyond count in the outermost
_ORDER = [("key", "ascending"), ("image_id", "ascending"), ("uri", "ascending")]


def columns(classes: Sequence[str]) -> list[str]:
    """List the columns of an image report that `Highlights` reads."""
    return [
        *("image_id", "uri", "slide_id", "patient_id", "kind", "status", "failure", "diagnosis"),
        *(f"probability_{name}" for name in classes),
        *("abnormality", "p_value", "abnormal", "review_reason"),
    ]


class Highlights:
    """Collect the images to show and the counts of a batch.

    ``threshold`` is the abnormality from which on an image is abnormal; infinite where none is.
    """

    def __init__(self, classes: Sequence[str], threshold: float) -> None:
        self._columns, self._classes = [*columns(classes), ROW], list(classes)
        named = image_columns.PARASITIZED in self._classes
        self._parasitized = self._classes.index(image_columns.PARASITIZED) if named else 0
        middle = float(np.arcsinh(threshold)) if np.isfinite(threshold) else 0.0
        self.edges: Float = np.sinh(middle + BIN * np.arange(-BINS, BINS + 1))
        self.scores = np.zeros((2, 2 * BINS), np.int64)
        self.failures: dict[str, list[tuple[str, str]]] = {}
        self._kept: dict[str, pa.Table] = {}

    def count(self, rows: pa.Table) -> None:
        """Count rows that have `columns` and `ROW`."""
        rows = image_columns.plain(rows.select(self._columns))
        for row, reason in image_columns.failed_rows(rows):
            known = self.failures.setdefault(reason, [])
            if len(known) < EXAMPLES:
                message = rows["failure"][row].as_py().partition(":")[2].strip()
                known.append((rows["uri"][row].as_py(), message))
        scored, abnormal = image_columns.flags(rows)
        score = image_columns.numbers_of(rows, "abnormality")
        judged = scored & ~np.isnan(score)
        for row, which in enumerate((judged & ~abnormal, judged & abnormal)):
            places = np.searchsorted(self.edges, score[which], side="right") - 1
            counts = np.bincount(np.clip(places, 0, 2 * BINS - 1), minlength=2 * BINS)
            self.scores[row] += counts
        chances = np.stack(
            [image_columns.numbers_of(rows, f"probability_{name}") for name in self._classes]
        )
        # Cells unlike any smear are rubbish, not parasites that the count has left out.
        odd = image_columns.has_reason(rows, Reason.UNLIKE)
        sheets = {
            PERSON: (judged & abnormal & ~odd, -chances[self._parasitized]),
            UNCERTAIN: (scored, chances.max(axis=0)),
            ABNORMAL: (judged, -score),
            SAMPLE: (scored, np.zeros(len(score))),
        }
        for sheet, (shown, key) in sheets.items():
            self._keep(sheet, rows.append_column("key", pa.array(key)).filter(pa.array(shown)))

    def add(self, *later: "Highlights") -> None:
        """Add the images and counts of later rows."""
        for each in later:
            self.scores += each.scores
            for reason, examples in each.failures.items():
                known = self.failures.setdefault(reason, [])
                known += examples[: EXAMPLES - len(known)]
        for sheet in CELLS_SHOWN:
            self._keep(sheet, *(each._kept[sheet] for each in later if sheet in each._kept))

    def _keep(self, sheet: str, *more: pa.Table) -> None:
        """Keep the first rows of a sheet, and the first that are within the limit of their slide.

        A row left out of a part would be left out of the whole too: the rows before it can only be
        replaced by rows that also come before it.
        """
        tables = [*([self._kept[sheet]] if sheet in self._kept else []), *more]
        if not tables:
            return
        rows, most = pa.concat_tables(tables), CELLS_SHOWN[sheet]
        rows = rows.take(pc.sort_indices(rows, _ORDER))
        near = _within(rows, sheet)
        kept = (np.arange(len(near)) < most) | (near & (np.cumsum(near) <= most))
        self._kept[sheet] = rows.filter(pa.array(kept)).combine_chunks()

    def sheet(self, name: str) -> pa.Table:
        """Return the rows to show on a sheet, in order.

        At most `MOST_OF_A_SLIDE` are of one slide, unless there are too few others to fill the
        sheet; images that name no slide count as of one. A sample is of all images alike.
        """
        if name not in self._kept:
            return pa.table({column: pa.nulls(0) for column in self._columns})
        rows = self._kept[name]
        near_first = np.argsort(~_within(rows, name), kind="stable")
        return rows.take(np.sort(near_first[: CELLS_SHOWN[name]]))


def _within(rows: pa.Table, sheet: str) -> Mask:
    """Mark the sorted rows (n,) that are within the limit of their slide."""
    if sheet == SAMPLE:
        return np.ones(rows.num_rows, bool)
    codes, _ = image_columns.coded(rows["slide_id"])
    return np.asarray(image_columns.rank_within(codes) < MOST_OF_A_SLIDE)
