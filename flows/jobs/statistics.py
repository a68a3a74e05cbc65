"""Compute statistics and distances of fitted rows from their features in the store.

The state is not kept by patient: a patient's cells are usually fewer than the features they have,
so their features in zarr, which calibration has to read anyway, are the smaller form of the same
knowledge, and their statistics follow from them in a moment.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from storage.batches.features import FeatureBlock, read_block
from storage.models.classifiers import ModelCard
from storage.models.statistics import load_moments, load_statistics
from storage.store import Store
from tasks.detector.calibration import leave_group_out
from tasks.detector.moments import ClassStatistics, statistics_of
from tasks.types import Float

IMAGE_FOLDS = 20


@dataclass(frozen=True)
class Rows:
    """Rows of one batch, in rising order; ``batch`` is its key."""

    batch: str
    rows: NDArray[np.intp]


@dataclass(frozen=True)
class RowsJob:
    """Rows of a batch to compute the statistics of."""

    store: Store
    model: ModelCard
    rows: Rows


@dataclass(frozen=True)
class GroupJob:
    """One group (a patient, a slide) to be scored by the statistics of all the others."""

    store: Store
    model: ModelCard
    version: int
    parts: tuple[Rows, ...]


def rows_statistics(job: RowsJob) -> ClassStatistics:
    """Compute the statistics of some labelled rows of a batch."""
    block = _read_rows(job.store, job.model, job.rows)
    return statistics_of(block.taps, block.label, len(job.model.classes))


def group_log_distances(job: GroupJob) -> Float:
    """Compute log distances (n, T) of a group's images under statistics without that group.

    The taps are in the order of their names.
    """
    total = _load_version(job.store, job.model.name, job.version)
    blocks = [_read_rows(job.store, job.model, part) for part in job.parts]
    labels = np.concatenate([block.label for block in blocks])
    columns = []
    for tap in sorted(blocks[0].taps):
        features = np.concatenate([block.taps[tap] for block in blocks])
        columns.append(leave_group_out(total.taps[tap], features, labels))
    return np.stack(columns, axis=1)


def _read_rows(store: Store, model: ModelCard, part: Rows) -> FeatureBlock:
    start, stop = int(part.rows[0]), int(part.rows[-1]) + 1
    return read_block(store, model.name, part.batch, start, stop).take(part.rows - start)


@lru_cache(maxsize=2)
def _load_version(store: Store, model: str, version: int) -> ClassStatistics:
    lineage = load_statistics(store, model, version)
    return ClassStatistics.from_arrays(load_moments(store, lineage))
