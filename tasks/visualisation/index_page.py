"""Make the page that lists all nights and links to the page of each."""

from collections.abc import Mapping, Sequence

from tasks.reports.batches import BatchSummary
from tasks.visualisation.batch_page import night_row
from tasks.visualisation.page import render


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
