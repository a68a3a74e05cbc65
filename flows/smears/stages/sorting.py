"""Recognise the kinds of a batch's sources, and cut up photographs and slides."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.cluster.client import open_client
from flows.cluster.executor import run_jobs
from flows.monitoring.console import tell, warn
from flows.monitoring.telemetry import stage
from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.jobs.single_cells import CountJob, count_cells
from flows.smears.stages.segmentation import cells_of_fields, cut_up
from flows.stages.batch import GivenImages, refuse_among_others, refuse_other_images
from storage.batches import manifests
from storage.smears import segmentations
from storage.smears.answers import labelled_batch
from storage.store import Store, StoreError
from tasks.images.access import addresses
from tasks.images.access.files import SourceError
from tasks.images.listing import as_given, named, sorted_images
from tasks.images.sorted_rows import SortedRows
from tasks.smears.segmentation.sorts import TRIED, Sort, SortedFile, glance, glances, settle, to_try

AT_ONCE = 16  # files read simultaneously
MOST_COMPARED = 100_000  # cells of a batch whose sources are listed again
WORDS: dict[str, tuple[str, str]] = {
    "fields": ("photograph of a field", "photographs of fields"),
    "slides": ("slide", "slides"),
    "cells": ("picture of a single cell", "pictures of single cells"),
}
OVERRULE = "if that is wrong, say --as cells, fields or slides"


@dataclass(frozen=True)
class Taken(GivenImages):
    """The input of a batch: its sources, or the manifest of cells cut out of them.

    ``sorts`` counts the sources by kind, and is empty if all are single cells.
    """

    sorts: dict[str, int] = field(default_factory=dict)


def take(
    store: Store,
    settings: Settings,
    options: Screen,
    root: str | list[str] | None,
    classes: Sequence[str],
    work: ExitStack,
) -> Taken:
    """Recognise the kinds of a batch's sources, and cut out the cells of those with many.

    Slides are named below ``root``, by default the folder of the images. The decision is kept when
    the batch begins: a resumed run does not decide again, and StoreError says so if it is given
    another one. Workers are started only if needed, and stay until ``work`` ends.
    """
    images = as_given(options.images)
    if _is_of_cells(store, images):
        if options.taken_as not in (None, "cells"):
            raise StoreError(f"{images} lists cells, and --as {options.taken_as} says otherwise")
        return Taken(images, options.limit)
    refuse_among_others(store, images)
    begun = manifests.find_batch(store, options.batch)
    if begun and begun.rows and not options.force:
        if not _is_cut_up(store, begun, images, options):
            return Taken(images, options.limit)
        return _cut(store, settings, options, root, begun.key, None, work)
    key = manifests.key_of(options.batch, begun.attempt + 1 if begun else 1)
    if segmentations.find_segmentation(store, key):
        return _cut(store, settings, options, root, key, None, work)
    listed = _list(store, options, classes, options.taken_as)
    sorts = _sorts(settings, listed, options.taken_as, work)
    _tell(images, listed.rows, sorts)
    _refuse_archived(images, listed, sorts)
    if not any(sorts.values()) and (options.taken_as == "cells" or len(sorts) < listed.rows):
        return Taken(images, options.limit, listed)
    return _cut(store, settings, options, root, key, _cells_last(listed.table(), sorts), work)


def _cut(
    store: Store,
    settings: Settings,
    options: Screen,
    root: str | list[str] | None,
    key: str,
    sources: pa.Table | None,
    work: ExitStack,
) -> Taken:
    """Cut up ``sources`` for the attempt of that key, or resume with those it was begun with."""
    images = as_given(options.images)
    if segmentations.read_segmented(store, key) is None:
        work.enter_context(open_client(settings))
    wanted = segmentations.CutUp(
        images=images,
        limit=options.limit,
        slide_is=options.slide_is,
        cutting=cells_of_fields(settings, options.microns_per_pixel),
        taken_as=options.taken_as,
    )
    cut_up(settings, key, wanted, root=root or images, sources=sources)
    cells = segmentations.manifest_address(store, key)
    counts = segmentations.count_sorts(segmentations.read_sources(store, key))
    return Taken(cells, None, sorts=dict(counts))


def come_since(
    store: Store, batch: manifests.Batch, options: Screen, classes: Sequence[str]
) -> dict[str, list[str]]:
    """Name sources that came since a batch began, have another size, or are gone; not of many."""
    images, taken_as = as_given(options.images), options.taken_as
    large = batch.rows > MOST_COMPARED
    if options.limit is not None or large or _is_of_cells(store, images):
        return {}
    if segmentations.segmentation_for(store, batch) is None:
        taken_as = "cells"
        known = manifests.read_manifest(store, batch, columns=["uri", "size"])
    else:
        known = segmentations.read_sources(store, batch.key)
    try:
        listed = _list(store, options, classes, taken_as).table()
    except SourceError as error:
        warn(f"whether images came since batch {batch.name} began is not known: {error}")
        return {}
    before, now = (
        dict(zip(files["uri"].to_pylist(), files["size"].to_pylist(), strict=True))
        for files in (known, listed)
    )
    changed = [uri for uri, size in now.items() if before.get(uri) not in (None, size)]
    come, gone = ([uri for uri in a if uri not in b] for a, b in ((now, before), (before, now)))
    return {"come_since": come, "changed_since": changed, "gone_since": gone}


def _is_of_cells(store: Store, images: str | list[str]) -> bool:
    return isinstance(images, str) and bool(
        segmentations.segmentation_of(store, images) or labelled_batch(store, images)
    )


def _is_cut_up(
    store: Store, begun: manifests.Batch, images: str | list[str], options: Screen
) -> bool:
    """Return whether a batch that has begun was cut up; StoreError if it is given otherwise."""
    made = segmentations.segmentation_for(store, begun)
    if made is not None:
        refuse_other_images(store, begun, images, options.limit)
    before = made.taken_as if made else "cells"
    if options.taken_as not in (None, before):
        were = f"as {before}" if before else "for what they look like"
        raise StoreError(
            f"batch {begun.name} was started on {begun.started_at:%Y-%m-%d %H:%M} with its images "
            f"taken {were}: leave out --as to resume it, or start it again with --force"
        )
    return made is not None


def _list(
    store: Store, options: Screen, classes: Sequence[str], taken_as: segmentations.TakenAs | None
) -> SortedRows:
    slides = frozenset[str]() if taken_as == "cells" else addresses.SLIDE_EXTENSIONS
    return sorted_images(
        options.images,
        classes=classes,
        limit=options.limit,
        extensions=addresses.EXTENSIONS | slides,
        trusted=store.holds,
        on_skip=warn,
    )


def _sorts(
    settings: Settings, listed: SortedRows, taken_as: segmentations.TakenAs | None, work: ExitStack
) -> dict[int, Sort | None]:
    """Return the kinds by row, None for rows that failed; all others, and regions, are cells."""
    failed: dict[int, Sort | None] = {}
    start = 0
    for part in listed.parts(["x", "failure"]):
        lost = pc.and_(pc.is_null(part["x"]), pc.is_valid(part["failure"]))
        failed |= dict.fromkeys((start + np.flatnonzero(lost)).tolist())
        start += part.num_rows
    if taken_as == "cells":
        return failed
    files = partial(_files, listed)
    if taken_as is not None:
        return failed | {file.row: _said(taken_as, file.uri) for file in files()}
    with stage("recognise"):
        return failed | _recognised(settings, files, work)


def _files(listed: SortedRows) -> Iterator[SortedFile]:
    start = 0
    for part in listed.parts(["uri", "source_uri", "size", "x", "failure"]):
        whole = pc.and_(pc.is_null(part["x"]), pc.is_null(part["failure"]))
        rows = np.flatnonzero(whole)
        some = part.take(pa.array(rows))
        uris = pc.coalesce(some["source_uri"], some["uri"]).to_pylist()
        yield from map(SortedFile, (start + rows).tolist(), uris, some["size"].to_pylist())
        start += part.num_rows


def _said(taken_as: segmentations.TakenAs, uri: str) -> Sort:
    """Return the kind that a person gave, except for formats that are always slides."""
    only_slides = addresses.extension_of(uri) in addresses.VENDORS | {addresses.ZARR}
    return "slides" if taken_as == "fields" and only_slides else taken_as


def _recognised(
    settings: Settings, files: Callable[[], Iterator[SortedFile]], work: ExitStack
) -> dict[int, Sort | None]:
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="recognise") as pool:
        seen = glances(files, lambda some: pool.map(glance, some))
    chosen = to_try(files, seen)
    tried: dict[SortedFile, int | None] = {}
    if chosen:
        # On workers: a stranger's file may kill the process that decodes it.
        client = work.enter_context(open_client(settings))
        pictures = [file.uri for file in chosen]
        jobs = [CountJob(tuple(pictures[i : i + TRIED])) for i in range(0, len(pictures), TRIED)]
        counts = run_jobs(client, count_cells, jobs, title="recognise the pictures")
        tried = dict(zip(chosen, chain.from_iterable(counts), strict=True))
    return settle(files, seen, tried)


def _tell(images: str | list[str], rows: int, sorts: Mapping[int, Sort | None]) -> None:
    counts = Counter[str](sort for sort in sorts.values() if sort)
    if not counts and (sorts or rows != 1):
        return
    counts["cells"] += rows - len(sorts)
    bad = len(sorts) - (counts.total() - counts["cells"])
    words = counted_sorts(counts) + (f", {bad:,} that cannot be read" if bad else "")
    tell(f"{named(images)}: {words}; cells are cut out of files with many ({OVERRULE})")


def _refuse_archived(
    images: str | list[str], listed: SortedRows, sorts: Mapping[int, Sort | None]
) -> None:
    slides = len(sorts) == listed.rows and set(sorts.values()) == {"slides"}
    if slides and all(addresses.in_archive(file.uri) for file in _files(listed)):
        raise SourceError(
            f"{named(images)}: a slide is read by region, which archives do not allow: unpack it, "
            "and give the folder"
        )


def counted_sorts(counts: Mapping[str, int]) -> str:
    """Describe the number of sources of each kind.

    >>> counted_sorts({"cells": 1, "fields": 12})
    '12 photographs of fields, 1 picture of a single cell'
    """
    return ", ".join(
        f"{counts[sort]:,} {words[counts[sort] != 1]}"
        for sort, words in WORDS.items()
        if counts.get(sort)
    )


def _cells_last(listed: pa.Table, sorts: Mapping[int, Sort | None]) -> pa.Table:
    """Sort files to cut up before single cells; unreadable ones go with the former."""
    cut = sorted(sorts)
    cells = np.setdiff1d(np.arange(listed.num_rows), cut)
    column = [*(sorts[row] for row in cut), *["cells"] * len(cells)]
    ordered = listed.take(pa.array([*cut, *cells.tolist()], pa.int64()))
    return ordered.append_column(segmentations.SORT, pa.array(column, pa.string()))
