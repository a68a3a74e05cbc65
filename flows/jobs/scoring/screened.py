"""Bundle a batch with the model and the detector that judge it."""

from dataclasses import dataclass

from storage.batches import manifests
from storage.models import classifiers, detectors
from storage.store import Store


@dataclass(frozen=True)
class Screened:
    """A batch, and the model and the detector by which its cells are judged."""

    store: Store
    batch: manifests.Batch
    model: classifiers.ModelCard
    detector: detectors.DetectorCard

    @property
    def key(self) -> str:
        """Return the key under which the ledger keeps the scores."""
        return self.detector.name
