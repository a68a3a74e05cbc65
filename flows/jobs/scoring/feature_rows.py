"""Read a batch's features by row, shard by shard, checked against the ledger's digests."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from storage.batches import ledger, manifests
from storage.batches.features import SCORED, FeatureBlock
from storage.batches.known_features import verified_block
from storage.models.classifiers import ModelCard
from storage.store import Store, StoreError
from tasks.detector.slides.cell_score import CellFeatures
from tasks.reports.image_rows import is_cut
from tasks.types import Index, Single

SHARDS_HELD = 8  # shards of features in memory
SHARDS_AHEAD = 4  # shards read together from a remote store


class Held(NamedTuple):
    """A shard in memory, with its rows of the manifest and its cells' `judged_classes`."""

    block: FeatureBlock
    record: ledger.ShardRecord
    manifest: pa.Table
    classes: Index


class HeldFeatures:
    """Features of a batch by row, read and verified shard by shard."""

    def __init__(self, store: Store, batch: manifests.Batch, model: ModelCard) -> None:
        self._store, self._batch, self._model = store, batch, model
        # No `lru_cache` of a method: the cycle of references would keep the shards of one job in
        # memory through the next ones, until Python's garbage collector runs.
        self._held: dict[int, Held] = {}

    def shards(self, numbers: Iterable[int]) -> Iterator[Held]:
        """Read shards; several together from a remote store, ahead of their use."""
        left = list(numbers)
        size = SHARDS_AHEAD if self._store.is_far else 1
        for start in range(0, len(left), size):
            some = left[start : start + size]
            missing = [number for number in some if number not in self._held]
            others = [number for number in self._held if number not in some]
            for oldest in others[: max(0, len(self._held) + len(missing) - SHARDS_HELD)]:
                del self._held[oldest]
            if missing:
                with self._store.together() as pool:
                    self._held.update(zip(missing, pool.map(self._read, missing), strict=True))
            shards = [self._held.pop(number) for number in some]
            self._held.update(zip(some, shards, strict=True))
            while shards:
                yield shards.pop(0)

    def _read(self, number: int) -> Held:
        shard = self._batch.shard(number)
        with self._store.together() as pool:
            reading = pool.submit(manifests.read_manifest, self._store, self._batch, shard)
            looking = pool.submit(
                verified_block, self._store, self._model.features, self._batch, shard
            )
        verified = looking.result()
        if verified is None:
            raise StoreError(
                f"features of rows {shard.start} to {shard.stop} of batch {self._batch.name} are "
                "not those that were extracted: run the same command again to extract them again"
            )
        manifest = reading.result()
        return Held(*verified, manifest, judged_classes(verified[0], manifest))

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Yield the shards of some rows, and the rows within each shard."""
        size = self._batch.shard_rows
        for number in range(start // size, -(-stop // size)):
            first = number * size
            yield number, slice(max(start - first, 0), min(stop - first, size))

    def holding(self, rows: Index) -> Iterator[tuple[Held, Index]]:
        """Read the shards that have some ``rows`` (k,), and yield each with those within it."""
        of_shard = list(self._batch.by_shard(rows))
        held = self.shards(shard.number for shard, _ in of_shard)
        yield from zip(held, (places for _, places in of_shard), strict=True)

    def take(self, rows: Index, taps: list[str]) -> CellFeatures:
        """Read some taps of some rows (k,) in ascending order."""
        features: dict[str, list[Single]] = {tap: [] for tap in taps}
        classes: list[Index] = []
        for held, places in self.holding(rows):
            for tap in taps:
                features[tap].append(held.block.taps[tap][places])
            classes.append(held.classes[places])
        joined = {tap: np.concatenate(parts) for tap, parts in features.items()}
        return CellFeatures(joined, np.concatenate(classes), rows)


def judged_classes(block: FeatureBlock, manifest: pa.Table) -> Index:
    """Return the diagnosed class (n,) of each cell; -1 if it has no abnormality."""
    judged = (block.status == SCORED) & ~is_cut(manifest)
    logits = np.where(np.isnan(block.logits), -np.inf, block.logits)
    return np.where(judged, logits.argmax(axis=1), -1)
