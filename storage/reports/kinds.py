"""List the kinds of reports: the one on images."""

from storage.kinds import Kind, lease_checks
from storage.reports.report_kinds import report_kind
from storage.reports.schemas.images import image_schema
from storage.reports.tables import IMAGES

MEANT = {"probability": "probability_Parasitized", "score": "abnormality"}
MEANT |= {"date": "batch_date", "reason": "review_reason"}

KINDS = (
    report_kind(IMAGES, image_schema, lambda seal: seal.report_digest, meant=MEANT),
    Kind("leases on reports", checks=lambda store: lease_checks(store, "reports")),
)
