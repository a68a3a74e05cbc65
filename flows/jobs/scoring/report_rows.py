"""Join the results of a batch's jobs to the rows of its report."""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.screened import Screened
from storage.batches.ledger import complete_looks, looks_path, scores_path
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard
from storage.parquet import iterate_groups, read_table
from storage.store import Store
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
    store, batch, key, card, detector = of.store, of.batch, of.key, of.model, of.detector
    paths = [scores_path(batch, key, part) for part in range(parts)]
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
    looked = _looked(store, batch, key, card) if detector.second_look else None
    start = 0
    for rows in (group for path in paths for group in iterate_groups(store, *path)):
        here = slice(start, start + rows.num_rows)
        start = here.stop
        rows = rows.append_column("q_value", pa.array(q[here], mask=np.isnan(q[here])))
        marked = rows.append_column(REPEATED, pa.array(repeated[here]))
        found = looked.within(here.start, here.stop) if looked else None
        yield marked, with_second_look(rows, card.classes, rule, found)


def _looked(store: Store, batch: Batch, key: str, card: ModelCard) -> Looked:
    """Read the results of all second looks at a batch."""
    paths = [looks_path(batch, key, part) for part in sorted(complete_looks(store, batch, key))]
    return Looked.joined(
        [Looked.from_table(read_table(store, *p), card.classes) for p in paths], len(card.classes)
    )
