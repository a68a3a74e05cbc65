"""Store the nights of an inbox: the images that each took, frozen before any computation.

``nights/<series>/<date>/manifest.parquet`` lists the images; ``night.json``, written last,
completes it. An image of a night is not taken again. Only a night without images may be frozen
again.
"""

from datetime import date, datetime

import pyarrow as pa

from storage import parquet, records
from storage.store import Store, StoreError, check_name, digest_of

MANIFEST, NIGHT = "manifest.parquet", "night.json"


class Night(records.Record):
    """A night and the list of images that it took."""

    series: str
    day: date
    inbox: str
    images: int
    frozen_at: datetime
    digest: str

    @property
    def batch(self) -> str:
        """Name the batch of the night."""
        return batch_of(self.series, self.day)


def batch_of(series: str, day: date) -> str:
    """Name the batch of a night: its series and its day."""
    return f"{check_name('series', series)}-{day.isoformat()}"


def freeze_night(
    store: Store, series: str, day: date, manifest: pa.Table, *, inbox: str, frozen_at: datetime
) -> Night:
    """Write the images that a night takes, as rows of a manifest; the caller holds the lease."""
    record = find_night(store, series, day)
    if record and record.images:
        raise StoreError(f"night {record.batch} has its images already, and they are frozen")
    content = parquet.table_to_bytes(manifest)
    night = Night(
        series=series,
        day=day,
        inbox=inbox,
        images=manifest.num_rows,
        frozen_at=frozen_at,
        digest=digest_of(content),
    )
    # An empty night is replaced: images may have arrived since.
    names = {"file": MANIFEST, "record_file": NIGHT}
    records.freeze(
        store, content, night, *_folder(series, day), **names, replace=record is not None
    )
    return night


def find_night(store: Store, series: str, day: date) -> Night | None:
    """Find the night of a series on a day; None if it is not frozen."""
    return Night.find(store, *_folder(series, day), NIGHT)


def list_nights(store: Store, series: str) -> list[Night]:
    """List all nights of a series, oldest first."""
    days = store.folders("nights", check_name("series", series), having=NIGHT)
    return [Night.read(store, "nights", series, day, NIGHT) for day in days]


def manifest_address(store: Store, night: Night) -> str:
    """Locate the list of a night's images; StoreError if it is damaged or lost."""
    _read_verified(store, night)
    return store.address(*_folder(night.series, night.day), MANIFEST)


def read_taken(store: Store, night: Night) -> pa.Table:
    """Read the ``uri`` and ``size`` of the images that a night took."""
    return parquet.table_from_bytes(_read_verified(store, night), ["uri", "size"])


def _read_verified(store: Store, night: Night) -> bytes:
    parts = (*_folder(night.series, night.day), MANIFEST)
    what = f"the list that night {night.batch} froze"
    return records.read_verified(store, parts, night.digest, what, remedy="")


def _folder(series: str, day: date) -> tuple[str, ...]:
    return ("nights", check_name("series", series), day.isoformat())
