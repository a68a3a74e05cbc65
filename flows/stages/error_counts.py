"""Count errors on labelled cells of fitted batches that the training, or a fold's, has not seen."""

import numpy as np

from flows.jobs.fitting.unseen import key_of, unseen
from storage.batches import manifests
from storage.batches.features import read_block
from storage.models import contributions
from storage.models.classifiers import ModelCard
from storage.models.statistics import Contribution, Lineage, load_moments
from storage.store import Store
from tasks.detector.error_counts import ErrorCounts, count_errors, merge_errors
from tasks.reports.image_columns import PARASITIZED
from tasks.types import below

ERRORS = "errors"  # prefix of the counts' names in a version of the statistics


def errors_of_version(store: Store, lineage: Lineage) -> ErrorCounts:
    """Load the error counts of a version of the statistics."""
    return ErrorCounts.from_arrays(below(ERRORS, load_moments(store, lineage)))


def errors_of_batch(store: Store, card: ModelCard, contribution: Contribution) -> ErrorCounts:
    """Count the errors on all cells of a batch, fitted or held out."""
    fitted = errors_of_rows(store, card, contributions.contributed(store, card, contribution))
    held_out = errors_of_rows(store, card, contributions.held_out_rows(store, card, contribution))
    return merge_errors(fitted, held_out)


def errors_of_rows(store: Store, card: ModelCard, rows: contributions.Rows) -> ErrorCounts:
    """Count the errors on labelled rows of a batch, by patient, or by slide if none is named.

    Cells that the network was trained on are omitted, unless a fold's was not; so are all cells if
    no class is called "Parasitized".
    """
    total = ErrorCounts.empty()
    if PARASITIZED not in card.classes:
        return total
    batch = manifests.load_batch_of_key(store, rows.batch)
    for shard, within in batch.by_shard(rows.rows):
        block = read_block(store, card.name, batch.key, shard.start, shard.stop, taps=False)
        block = block.take(within)
        cells = rows.take(np.flatnonzero(rows.rows // batch.shard_rows == shard.number))
        part = count_errors(
            unseen(store, card, cells, block).network,
            block.label == card.classes.index(PARASITIZED),
            [key_of(*pair, rows.batch) for pair in zip(cells.patients, cells.slides, strict=True)],
            block.size.max(axis=1),
        )
        total = merge_errors(total, part)
    return total
