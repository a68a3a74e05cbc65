"""Bundle a batch with the model, detector and laboratory that judge it."""

from dataclasses import dataclass, field

from storage.batches import manifests
from storage.batches.ledger import screening_key
from storage.models import classifiers, detectors, laboratories
from storage.store import Store


@dataclass(frozen=True)
class Screened:
    """A batch, and the model, the detector and the laboratory by which its cells are judged."""

    store: Store
    batch: manifests.Batch
    model: classifiers.ModelCard
    detector: detectors.DetectorCard
    laboratory: laboratories.LaboratoryCard | None = field(default=None, kw_only=True)

    @property
    def key(self) -> str:
        """Return the key under which the ledger keeps the scores."""
        return screening_key(self.detector.name, self.laboratory.name if self.laboratory else None)
