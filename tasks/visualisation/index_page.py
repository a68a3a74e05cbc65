"""The page that lists all nights and leads to the page of each."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.visualisation.batch_page import night_row
from tasks.visualisation.page import render


def index_page(nights: Sequence[Mapping[str, Any]], pages: Mapping[str, str]) -> str:
    """The page, HTML.

    Args:
        nights: rows of the report on batches, oldest first.
        pages: file names of the batches' pages, by batch.
    """
    detector = str(nights[-1]["detector"]) if nights else ""
    return render(
        "index.html",
        title="Nights",
        nights=[night_row(row, pages, detector) for row in reversed(nights)],
        detector=detector,
    )
