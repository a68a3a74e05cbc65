"""Draw the page of a commissioned laboratory: what can be believed there."""

from collections.abc import Mapping, Sequence

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
    LaboratoryFigure,
)
from tasks.smears.visualisation.page import render


def laboratory_page(
    name: str,
    figures: Sequence[LaboratoryFigure],
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
        levels={level: f"{level:g}".removeprefix("0") for level in LEVELS},
        alarms=_by_level(_of(ALARMS, figures)),
        caught=_by_level(_of(CAUGHT, figures)),
        examined=_of(DIAGNOSIS, figures),
        in_counts=_of(COUNTED, figures),
        share=percent,
        fine_share=fine_percent,
        **lists,
        adaptation=adaptation,
        diagnosis=verdict,
        accepted=verdict == ACCEPTED,
        unexamined=verdict == NOT_EXAMINED,
        least=(f"{LEAST_SENSITIVITY:.0%}", f"{LEAST_SPECIFICITY:.0%}"),
    )


def _of(part: str, figures: Sequence[LaboratoryFigure]) -> list[LaboratoryFigure]:
    return [figure for figure in figures if figure.part == part]


def _by_level(
    figures: Sequence[LaboratoryFigure],
) -> dict[str, dict[float | None, LaboratoryFigure]]:
    by_name: dict[str, dict[float | None, LaboratoryFigure]] = {}
    for figure in figures:
        by_name.setdefault(figure.name, {})[figure.level] = figure
    return by_name


def percent(figure: LaboratoryFigure) -> str:
    """Write a share and its interval.

    >>> from tasks.metrics.metrics import Interval
    >>> percent(LaboratoryFigure("caught", "debris", .05, Interval(0.98, 0.95, 1.0), None, 3, 60))
    '98.0% (95.0 to 100.0)'
    """
    value, low, high = (100 * number for number in figure.found)
    text = f"{value:.1f}%"
    return text if np.isnan(low) else f"{text} ({low:.1f} to {high:.1f})"


def fine_percent(figure: LaboratoryFigure) -> str:
    """Write a share that may be small, and its interval.

    >>> from tasks.metrics.metrics import Interval
    >>> wide = Interval(2e-4, 1e-4, 0.51)
    >>> fine_percent(LaboratoryFigure("counting", "sensitivity", None, wide, None, 3, 9))
    '0.02% (0.01 to 51%)'
    """
    value, low, high = (100 * number for number in figure.found)
    return f"{percent_text(value)} ({range_text(low, high)})"
