"""Join the results of a batch's jobs to the rows of its report."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.screened import Screened
from storage.batches.ledger import scores_path
from storage.parquet import iterate_groups, read_table
from tasks.reports import image_columns, image_rows


def finished_rows(
    screened: Screened, parts: int, tell: Callable[[str], None]
) -> Iterator[pa.Table]:
    """Yield the rows of a scored batch in pieces, with q-values; copies of images are marked.

    ``tell`` reports the number of copies.
    """
    store = screened.store
    paths = [scores_path(screened.batch, screened.key, part) for part in range(parts)]

    def columns(name: str) -> Iterator[pa.Array]:
        return (read_table(store, *path, columns=[name])[name].combine_chunks() for path in paths)

    q = image_rows.QValues(column.to_numpy(zero_copy_only=False) for column in columns("p_value"))
    repeated = image_columns.repeats(columns("image_id"))
    if repeated.any():
        tell(
            f"{repeated.sum():,} of {len(repeated):,} images are copies of others of the batch: "
            "they count once, and their slides are for review"
        )
    start = 0
    for rows in (rows for path in paths for rows in iterate_groups(store, *path)):
        stop = start + rows.num_rows
        q_values = q.of(image_columns.numbers_of(rows, "p_value"))
        rows = rows.append_column("q_value", pa.array(q_values, mask=np.isnan(q_values)))
        yield rows.append_column(image_columns.REPEATED, pa.array(repeated[start:stop]))
        start = stop
