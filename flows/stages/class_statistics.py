"""Change class statistics in steps: check labels, compute, remove, save a version."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.fitting.fitted_rows import CheckJob, RowsJob, find_damage, rows_statistics
from flows.monitoring.console import tell, warn
from flows.settings import Settings
from flows.stages.error_counts import ERRORS, errors_of_version
from storage import leases, records
from storage.batches.manifests import Batch, load_batch, read_manifest
from storage.models.classifiers import ModelCard
from storage.models.contributions import Rows, contributed, held_out_rows, repeated_rows
from storage.models.statistics import (
    Contribution,
    Lineage,
    list_statistics,
    load_moments,
    save_statistics,
)
from storage.store import Store, StoreError, digest_of
from tasks.detector.error_counts import ErrorCounts
from tasks.detector.moments import ClassStatistics, merge_tree
from tasks.images.access.files import SourceError
from tasks.images.listing import named
from tasks.types import Mask, nested

ROWS_A_JOB = 4096


@dataclass(frozen=True)
class Fitting:
    """A model to be fitted, its store, the settings in force, and the cluster that computes."""

    client: Client
    settings: Settings
    store: Store
    model: ModelCard


def statistics_lease(store: Store, card: ModelCard) -> AbstractContextManager[leases.Lease]:
    """Take the lease of a model's statistics, after waiting for its present holder."""
    return leases.lease(store, "statistics", card.name, wait=True, on_wait=tell)


def statistics_of_rows(to: Fitting, taken: list[Rows], title: str) -> ClassStatistics:
    """Compute the statistics of some rows of batches."""
    jobs = [
        RowsJob(to.store, to.model, rows.take(np.arange(start, min(start + ROWS_A_JOB, len(rows)))))
        for rows in taken
        for start in range(0, len(rows), ROWS_A_JOB)
    ]
    return merge_tree(run_jobs(to.client, rows_statistics, jobs, title=title))


def totals(to: Fitting, lineage: Lineage | None) -> tuple[ClassStatistics, ErrorCounts]:
    """Load the statistics and the error counts of a version; empty ones before the first."""
    if lineage is None:
        empty = ClassStatistics.empty(to.model.tap_widths, len(to.model.classes))
        return empty, ErrorCounts.empty()
    statistics = ClassStatistics.from_arrays(load_moments(to.store, lineage))
    return statistics, errors_of_version(to.store, lineage)


def as_before(
    to: Fitting, contributions: list[Contribution]
) -> tuple[ClassStatistics, ErrorCounts] | None:
    """Load a version with exactly these contributions, if any: removing a batch rounds."""
    for version in reversed(list_statistics(to.store, to.model.name, warn)):
        if version.contributions != contributions:
            continue
        try:
            return totals(to, version)
        except StoreError as error:
            warn(str(error))
    return None


def without_repeats(
    to: Fitting, part: ClassStatistics, contribution: Contribution, others: list[Contribution]
) -> tuple[ClassStatistics, Contribution]:
    """Remove images from a batch's statistics that are already in; SourceError if none remains."""
    repeated = repeated_rows(to.store, to.model, contribution, others)
    if not repeated:
        return part, contribution
    left = contribution.images - len(repeated)
    if not left:
        raise SourceError(
            f"batch {contribution.batch} adds nothing: all of its {len(repeated):,} images are in "
            "the statistics already, under another batch: slidewatch retract takes that out"
        )
    warn(
        f"{len(repeated):,} of {contribution.images:,} images of batch {contribution.batch} are in "
        "the statistics already, or are copies of others: they are left out, as an image counts "
        "once"
    )
    changed = {"repeated": tuple(repeated), "images": left}
    contribution = contribution.model_copy(update=changed)
    rows = contributed(to.store, to.model, contribution)
    title = f"fit {contribution.batch} without repeated images"
    return statistics_of_rows(to, [rows], title), contribution


def refuse_damage(to: Fitting, contributions: list[Contribution]) -> None:
    """Raise StoreError if fitted features, on which the next version is built, are damaged."""
    store, card, jobs = to.store, to.model, []
    for contribution in contributions:
        contributed(store, card, contribution)
        batch = load_batch(store, contribution.batch, contribution.attempt)
        jobs += [CheckJob(store, card, batch, shard) for shard in batch.shards()]
    for damage in run_jobs(to.client, find_damage, jobs, title="check what was fitted"):
        if damage:
            raise StoreError(damage)


def check_labels(store: Store, batch: Batch, card: ModelCard) -> None:
    """Raise SourceError if no image of a batch has a label, or one has an unknown label."""
    labels = pc.value_counts(read_manifest(store, batch, columns=["label"])["label"]).to_pylist()
    known = {row["values"] for row in labels if row["values"] is not None}
    if not known:
        raise SourceError(
            f"no image of {named(batch.images)} has a label: put them in folders named "
            f"{' and '.join(card.classes)}, or give a manifest with a column 'label'"
        )
    if unknown := known - set(card.classes):
        raise SourceError(
            f"{named(batch.images)} has labels that model {card.name} does not know: "
            f"{', '.join(sorted(unknown))}; its classes are {', '.join(card.classes)}"
        )


def take_out(
    store: Store, card: ModelCard, contribution: Contribution, kind: str, name: str
) -> tuple[Rows, Rows, Contribution | None]:
    """Find fitted and held-out rows to remove from a contribution, and what remains of it."""
    given = contributed(store, card, contribution)
    held_out = held_out_rows(store, card, contribution)
    goes, errors = (_are_of(rows, contribution, kind, name) for rows in (given, held_out))
    if goes.all():
        return given, held_out, None
    rows, counted = given.take(np.flatnonzero(goes)), held_out.take(np.flatnonzero(errors))
    if not goes.any() and not errors.any():
        return rows, counted, contribution
    without = f"without_{kind}s"
    update = {
        without: (*getattr(contribution, without), name),
        "images": contribution.images - len(rows),
    }
    return rows, counted, contribution.model_copy(update=update)


def _are_of(rows: Rows, contribution: Contribution, kind: str, name: str) -> Mask:
    if kind == "batch":
        return np.full(len(rows), contribution.batch == name)
    return np.asarray([key == name for key in getattr(rows, f"{kind}s")], bool)


def save_version(
    to: Fitting,
    parent: Lineage | None,
    statistics: ClassStatistics,
    errors: ErrorCounts,
    operation: str,
    contributions: list[Contribution],
) -> Lineage:
    """Write statistics and error counts as the next version of a model's statistics."""
    content = records.arrays_to_bytes(statistics.to_arrays() | nested(ERRORS, errors.to_arrays()))
    lineage = Lineage(
        model=to.model.name,
        version=parent.version + 1 if parent else 1,
        parent=parent.version if parent else None,
        operation=operation,
        created_at=records.now(),
        contributions=contributions,
        images={name: int(n) for name, n in zip(to.model.classes, statistics.n, strict=True)},
        digest=digest_of(content),
    )
    save_statistics(to.store, lineage, content)
    return lineage
