"""Join the results of a batch's jobs to the rows of its report."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.screened import Screened
from storage.batches.ledger import complete_looks, looks_path, scores_path
from storage.parquet import iterate_groups, read_table
from tasks.detector.verdict import VerdictRule
from tasks.reports.image_columns import REPEATED, repeats
from tasks.reports.image_rows import q_values
from tasks.second_look.changed_rows import Looked, with_second_look


def finished_rows(
    of: Screened, parts: int, tell: Callable[[str], None]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the rows of a scored batch in pieces, after the first pass and after both.

    The first ones have q-values, and mark copies of other images; ``tell`` reports their number.
    The others are the rows of the report.
    """
    store, detector, classes = of.store, of.detector, of.model.classes
    paths = [scores_path(of.batch, of.key, part) for part in range(parts)]
    # A night may have no images.
    p = [np.empty(0), *(read_table(store, *path, columns=["p_value"])["p_value"] for path in paths)]
    q = q_values(np.concatenate(p))
    columns = (read_table(store, *path, columns=["image_id"])["image_id"] for path in paths)
    repeated = repeats(column.combine_chunks() for column in columns)
    if repeated.any():
        tell(
            f"{repeated.sum():,} of {len(repeated):,} images are copies of others of the batch: "
            "they count once, and their slides are for review"
        )
    rule = VerdictRule(detector.alpha, detector.uncertain_below)
    looked = _looked(of) if detector.second_look else None
    start = 0
    for rows in (group for path in paths for group in iterate_groups(store, *path)):
        here = slice(start, start + rows.num_rows)
        start = here.stop
        rows = rows.append_column("q_value", pa.array(q[here], mask=np.isnan(q[here])))
        marked = rows.append_column(REPEATED, pa.array(repeated[here]))
        found = looked.within(here.start, here.stop) if looked else None
        yield marked, with_second_look(rows, classes, rule, found)


def _looked(of: Screened) -> Looked:
    """Read the results of all second looks at a batch."""
    classes, done = of.model.classes, sorted(complete_looks(of.store, of.batch, of.key))
    tables = (read_table(of.store, *looks_path(of.batch, of.key, part)) for part in done)
    return Looked.joined([Looked.from_table(table, classes) for table in tables], len(classes))
