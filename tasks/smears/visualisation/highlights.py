"""Choose the few images of a batch that a page shows, and count all, over rows in parts.

Memory does not grow with the number of images.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.detector.verdict import Reason
from tasks.reports import image_columns
from tasks.types import Float

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


def columns(classes: Sequence[str]) -> list[str]:
    """List the columns of an image report that `Highlights` reads."""
    return [
        *("image_id", "uri", "slide_id", "patient_id", "status", "failure", "diagnosis"),
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
        self._within: dict[str, pa.Table] = {}
        self._beyond: dict[str, pa.Table] = {}

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
            keyed = rows.append_column("key", pa.array(key))
            for kept, a_slide in ((self._beyond, None), (self._within, MOST_OF_A_SLIDE)):
                if sheet == SAMPLE and a_slide is not None:
                    continue
                before = kept.get(sheet)
                near = keyed.filter(pa.array(shown & (key <= _last(before, sheet))))
                kept[sheet] = _first(before, near, sheet, a_slide)

    def add(self, *later: "Highlights") -> None:
        """Add the images and counts of later rows."""
        for each in later:
            self.scores += each.scores
            for reason, examples in each.failures.items():
                known = self.failures.setdefault(reason, [])
                known += examples[: EXAMPLES - len(known)]
        for kept, more, a_slide in (
            (self._beyond, [each._beyond for each in later], None),
            (self._within, [each._within for each in later], MOST_OF_A_SLIDE),
        ):
            for sheet in CELLS_SHOWN:
                if rows := [of_part[sheet] for of_part in more if sheet in of_part]:
                    kept[sheet] = _first(kept.get(sheet), pa.concat_tables(rows), sheet, a_slide)

    def sheet(self, name: str) -> pa.Table:
        """Return the rows to show on a sheet, in order.

        At most `MOST_OF_A_SLIDE` are of one slide, unless there are too few others to fill the
        sheet; images that name no slide count as of one. A sample is of all images alike.
        """
        if name not in self._beyond:
            return pa.table({column: pa.nulls(0) for column in self._columns})
        beyond, within = self._beyond[name], self._within.get(name)
        if within is None:
            return beyond
        shown = set(_names(within))
        others = [i for i, each in enumerate(_names(beyond)) if each not in shown]
        missing = pa.array(others[: CELLS_SHOWN[name] - within.num_rows], pa.int64())
        filled = pa.concat_tables([within, beyond.take(missing)])
        return _ordered(filled)


def _last(known: pa.Table | None, sheet: str) -> float:
    """Return the key beyond which no row can come on a sheet; infinite while it has room."""
    if known is None or known.num_rows < CELLS_SHOWN[sheet]:
        return float("inf")
    return float(known["key"][-1].as_py())


def _first(known: pa.Table | None, rows: pa.Table, sheet: str, a_slide: int | None) -> pa.Table:
    """Take the first rows of both, at most `a_slide` of one slide.

    A row left out of a part would be left out of the whole too: the rows before it can only be
    replaced by rows that also come before it.
    """
    if a_slide is None:
        # Sorting all text of a part to keep a dozen rows would take most of the time.
        rows = rows.take(pc.select_k_unstable(rows, CELLS_SHOWN[sheet], _ORDER))
    rows = _ordered(rows if known is None else pa.concat_tables([known, rows]))
    if a_slide is not None:
        codes, _ = image_columns.coded(rows["slide_id"])
        rows = rows.filter(pa.array(image_columns.rank_within(codes) < a_slide))
    # A slice would keep all rows, and send them to the coordinator.
    return rows.take(np.arange(min(rows.num_rows, CELLS_SHOWN[sheet])))


_ORDER = [("key", "ascending"), ("image_id", "ascending"), ("uri", "ascending")]


def _ordered(rows: pa.Table) -> pa.Table:
    return rows.take(pc.sort_indices(rows, _ORDER))


def _names(rows: pa.Table) -> list[tuple[str, str]]:
    return list(zip(rows["image_id"].to_pylist(), rows["uri"].to_pylist(), strict=True))
