"""Make the provenance of a batch's rows: model, detector, batch and time."""

from datetime import datetime

from storage.batches.manifests import Batch
from tasks.reports.columns import Provenance


def provenance_of(batch: Batch, model: str, detector: str, scored_at: datetime) -> Provenance:
    """Make the provenance of a batch's rows: model, detector, batch, day and start of scoring."""
    return Provenance(model, detector, batch.name, batch.batch_date, scored_at)
