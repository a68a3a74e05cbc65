"""Read the answers of readers on the cells of a batch, and find those that stand."""

from collections.abc import Container
from dataclasses import dataclass, field
from threading import Lock

from flows.monitoring.console import warn
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard
from storage.reports.readings import Reading, in_order, read_readings
from storage.store import Store, StoreError


@dataclass(kw_only=True)
class Readings:
    """The readings of a batch: every answer that any reader has given, in order."""

    store: Store
    batch: Batch
    card: ModelCard
    damaged: dict[str, str] = field(default_factory=dict)  # readings left out: file, and why
    _readings: dict[str, Reading] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def refresh(self) -> None:
        """Read what others have said since, through other servers too."""
        with self._lock:
            known = {*self._readings, *self.damaged}
            self._readings |= dict(
                read_readings(self.store, self.batch.key, known, on_damage=self._leave_out)
            )

    def _leave_out(self, name: str, error: StoreError) -> None:
        """Leave a damaged reading out and say so once, so that the other readers can work."""
        self.damaged[name] = str(error)
        warn(f"left out: {error}")

    def standing(self, reader: str) -> dict[str, str]:
        """Return a reader's current answers on any cells of the batch, by digest."""
        return {image: str(reading.verdict) for image, reading in self._last(reader).items()}

    def _last(self, reader: str) -> dict[str, Reading]:
        """Return a reader's last reading of each cell, in order, unless it was taken back."""
        latest: dict[str, Reading] = {}
        for reading in in_order(self._readings):
            if reading.reader == reader:
                latest.pop(reading.image_id, None)  # the latest comes last
                if reading.verdict is not None:
                    latest[reading.image_id] = reading
        return latest

    def readers(self) -> list[str]:
        """List the readers who have answered."""
        return sorted({reading.reader for reading in self._readings.values()})

    def all_standing(self) -> dict[str, dict[str, str]]:
        """Return the current answers on any cells, by reader and by digest."""
        return {reader: self.standing(reader) for reader in self.readers()}

    def looked(self, image_ids: Container[str]) -> float:
        """Sum how long all readers have looked at some cells, in seconds."""
        return sum(
            reading.seconds
            for reading in self._readings.values()
            if reading.image_id in image_ids and reading.verdict is not None
        )
