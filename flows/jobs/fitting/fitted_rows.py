"""Compute statistics and distances of fitted rows from their features in the store.

Statistics are not kept by patient: a patient usually has fewer cells than there are features, so
the features in zarr, which calibration has to read anyway, take less room, and statistics are
computed from them in a moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from storage.batches.features import FeatureBlock
from storage.batches.known_features import fitted_block
from storage.batches.manifests import Batch, Shard, load_batch_of_key
from storage.models.classifiers import ModelCard
from storage.models.contributions import Rows
from storage.models.statistics import load_moments, load_statistics, version_name
from storage.store import Store, StoreError
from tasks.detector.calibration import leave_group_out
from tasks.detector.moments import ClassStatistics, statistics_of
from tasks.detector.slides.groups import (
    GroupKey,
    GroupStatistics,
    by_patient,
    coarser,
    group_statistics,
    retract_groups,
    slide_keys,
)
from tasks.detector.slides.normal import priors_of
from tasks.detector.slides.own_normal import FittedSlide, fitted_slide, with_spread
from tasks.types import Float

IMAGE_FOLDS = 20


@dataclass(frozen=True)
class RowsJob:
    """Rows of a batch for statistics."""

    store: Store
    model: ModelCard
    rows: Rows


@dataclass(frozen=True)
class GroupJob:
    """One group (a patient, a slide) to score by the statistics of all others."""

    store: Store
    model: ModelCard
    version: int
    parts: tuple[Rows, ...]


def rows_statistics(job: RowsJob) -> ClassStatistics:
    """Compute the statistics of some labelled rows of a batch."""
    block = read_rows(job.store, job.model, job.rows)
    return statistics_of(block.taps, block.label, len(job.model.classes), keys_of_rows(job.rows))


def group_log_distances(job: GroupJob) -> Float:
    """Compute log distances (n, T) of a group's images under statistics without that group.

    The taps are in the order of their names.
    """
    total = _load_version(job.store, job.model.name, job.version)
    blocks = [read_rows(job.store, job.model, part) for part in job.parts]
    labels = np.concatenate([block.label for block in blocks])
    columns = []
    for tap in job.model.distance_taps:
        features = np.concatenate([block.taps[tap] for block in blocks])
        columns.append(leave_group_out(total.taps[tap], features, labels))
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class SlideJob:
    """A fitted group to score as a slide under a prior without it.

    ``spread`` is the location and scale of fitted slides' log distances, once known.
    """

    store: Store
    model: ModelCard
    version: int
    parts: tuple[Rows, ...]
    spread: tuple[Float, Float] | None = None


def fitted_group(job: SlideJob) -> FittedSlide:
    """Score the cells of a fitted group by their own normal, and the group by all others.

    Raises:
        ValueError: too few groups remain.
    """
    total = slides_of_version(job.store, job.model.name, job.version)
    blocks = [read_rows(job.store, job.model, part) for part in job.parts]
    names = job.model.distance_taps
    priors = priors_of(without_rows(total.of_taps(names), job.parts, blocks))
    if job.spread is not None:
        priors = with_spread(priors, *job.spread)
    everything = FeatureBlock.joined(blocks)
    taps = {tap: everything.taps[tap] for tap in names}
    return fitted_slide(priors, taps, everything.logits.argmax(axis=1))


def without_rows(
    total: GroupStatistics, parts: Sequence[Rows], blocks: Sequence[FeatureBlock]
) -> GroupStatistics:
    """Remove fitted rows, with features in ``blocks``, from statistics by patient."""
    removed = FeatureBlock.joined(list(blocks))
    keys = [key for part in parts for key in keys_of_rows(part)]
    taps = {tap: removed.taps[tap] for tap in total.taps}
    mine = group_statistics(taps, removed.label, keys, total.classes)
    return retract_groups(total, coarser(mine, by_patient))


@dataclass(frozen=True)
class CheckJob:
    """A shard of a fitted batch, to compare its features with the ledger."""

    store: Store
    model: ModelCard
    batch: Batch
    shard: Shard


def find_damage(job: CheckJob) -> str | None:
    """Return why a shard's features do not match the ledger; None if they do."""
    try:
        fitted_block(job.store, job.model.name, job.batch, job.shard)
    except StoreError as error:
        return str(error)
    return None


def keys_of_rows(part: Rows) -> list[GroupKey]:
    """Return the group of each of some rows."""
    return slide_keys(part.batch, part.patients, part.slides)


def read_rows(store: Store, model: ModelCard, part: Rows) -> FeatureBlock:
    """Read rows from whole shards, and compare the shards with the ledger."""
    batch = load_batch_of_key(store, part.batch)
    blocks = []
    for shard in batch.shards():
        rows = part.rows[(part.rows >= shard.start) & (part.rows < shard.stop)]
        if len(rows):
            block = fitted_block(store, model.name, batch, shard)
            blocks.append(block.take(rows - shard.start))
    return FeatureBlock.joined(blocks)


@lru_cache(maxsize=2)
def slides_of_version(store: Store, model: str, version: int) -> GroupStatistics:
    """Load a version's statistics by patient; ValueError if it has none by slide."""
    slides = _load_version(store, model, version).slides
    if slides is None:
        raise ValueError(f"statistics {version_name(version)} are not kept by slide")
    return coarser(slides, by_patient)


@lru_cache(maxsize=2)
def _load_version(store: Store, model: str, version: int) -> ClassStatistics:
    lineage = load_statistics(store, model, version)
    return ClassStatistics.from_arrays(load_moments(store, lineage))
