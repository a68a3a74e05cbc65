"""Make the page that lists all nights and links to the page of each."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.reports.night.batches import BatchSummary
from tasks.visualisation.page import percent, render


def index_page(nights: Sequence[BatchSummary], pages: Mapping[str, str]) -> str:
    """Make the page, HTML.

    Args:
        nights: summaries of batches, oldest first.
        pages: file names of the batches' pages, by batch.
    """
    detector = nights[-1].detector if nights else ""
    return render(
        "index.html",
        title="Nights",
        nights=[night_row(row, pages, detector) for row in reversed(nights)],
        detector=detector,
    )


def share_of(row: BatchSummary, name: str, total: str) -> float:
    """Divide one count of a night by another, which may be 0."""
    return float(getattr(row, name) / (getattr(row, total) or 1))


def night_row(row: BatchSummary, pages: Mapping[str, str], detector: str) -> dict[str, Any]:
    """Describe a night as a line of a table; ``other`` says that another detector scored it."""
    scored = row.scored
    return {
        "date": row.batch_date,
        "batch": row.batch,
        "page": pages.get(row.batch),
        "light": row.light,
        "reasons": row.reasons,
        "images": f"{row.images:,}",
        "parasitized": percent(row.parasitized, scored),
        "abnormal": percent(row.abnormal, scored),
        "uncertain": percent(row.uncertain, scored),
        "failed": percent(row.failed, row.images),
        "review": f"{row.review:,}",
        "slides": f"{row.slides_for_review:,} of {row.slides:,}",
        "other": row.detector != detector,
    }
