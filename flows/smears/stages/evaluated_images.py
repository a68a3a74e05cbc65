"""Choose the images of an evaluation, and keep their lists."""

from collections.abc import Collection, Sequence, Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.monitoring.console import warn
from flows.prefect.decorators import task
from flows.smears.jobs.evaluation.images import Run, SetShard, read_treated
from flows.smears.stages import compositions
from storage.batches.features import read_columns
from storage.batches.manifests import load_batch, read_manifest
from storage.models import contributions
from storage.models.detectors import is_shipped
from storage.models.statistics import load_statistics
from storage.parquet import write_table
from storage.smears.evaluations import Evaluation, images_path
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images, named
from tasks.images.manifest import SCHEMA, with_column
from tasks.network.split import split_by
from tasks.smears.evaluation.measures import ATTACKED, SAMPLED, TEST
from tasks.smears.evaluation.rivals import SAMPLE
from tasks.smears.evaluation.scored import FILE
from tasks.types import Counts

FITTED = "fitted"


@task
def freeze_images(run: Run, evaluation: Evaluation) -> set[bytes]:
    """Write the lists of some fitted images, of images of unseen patients, and of other sets, once.

    Return the digests of all images that the statistics or the network have seen.
    """
    model = run.model
    table, digests = _fitted(run)
    every = max(1, -(-table.num_rows // SAMPLE))
    _freeze(run, FITTED, table.take(np.arange(0, table.num_rows, every)))
    test = list_images(
        evaluation.images, classes=model.classes, limit=evaluation.limit, on_skip=warn
    )
    seen = [*model.split["train"], *model.split["validation"]]
    if is_shipped(run.detector):  # whose patients are named set::patient
        seen = [each.rpartition("::")[2] for each in seen]
    unseen = pc.is_in(test["label"], pa.array(model.classes))
    if model.split_by == "image":
        digests |= {bytes.fromhex(key) for key in seen}  # recognised when they are read
    else:
        keys = test[f"{model.split_by}_id"]
        unseen = pc.and_(unseen, pc.invert(pc.is_in(keys, pa.array(seen, pa.string()))))
    test = test.filter(unseen)
    if not test.num_rows:
        raise SourceError(
            f"{named(evaluation.images)} has no labelled image of a {model.split_by} that model "
            f"{model.name} has not seen: give images of others"
        )
    _freeze(run, TEST, test)
    for name, url in evaluation.ood.items():
        listing = list_images(url, classes=model.classes, on_skip=warn)
        if not listing.num_rows:
            raise SourceError(f"{url} holds no images")
        by = _by(listing) if compositions.is_healthy(name) else "image"
        if compositions.is_healthy(name) and by == "image":  # a single slide
            by, listing = "slide", with_column(listing, "slide_id", [name] * listing.num_rows)
        _freeze(run, list_name(name), listing, by)
    return digests


def _fitted(run: Run) -> tuple[pa.Table, set[bytes]]:
    store, rows, digests = run.store, list[pa.Table](), set[bytes]()
    if is_shipped(run.detector):  # whose fitted images are not in the store
        return SCHEMA.empty_table(), digests
    lineage = load_statistics(store, run.detector.model, run.detector.statistics_version)
    for contribution in lineage.contributions:
        given = contributions.contributed(store, run.model, contribution)
        batch = load_batch(store, contribution.batch, contribution.attempt)
        rows.append(read_manifest(store, batch).take(given.rows))
        columns = read_columns(store, run.model.name, batch.key, 0, batch.rows, ["image_id"])
        digests |= {row.tobytes() for row in columns["image_id"][given.rows]}
    return pa.concat_tables(rows), digests


def _freeze(run: Run, name: str, table: pa.Table, by: str | None = None) -> None:
    by = by or _by(table)
    keys = table["uri" if by == "image" else f"{by}_id"]
    _write_once(run, name, table.append_column("group", keys))


def _by(table: pa.Table) -> str:
    return split_by(table["patient_id"].to_pylist(), table["slide_id"].to_pylist())


def choose_images(
    run: Run,
    clean: dict[str, list[SetShard]],
    healthy: Collection[str],
    seen: set[bytes],
    count: int,
) -> None:
    """Write, once, the lists of images to corrupt and of right diagnoses to attack."""
    good, right = _good(clean[TEST], seen)
    if not len(right):
        raise SourceError("not one image of an unseen patient is diagnosed rightly")
    chosen = {SAMPLED: (TEST, good), ATTACKED: (TEST, right)}
    for images in healthy:
        chosen[compositions.some_of(images)] = images, _good(clean[images], seen)[0]
    for name, (images, rows) in chosen.items():
        spread = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
        _write_once(run, name, run.images(images).take(rows[spread]))


def _good(among: Sequence[SetShard], but: Set[bytes]) -> tuple[Counts, Counts]:
    """Return the rows whose digest is not in ``but``, and the correctly diagnosed ones of these."""
    good: list[int] = []
    right: list[int] = []
    for images in map(read_treated, among):
        if not len(images.rows):
            continue
        others = np.asarray([row.tobytes() not in but for row in images.image_ids], bool)
        diagnosed = images.forms[FILE].logits.argmax(axis=1)
        good += images.rows[others].tolist()
        right += images.rows[others & (diagnosed == images.label)].tolist()
    return np.asarray(good, np.int64), np.asarray(right, np.int64)


def _write_once(run: Run, name: str, table: pa.Table) -> None:
    path = images_path(run.evaluation, run.detector.name, name)
    if not run.store.exists(*path):
        write_table(run.store, table, *path)


def list_name(given: str) -> str:
    """Name the list of a set of images: its name, without slashes."""
    return given.replace("/", "--")
