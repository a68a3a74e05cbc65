"""Keep reviews: ``reviews/<batch>/<n>.parquet``, persons' verdicts on a screened batch's images.

Every import of verdicts writes a new file, once. It holds all verdicts on the batch up to then, one
row per image: the new ones, and the earlier ones that they do not replace. So the newest file is
the current state, the older ones are its history, and each is a manifest that can be fitted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from storage.batches.manifests import Sources, load_batch
from storage.models.statistics import latest_statistics
from storage.parquet import read_table, write_table
from storage.records import once
from storage.store import Store, StoreError

FOLDER = "reviews"
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.string()),  # the verdict if it is a class to be fitted, else null
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("acquired_at", pa.timestamp("us")),
        ("verdict", pa.string()),
        ("note", pa.string()),
        ("reviewer", pa.string()),
        ("reviewed_at", pa.timestamp("us", "UTC")),
        # The place of a region, as in its batch's manifest; null for a whole file.
        ("source_uri", pa.string()),
        ("source_id", pa.string()),
        ("source_stamp", pa.string()),
        ("x", pa.int64()),
        ("y", pa.int64()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("level", pa.int8()),
        ("scale", pa.float64()),
        ("outline", pa.list_(pa.float32())),
        ("failure", pa.string()),
    ]
)


@dataclass(frozen=True)
class Review:
    """The state of a batch's verdicts after its n-th import: a table of `SCHEMA`."""

    batch: str
    number: int
    rows: pa.Table

    @property
    def path(self) -> tuple[str, ...]:
        """Locate the review, relative to the store."""
        return (FOLDER, self.batch, f"{self.number:04d}.parquet")


def latest_review(store: Store, batch: str) -> Review:
    """Load the newest review of a batch; number 0, without rows, before the first import."""
    names = [name for name in store.names(FOLDER, batch) if name.endswith(".parquet")]
    if not names:
        return Review(batch, 0, SCHEMA.empty_table())
    rows = read_table(store, FOLDER, batch, names[-1])
    # A review from before there were regions lacks their columns.
    rows = pa.concat_tables([SCHEMA.empty_table(), rows], promote_options="default")
    return Review(batch, int(names[-1].removesuffix(".parquet")), rows)


def other_reviews(store: Store, batch: str) -> Iterator[Review]:
    """Load the newest review of every other batch."""
    for name in store.names(FOLDER):
        if name != batch:
            yield latest_review(store, name)


def save_review(store: Store, review: Review) -> None:
    """Write a review; StoreError if another run has imported verdicts meanwhile."""
    with once(
        f"verdicts on batch {review.batch} were imported by another run meanwhile: run the command "
        "again, and it will build on them"
    ):
        write_table(store, review.rows.cast(SCHEMA), *review.path, once=True)


def verify_review(store: Store, *path: str) -> None:
    """Read a whole review; StoreError if it is damaged.

    Names of columns are checked too: they are in the footer, which has no checksum.
    """
    found = read_table(store, *path).schema
    other = [each.name for each in found if each.name not in SCHEMA.names]
    if other or not {"image_id", "verdict"} <= set(found.names):
        raise StoreError("its columns are not those of a review: restore it from a backup")


def reviewed_batch(store: Store, images: Sources) -> str | None:
    """Return the batch whose verdicts are this source of images; None for any other source."""
    if not isinstance(images, str) or not images.endswith(".parquet"):
        return None
    root, folder = Store(images).root, f"{store.path(FOLDER)}/"
    batch, _, name = root.removeprefix(folder).partition("/")
    return batch if root.startswith(folder) and name and "/" not in name else None


def fitted_from(store: Store, model: str, night: str) -> list[str]:
    """List the fitted batches that were made from verdicts on a night."""
    latest = latest_statistics(store, model)
    return [
        each.batch
        for each in (latest.contributions if latest else [])
        if reviewed_batch(store, load_batch(store, each.batch, each.attempt).images) == night
    ]
