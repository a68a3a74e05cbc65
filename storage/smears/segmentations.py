"""Store segmentations: the images cut out of photographs and slides, as a batch's manifest.

``segmentations/<name>/segmentation.json`` and ``sources.parquet`` are written once, when it starts;
``surveys/<n>.parquet`` lists the places of fields in some sources, and ``places.parquet`` in all;
``cells/<n>.parquet`` and ``fields/<n>.parquet``, written in this order, hold the cells and the rows
of some fields. ``manifest.parquet`` and ``fields.parquet`` join them, and ``segmented.json`` says
that they are complete.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Literal

import pyarrow as pa

from storage import parquet, records
from storage.batches import manifests
from storage.batches.ledger import Quarantine
from storage.reports.schemas.shared import TEXT
from storage.smears.schemas.fields import MEASURED
from storage.store import Store, StoreError, check_name, digest_of

FOLDER = "segmentations"
SOURCES, PLACES = "sources.parquet", "places.parquet"
MANIFEST, FIELDS = "manifest.parquet", "fields.parquet"
STARTED, DONE = "segmentation.json", "segmented.json"

SlideIs = Literal["file", "folder"]
TakenAs = Literal["cells", "fields", "slides"]
SORT = "sort"  # column of the sources with the kind of each, if known
FIELD_SCHEMA = pa.schema(
    [(each.name, pa.string() if each.type == TEXT else each.type) for each in MEASURED]
)
PLACE_SCHEMA = pa.schema(
    [
        *list(FIELD_SCHEMA)[: FIELD_SCHEMA.get_field_index("sharpness")],
        ("source_stamp", pa.string()),
        ("label", pa.string()),
        ("acquired_at", pa.timestamp("us")),
        ("is_slide", pa.bool_()),
    ]
)


class Cutting(records.Entry):
    """The settings for cutting up sources; lengths are pixels of a source's full size.

    ``microns_per_pixel`` applies to slides whose file does not state it. The ``finder`` searches
    fields of a slide of at least ``least_sharpness``, and at most ``most_packed``.
    """

    microns_per_pixel: float | None
    finder: str = "outlines"
    least_sharpness: float = 0.0
    most_packed: float = 1.0


class CutUp(records.Entry):
    """The ``images`` that a person named, at most ``limit`` of them, and how to cut them up.

    ``taken_as`` is the kind that the person stated for all of them.
    """

    images: manifests.Sources
    limit: int | None
    slide_is: SlideIs = "file"
    cutting: Cutting
    taken_as: TakenAs | None = None


class Segmentation(CutUp, records.Record):
    """A segmentation, frozen when it started.

    The last ``cells`` of its sources are pictures of single cells, and are not cut up.
    """

    name: str
    sources: int
    sources_digest: str
    started_at: datetime
    cells: int = 0

    @property
    def digest(self) -> str:
        """Compute the digest of the sources and of how they are cut up."""
        return digest_of(f"{self.sources_digest} {self.cutting.model_dump_json()}".encode())


class Segmented(records.Record):
    """The record of a complete segmentation; counts fields by kind and failures by reason."""

    digest: str
    sources: int
    manifest_digest: str
    fields_digest: str
    images: int
    fields: dict[str, int]
    failures: dict[str, int]


def freeze_segmentation(
    store: Store, name: str, sources: pa.Table, wanted: CutUp, started_at: datetime
) -> Segmentation:
    """Write a segmentation's sources, as rows of a manifest; they never change.

    Single cells come last and are marked in `SORT`.
    """
    content = parquet.table_to_bytes(sources)
    made = Segmentation(
        **dict(wanted),
        name=checked_name(name),
        sources=sources.num_rows,
        sources_digest=digest_of(content),
        started_at=started_at,
        cells=count_sorts(sources)["cells"],
    )
    with records.once(f"segmentation {name} exists already, and its sources are frozen"):
        records.freeze(store, content, made, FOLDER, name, file=SOURCES, record_file=STARTED)
    return made


def find_segmentation(store: Store, name: str) -> Segmentation | None:
    """Find a segmentation by name; None if it has not started."""
    return Segmentation.find(store, FOLDER, checked_name(name), STARTED)


def checked_name(name: str) -> str:
    """Check and return the name of a segmentation, or the key of a later attempt at its batch."""
    check_name("segmentation", re.sub(r"~\d+$", "", name))
    return name


def count_sorts(sources: pa.Table) -> Counter[str]:
    """Count the sources by kind, without those of unknown kind."""
    if SORT not in sources.column_names:
        return Counter()
    return Counter(sort for sort in sources[SORT].to_pylist() if sort)


def segmentation_of(store: Store, images: manifests.Sources) -> str | None:
    """Find the segmentation whose manifest is this source of images; return its name, or None."""
    if not isinstance(images, str) or not images.endswith(f"/{MANIFEST}"):
        return None
    root, folder = Store(images).root, f"{store.path(FOLDER)}/"
    name = root.removeprefix(folder).removesuffix(f"/{MANIFEST}")
    is_one = root.startswith(folder) and "/" not in name
    return name if is_one and store.exists(FOLDER, name, DONE) else None


def segmentation_for(store: Store, batch: manifests.Batch) -> Segmentation | None:
    """Find the segmentation that was made for a batch when it started; None if there is none."""
    record = find_segmentation(store, batch.key)
    return record if record and batch.images == manifest_address(store, batch.key) else None


def sources_of(store: Store, batch: manifests.Batch) -> manifests.Sources:
    """Return the sources that a person gave for a batch, even if cells were cut out of them."""
    made = segmentation_for(store, batch)
    return made.images if made else batch.images


def manifest_address(store: Store, name: str) -> str:
    """Locate the manifest of a segmentation, for `tasks.images.listing.list_images`."""
    return store.address(FOLDER, name, MANIFEST)


def write_quarantine(store: Store, name: str, kind: str, number: int, rows: list[int]) -> None:
    """Quarantine rows of the n-th part of ``surveys`` or ``fields``; no run reads them again."""
    Quarantine(rows=rows).write(store, FOLDER, name, "quarantine", kind, f"{number:06d}.json")


def read_quarantine(store: Store, name: str, kind: str, number: int) -> list[int]:
    """Read the quarantined rows of a part."""
    parts = (FOLDER, name, "quarantine", kind, f"{number:06d}.json")
    quarantine = Quarantine.find(store, *parts)
    return quarantine.rows if quarantine else []


def write_part(store: Store, name: str, kind: str, number: int, rows: pa.Table) -> None:
    """Write the n-th part of ``surveys``, ``cells`` or ``fields``, complete or not at all."""
    parquet.write_table(store, rows, *_part(name, kind, number))


def complete_parts(store: Store, name: str, kind: str) -> set[int]:
    """List the numbers of the existing parts."""
    return {int(part.removesuffix(".parquet")) for part in store.names(FOLDER, name, kind)}


def read_parts(store: Store, name: str, kind: str, count: int) -> Iterator[pa.Table]:
    """Read the parts in order, one at a time."""
    for number in range(count):
        yield parquet.read_table(store, *_part(name, kind, number))


def _part(name: str, kind: str, number: int) -> tuple[str, ...]:
    return (FOLDER, name, kind, f"{number:06d}.parquet")


def read_sources(store: Store, name: str, start: int = 0, stop: int | None = None) -> pa.Table:
    """Read the sources ``start`` to ``stop`` of a segmentation, by default all."""
    length = None if stop is None else stop - start
    return parquet.read_table(store, FOLDER, name, SOURCES).slice(start, length)


def write_places(store: Store, name: str, places: pa.Table, group: int) -> None:
    """Write the places found by surveys, in parts of ``group`` rows."""
    parquet.write_table(store, places, FOLDER, name, PLACES, group_rows=group)


def count_places(store: Store, name: str) -> int | None:
    """Count the parts of the places; None until all sources have been surveyed."""
    if not store.exists(FOLDER, name, PLACES):
        return None
    count: int = parquet.read_footer(store, FOLDER, name, PLACES).num_row_groups
    return count


def read_places(store: Store, name: str, number: int) -> pa.Table:
    """Read the places of the n-th part."""
    return next(parquet.iterate_groups(store, FOLDER, name, PLACES, groups=[number]))


def publish(
    store: Store, name: str, file: str, schema: pa.Schema, parts: Iterable[pa.Table]
) -> str:
    """Join parts into the manifest or the table of fields; return its sha256."""
    return parquet.write_parts(
        store, schema, (part.cast(schema) for part in parts), FOLDER, name, file
    )


def seal_segmentation(store: Store, name: str, done: Segmented) -> None:
    """Declare a segmentation complete, and remove the parts that were joined."""
    done.write(store, FOLDER, name, DONE)
    discard_parts(store, name)


def discard_parts(store: Store, name: str) -> None:
    """Remove the joined parts of a complete segmentation."""
    for kind in ("surveys", "cells", "fields", "quarantine"):
        store.remove(FOLDER, name, kind)


def read_segmented(store: Store, name: str) -> Segmented | None:
    """Read the record of a complete segmentation; None if it is not complete."""
    return Segmented.find(store, FOLDER, name, DONE)


def verify_segmentation(store: Store, name: str) -> None:
    """Compare a segmentation's files with their digests, if it has them; StoreError on damage."""
    made, done = find_segmentation(store, name), read_segmented(store, name)
    kept = {SOURCES: made.sources_digest} if made else {}
    if done:
        kept |= {MANIFEST: done.manifest_digest, FIELDS: done.fields_digest}
    for file, digest in kept.items():
        if store.digest(FOLDER, name, file) != digest:
            raise StoreError(
                f"{store.address(FOLDER, name, file)} is not the file that was made (sha256 "
                "differs): restore it from a backup"
            )


def read_fields(store: Store, name: str) -> pa.Table:
    """Read the fields of a complete segmentation, a table of `FIELD_SCHEMA`."""
    return parquet.read_table(store, FOLDER, name, FIELDS)
