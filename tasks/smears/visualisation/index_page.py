"""Make the page that lists the screened batches and links to the page of each."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from markupsafe import Markup

from tasks.smears.counting.call import Call
from tasks.smears.reports.night.counts import Row
from tasks.smears.visualisation import page
from tasks.types import Float


def index_page(nights: Sequence[Row], pages: Mapping[str, str]) -> str:
    """Make the page, HTML.

    Nights are oldest first; ``pages`` are file names of the batches' pages, by batch.
    """
    return page.render(
        "index.html",
        title="All batches",
        nights=nights[::-1],
        pages=pages,
        detector=nights[-1]["detector"] if nights else "",
        trends=trends(nights),
    )


def trends(nights: Sequence[Row]) -> list[tuple[str, Markup]]:
    """Draw what changes from batch to batch, as captions and charts; none for fewer than two.

    Nights are oldest first; those without images are skipped.
    """
    shown = [row for row in nights if row["images"]]
    if len(shown) < 2:
        return []
    from tasks.smears.visualisation import charts  # with Matplotlib

    of_patients = {
        str(call): _shares(shown, partial(_called, call=call))
        for call in (Call.POSITIVE, Call.SUSPECTED, Call.UNREADABLE)
    }
    of_work = {
        "images for review": _shares(shown, lambda row: row["review"] / row["images"]),
        "slides shifted": _shares(shown, _shifted),
        "images failed": _shares(
            shown, lambda row: (row["images"] - row["scored"]) / row["images"]
        ),
    }
    groups = (("Patients by batch", of_patients), ("Review, shift and failures by batch", of_work))
    return [
        (
            title,
            charts.lines(series, x_label="batches before the last", y_label="share", title=title),
        )
        for title, series in groups
        if any(len(x) for x, _ in series.values())
    ]


def _shares(nights: Sequence[Row], share: Callable[[Row], float | None]) -> tuple[Float, Float]:
    """Compute a share of each night that has one, and how many nights before the last that was."""
    shares = [(1 - len(nights) + i, share(row)) for i, row in enumerate(nights)]
    known = [(place, value) for place, value in shares if value is not None]
    x, y = np.asarray(known, np.float64).reshape(-1, 2).T
    return x, y


def _called(row: Row, call: Call) -> float | None:
    calls = row["patient_calls"]
    return float(calls.get(call, 0) / sum(calls.values())) if any(calls.values()) else None


def _shifted(row: Row) -> float | None:
    if row["slides_shifted"] is None or not row["slides"]:
        return None
    return float(row["slides_shifted"] / row["slides"])
