"""Compute statistics and distances of fitted rows from their features in the store."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from storage.batches import known_features, manifests
from storage.batches.features import FeatureBlock
from storage.models import classifiers, statistics
from storage.models.contributions import Rows
from storage.store import Store, StoreError
from tasks.detector import calibration
from tasks.detector.moments import ClassStatistics, statistics_of
from tasks.detector.slides import groups, normal, own_normal
from tasks.types import Float

IMAGE_FOLDS = 20


@dataclass(frozen=True)
class RowsJob:
    """Rows of a batch for statistics."""

    store: Store
    model: classifiers.ModelCard
    rows: Rows


@dataclass(frozen=True)
class GroupJob:
    """A group to score by the others' statistics, with the ``spread`` of these, if known."""

    store: Store
    model: classifiers.ModelCard
    version: int
    parts: tuple[Rows, ...]
    spread: tuple[Float, Float] | None = None


def rows_statistics(job: RowsJob) -> ClassStatistics:
    """Compute the statistics of some labelled rows of a batch."""
    block = read_rows(job.store, job.model, job.rows)
    return statistics_of(block.taps, block.label, len(job.model.classes), keys_of_rows(job.rows))


def group_log_distances(job: GroupJob) -> Float:
    """Compute log distances (n, T), taps by name, of a group under statistics without it."""
    total = _load_version(job.store, job.model.name, job.version)
    blocks = [read_rows(job.store, job.model, part) for part in job.parts]
    labels = np.concatenate([block.label for block in blocks])
    columns = []
    for tap in job.model.distance_taps:
        features = np.concatenate([block.taps[tap] for block in blocks])
        columns.append(calibration.leave_group_out(total.taps[tap], features, labels))
    return np.stack(columns, axis=1)


def fitted_group(job: GroupJob) -> own_normal.FittedSlide:
    """Score a group's cells by their own normal, and the group by others; ValueError if too few."""
    total = slides_of_version(job.store, job.model.name, job.version)
    blocks = [read_rows(job.store, job.model, part) for part in job.parts]
    names = job.model.distance_taps
    priors = normal.priors_of(without_rows(total.of_taps(names), job.parts, blocks))
    if job.spread is not None:
        priors = own_normal.with_spread(priors, *job.spread)
    everything = FeatureBlock.joined(blocks)
    taps = {tap: everything.taps[tap] for tap in names}
    return own_normal.fitted_slide(priors, taps, everything.logits.argmax(axis=1))


def without_rows(
    total: groups.GroupStatistics, parts: Sequence[Rows], blocks: Sequence[FeatureBlock]
) -> groups.GroupStatistics:
    """Remove fitted rows, with features in ``blocks``, from statistics by patient."""
    removed = FeatureBlock.joined(list(blocks))
    keys = [key for part in parts for key in keys_of_rows(part)]
    taps = {tap: removed.taps[tap] for tap in total.taps}
    removals = groups.group_statistics(taps, removed.label, keys, total.classes)
    return groups.retract_groups(total, groups.coarser(removals, groups.by_patient))


@dataclass(frozen=True)
class CheckJob:
    """A shard of a fitted batch, to compare its features with the ledger."""

    store: Store
    model: classifiers.ModelCard
    batch: manifests.Batch
    shard: manifests.Shard


def find_damage(job: CheckJob) -> str | None:
    """Return why a shard's features do not match the ledger; None if they do."""
    try:
        known_features.fitted_block(job.store, job.model.name, job.batch, job.shard)
    except StoreError as error:
        return str(error)
    return None


def keys_of_rows(part: Rows) -> list[groups.GroupKey]:
    """Return the group of each of some rows."""
    return groups.slide_keys(part.batch, part.patients, part.slides)


def read_rows(store: Store, model: classifiers.ModelCard, part: Rows) -> FeatureBlock:
    """Read rows from whole shards, and compare the shards with the ledger."""
    batch = manifests.load_batch_of_key(store, part.batch)
    blocks = [
        known_features.fitted_block(store, model.name, batch, shard).take(rows)
        for shard, rows in batch.by_shard(part.rows)
    ]
    return FeatureBlock.joined(blocks)


@lru_cache(maxsize=2)
def slides_of_version(store: Store, model: str, version: int) -> groups.GroupStatistics:
    """Load a version's statistics by patient; ValueError if it has none by slide."""
    slides = _load_version(store, model, version).slides
    if slides is None:
        raise ValueError(f"statistics {statistics.version_name(version)} are not kept by slide")
    return groups.coarser(slides, groups.by_patient)


@lru_cache(maxsize=2)
def _load_version(store: Store, model: str, version: int) -> ClassStatistics:
    lineage = statistics.load_statistics(store, model, version)
    return ClassStatistics.from_arrays(statistics.load_moments(store, lineage))
