"""Draw the page of a commissioned laboratory: what can be believed there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tasks.smears.counting.call import percent_text, range_text
from tasks.smears.laboratories.commissioning import (
    ACCEPTED,
    ALARMS,
    CAUGHT,
    COUNTED,
    DIAGNOSIS,
    LEAST_SENSITIVITY,
    LEAST_SPECIFICITY,
    LEVELS,
    NOT_EXAMINED,
    Figure,
)
from tasks.smears.visualisation.page import render


def laboratory_page(
    name: str,
    figures: Sequence[Figure],
    verdict: str,
    *,
    warnings: Sequence[str],
    adaptation: str,
    lists: Mapping[str, Mapping[str, str]],
) -> str:
    """Make the report as a self-contained page; ``verdict`` is that on the diagnosis.

    ``lists`` has the texts by name of ``facts``, ``limits`` and ``made_by``.
    """
    return render(
        "laboratory.html",
        title=f"Laboratory {name}",
        warnings=warnings,
        levels=[f"{level:g}".removeprefix("0") for level in LEVELS],
        alarms=_by_level(figures, ALARMS),
        caught=_by_level(figures, CAUGHT),
        examined=_shares(figures, DIAGNOSIS, percent),
        counted=_shares(figures, COUNTED, fine_percent),
        **lists,
        adaptation=adaptation,
        diagnosis=verdict,
        accepted=verdict == ACCEPTED,
        unexamined=verdict == NOT_EXAMINED,
        least=(f"{LEAST_SENSITIVITY:.0%}", f"{LEAST_SPECIFICITY:.0%}"),
    )


def _shares(
    figures: Sequence[Figure], part: str, written: Callable[[Figure], str]
) -> list[tuple[str, str, str, str]]:
    """Make a row for each figure of a part: name, share, cells and slides."""
    return [
        (figure.name, written(figure), f"{figure.cells:,}", f"{figure.slides:,}")
        for figure in figures
        if figure.part == part
    ]


def _by_level(figures: Sequence[Figure], part: str) -> list[dict[str, Any]]:
    """Make a row for each name, with a cell for each level."""
    names = dict.fromkeys(figure.name for figure in figures if figure.part == part)
    rows = []
    for name in names:
        by_level = {f.level: f for f in figures if (f.part, f.name) == (part, name)}
        first = next(iter(by_level.values()))
        rows.append(
            {
                "name": name,
                "cells": [percent(by_level[level]) for level in LEVELS],
                "worst": [_worst(by_level[level].worst) for level in LEVELS],
                "count": f"{first.cells:,}",
                "slides": f"{first.slides:,}",
            }
        )
    return rows


def percent(figure: Figure) -> str:
    """Write a share and its interval.

    >>> from tasks.metrics.metrics import Interval
    >>> percent(Figure("caught", "debris", .05, Interval(0.98, 0.95, 1.0), None, 3, 60))
    '98.0% (95.0 to 100.0)'
    """
    value, low, high = (100 * number for number in figure.found)
    text = f"{value:.1f}%"
    return text if np.isnan(low) else f"{text} ({low:.1f} to {high:.1f})"


def fine_percent(figure: Figure) -> str:
    """Write a share that may be small, and its interval.

    >>> from tasks.metrics.metrics import Interval
    >>> fine_percent(Figure("counting", "sensitivity", None, Interval(2e-4, 1e-4, .51), None, 3, 9))
    '0.02% (0.01 to 51%)'
    """
    value, low, high = (100 * number for number in figure.found)
    return f"{percent_text(value)} ({range_text(low, high)})"


def _worst(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
