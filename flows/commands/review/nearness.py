"""Read the features of a batch's cells, and of earlier batches, while a page waits."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from threading import Lock, Thread

import numpy as np
from numpy.typing import NDArray

from flows.monitoring.console import warn
from storage.batches.features import SCORED, FeatureBlock, decoded_by, made_by, read_block
from storage.batches.manifests import Batch, rows_at
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard, load_detector
from storage.reports.tables import newest_batches, published_batch
from storage.store import Store, StoreError
from tasks.detector.detector import Detector
from tasks.images.regions import ImageRef, image_refs
from tasks.readers.likeness import Likeness, Points, learn_likeness, nearest

SHOWN = 36  # cells on a page
SAMPLED = 16  # shards from which the main differences between cells are learned
MOST_CELLS = 5_000_000  # of all batches; they take 100 bytes each
COPIES = 4  # an image may be in several batches, and is shown once


@dataclass(frozen=True)
class Like:
    """A cell that resembles another: its digest, its batch, and its image."""

    image_id: str
    batch: str
    ref: ImageRef


@dataclass
class Placed:
    """The cells of a batch as points (n, k), with their digests (n, 32) and rows (n,) in it."""

    batch: Batch
    points: Points
    image_ids: NDArray[np.uint8]
    rows: NDArray[np.int64]


@dataclass
class Nearness:
    """Index the cells of the batch that is read, and of other batches on demand."""

    store: Store
    batch: Batch
    card: ModelCard
    detector: DetectorCard | None
    problem: str | None = None
    done: int = 0  # cells that were read, of
    total: int = 0
    _nights: list[Placed] = field(default_factory=list)
    _all: bool = False
    _reader: Thread | None = None
    _lock: Lock = field(default_factory=Lock)

    @cached_property
    def _likeness(self) -> Likeness:
        gaussians = {}
        if self.detector is not None:
            gaussians = Detector.from_arrays(load_detector(self.store, self.detector)).gaussians
        shards = -(-self.batch.rows // self.batch.shard_rows)
        blocks = [block for _, block in self._scored(self.batch, max(1, shards // SAMPLED))]
        return learn_likeness(gaussians, FeatureBlock.joined(blocks).taps if blocks else {})

    def ready(self, *, all_nights: bool) -> bool:
        """Return whether cells can be compared; otherwise begin to read their features."""
        if self._nights and (self._all or not all_nights):
            return True
        with self._lock:
            if self._reader is None or not self._reader.is_alive():
                self.problem = None
                self._reader = Thread(target=self._read, args=(all_nights,), daemon=True)
                self._reader.start()
        self._reader.join(
            1.0
        )  # a small batch is read by then, and the page need not show that it waits
        return self._nights != [] and (self._all or not all_nights)

    def like(self, image_id: str, *, all_nights: bool) -> list[Like]:
        """List the cells most similar to one of the batch, nearest first; `ready` must be true.

        Raises:
            StoreError: the cell has no features.
        """
        nights = self._nights if all_nights else self._nights[:1]
        own = nights[0]
        at = _row_of(own.image_ids, image_id)
        if at is None:
            raise StoreError(f"the features of batch {self.batch.name} have no such cell")
        places = nearest([each.points for each in nights], own.points[at], COPIES * SHOWN)
        found: dict[str, tuple[int, int]] = {}
        for number, row in places:
            found.setdefault(nights[number].image_ids[row].tobytes().hex(), (number, row))
        found.pop(image_id, None)
        chosen = dict(list(found.items())[:SHOWN])
        refs = self._refs(list(chosen.values()))
        return [
            Like(each, nights[place[0]].batch.name, refs[place]) for each, place in chosen.items()
        ]

    def _refs(self, places: list[tuple[int, int]]) -> dict[tuple[int, int], ImageRef]:
        """Look up the images of cells, given the numbers of their batches and their rows."""
        found: dict[tuple[int, int], ImageRef] = {}
        for number in {number for number, _ in places}:
            night = self._nights[number]
            own = [place for place in places if place[0] == number]
            rows = night.rows[[at for _, at in own]].tolist()
            refs = image_refs(rows_at(self.store, night.batch, rows))
            found |= dict(zip(own, refs, strict=True))
        return found

    def _read(self, all_nights: bool) -> None:
        """Index the cells of the batch and of others; the page shows what goes wrong."""
        try:
            if not self._nights:
                self.done, self.total = 0, self.batch.rows
                _ = self._likeness  # has read some of them already
                self.done = 0
                self._nights = [self._placed(self.batch)]
            if all_nights:
                others = list(self._others())
                self.done, self.total = 0, sum(each.rows for each in others)
                self._nights = [self._nights[0], *map(self._placed, others)]
                self._all = True
        except (StoreError, ValueError) as error:
            self.problem = str(error)

    def _placed(self, batch: Batch) -> Placed:
        points, image_ids, rows = [], [], []
        for at, block in self._scored(batch):
            points.append(self._likeness.place(block.taps))
            image_ids.append(block.image_id)
            rows.append(at)
        return Placed(batch, np.vstack(points), np.vstack(image_ids), np.concatenate(rows))

    def _scored(
        self, batch: Batch, every: int = 1
    ) -> Iterator[tuple[NDArray[np.int64], FeatureBlock]]:
        """Read the rows and features of scored cells, of every k-th shard."""
        for shard in islice(batch.shards(), 0, None, every):
            block = read_block(self.store, self.card.name, batch.key, shard.start, shard.stop)
            good = np.flatnonzero(block.status == SCORED)
            self.done += len(block)
            yield shard.start + good, block.take(good)

    def _others(self) -> Iterator[Batch]:
        """List other batches of the same model, newest first, up to `MOST_CELLS`."""
        cells = self.batch.rows
        for row, _ in newest_batches(self.store, lambda name: name != self.batch.name, warn):
            try:
                batch = published_batch(self.store, str(row["batch"]))
                same = self._made(batch) == self._made(self.batch)
            except StoreError:  # its features were removed, or are of another model
                continue
            cells += batch.rows
            if cells > MOST_CELLS:
                return
            if same and batch.rows:
                yield batch

    def _made(self, batch: Batch) -> tuple[str | None, int]:
        return (
            made_by(self.store, self.card.name, batch.key),
            decoded_by(self.store, self.card.name, batch.key),
        )


def _row_of(image_ids: NDArray[np.uint8], image_id: str) -> int | None:
    """Find the row of a digest among those (n, 32); None where it is not there."""
    wanted = np.frombuffer(bytes.fromhex(image_id), np.uint8)
    heads = np.ascontiguousarray(image_ids[:, :8]).view(np.uint64)[:, 0]
    alike = np.flatnonzero(heads == wanted[:8].view(np.uint64)[0])
    found = alike[(image_ids[alike] == wanted).all(axis=1)]
    return int(found[0]) if len(found) else None
