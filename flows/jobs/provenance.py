"""Say of a batch's rows who makes them."""

from datetime import datetime

from storage.batches.manifests import Batch
from tasks.reports.columns import Provenance


def provenance_of(batch: Batch, model: str, detector: str, scored_at: datetime) -> Provenance:
    """Say who makes the rows of a batch's reports, and when their scoring began."""
    return Provenance(model, detector, batch.name, batch.batch_date, scored_at)
