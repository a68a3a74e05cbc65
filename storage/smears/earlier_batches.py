"""Read the rows of earlier batches."""

from datetime import date

import pyarrow as pa

from storage import records
from storage.parquet import read_table
from storage.reports.tables import BATCHES
from storage.smears.schemas.batches import batch_schema
from storage.store import Store


def read_batches_before(
    store: Store, day: date, limit: int, on_damage: records.Tell | None = None
) -> pa.Table:
    """Read the rows of the last batches before a day, oldest first.

    See `read_readable` for damaged ones.
    """
    paths: list[tuple[str, ...]] = []
    for folder in reversed(store.names("reports", BATCHES)):
        if folder.removeprefix("batch_date=") < day.isoformat() and len(paths) < limit:
            names = store.names("reports", BATCHES, folder)
            paths += [("reports", BATCHES, folder, name) for name in reversed(names)]
    files = ["/".join(path) for path in reversed(paths[:limit])]
    rows = records.read_readable(lambda file: read_table(store, file), files, on_damage)
    schema = batch_schema()
    return pa.concat_tables([schema.empty_table(), *(each.cast(schema) for each in rows)])
