"""Choose the images of an evaluation, and keep their lists."""

from collections.abc import Collection, Sequence, Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.monitoring.console import warn
from flows.prefect.decorators import task
from flows.smears.jobs.evaluation.images import Run, Shard, read_treated
from flows.smears.stages import compositions
from storage.batches.manifests import load_batch, read_manifest
from storage.models import contributions
from storage.models.statistics import load_statistics
from storage.parquet import write_table
from storage.smears.evaluations import Evaluation, images_path
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images, named
from tasks.network.split import split_by
from tasks.smears.evaluation.measures import ATTACKED, SAMPLED, TEST
from tasks.smears.evaluation.treated import FILE
from tasks.types import Counts

FITTED = "fitted"


@task
def freeze_images(run: Run, evaluation: Evaluation) -> None:
    """Write the lists of fitted images, of images of unseen patients, and of other sets, once."""
    model = run.model

    def freeze(name: str, table: pa.Table, by: str = "image") -> None:
        keys = table["uri" if by == "image" else f"{by}_id"]
        _write_once(run, name, table.append_column("group", keys))

    lineage = load_statistics(run.store, run.detector.model, run.detector.statistics_version)
    fitted = []
    for contribution in lineage.contributions:
        given = contributions.contributed(run.store, model, contribution)
        batch = load_batch(run.store, contribution.batch, contribution.attempt)
        fitted.append(read_manifest(run.store, batch).take(given.rows))
    table = pa.concat_tables(fitted)
    freeze(FITTED, table, _by(table))
    test = list_images(
        evaluation.images, classes=model.classes, limit=evaluation.limit, on_skip=warn
    )
    seen = [*model.split["train"], *model.split["validation"]]
    unseen = pc.is_in(test["label"], pa.array(model.classes))
    if model.split_by != "image":  # seen images are recognised later, by their digests
        keys = test[f"{model.split_by}_id"]
        unseen = pc.and_(unseen, pc.invert(pc.is_in(keys, pa.array(seen, pa.string()))))
    test = test.filter(unseen)
    if not test.num_rows:
        raise SourceError(
            f"{named(evaluation.images)} has no labelled image of a {model.split_by} that model "
            f"{model.name} has not seen: give images of others"
        )
    freeze(TEST, test, _by(test))
    for name, url in evaluation.ood.items():
        listing = list_images(url, classes=model.classes, on_skip=warn)
        if not listing.num_rows:
            raise SourceError(f"{url} holds no images")
        freeze(
            list_name(name),
            *(_with_slides(name, listing) if compositions.is_healthy(name) else (listing,)),
        )


def _with_slides(name: str, table: pa.Table) -> tuple[pa.Table, str]:
    """Name the slides of healthy cells, a single one if unknown; return the kind of name."""
    by = _by(table)
    if by == "image":
        place = table.schema.get_field_index("slide_id")
        one = pa.repeat(pa.scalar(name, table.schema.field(place).type), table.num_rows)
        return table.set_column(place, "slide_id", one), "slide"
    return table, by


def _by(table: pa.Table) -> str:
    return split_by(table["patient_id"].to_pylist(), table["slide_id"].to_pylist())


def choose_images(
    run: Run,
    clean: dict[str, list[Shard]],
    healthy: Collection[str],
    seen: set[bytes],
    learned: Set[bytes],
    count: int,
) -> None:
    """Write, once, the lists of images to corrupt and of right diagnoses to attack."""
    good, right = _good(clean[TEST], seen)
    if not len(right):
        raise SourceError("not one image of an unseen patient is diagnosed rightly")
    chosen = {SAMPLED: (TEST, good), ATTACKED: (TEST, right)}
    for images in healthy:
        chosen[compositions.some_of(images)] = images, _good(clean[images], seen | learned)[0]
    for name, (images, rows) in chosen.items():
        spread = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
        _write_once(run, name, run.images(images).take(rows[spread]))


def _good(among: Sequence[Shard], but: Set[bytes]) -> tuple[Counts, Counts]:
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
    """Write a list of images, unless it exists."""
    path = images_path(run.evaluation, run.detector.name, name)
    if not run.store.exists(*path):
        write_table(run.store, table, *path)


def list_name(given: str) -> str:
    """Name the list of a set of images: its name, without slashes."""
    return given.replace("/", "--")
