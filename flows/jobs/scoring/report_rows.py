"""Join the results of a batch's jobs to the rows of its report."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.screened import Screened
from storage.batches.ledger import complete_looks, looks_path, scores_path
from storage.parquet import iterate_groups, read_table
from tasks.detector.verdict import VerdictRule
from tasks.reports.image_columns import REPEATED, numbers_of, repeats
from tasks.reports.image_rows import QValues
from tasks.second_look.changed_rows import Looked, with_second_look


def finished_rows(
    of: Screened, parts: int, tell: Callable[[str], None]
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Yield the rows of a scored batch in pieces, after the first pass and after both.

    The first ones have q-values, and mark copies of other images; ``tell`` reports their number.
    The others are the rows of the report.
    """
    store, batch, key, card, detector = of.store, of.batch, of.key, of.model, of.detector
    paths = [scores_path(batch, key, part) for part in range(parts)]

    def columns(name: str) -> Iterator[pa.Array]:
        return (read_table(store, *path, columns=[name])[name].combine_chunks() for path in paths)

    q = QValues(column.to_numpy(zero_copy_only=False) for column in columns("p_value"))
    repeated = repeats(columns("image_id"))
    if repeated.any():
        tell(
            f"{repeated.sum():,} of {len(repeated):,} images are copies of others of the batch: "
            "they count once, and their slides are for review"
        )
    rule = VerdictRule(detector.alpha, detector.uncertain_below)
    looks = complete_looks(store, batch, key)
    start = 0
    for part, path in enumerate(paths):
        looked = None
        if detector.second_look:
            looked = Looked.none(len(card.classes))
        if part in looks:
            table = read_table(store, *looks_path(batch, key, part))
            looked = Looked.from_table(table, card.classes)
        for rows in iterate_groups(store, *path):
            stop = start + rows.num_rows
            of_rows = q.of(numbers_of(rows, "p_value"))
            rows = rows.append_column("q_value", pa.array(of_rows, mask=np.isnan(of_rows)))
            marked = rows.append_column(REPEATED, pa.array(repeated[start:stop]))
            found = looked.within(start, stop) if looked else None
            yield marked, with_second_look(rows, card.classes, rule, found)
            start = stop
