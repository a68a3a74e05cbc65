"""Write what the call of a slide or patient means: for pages, never for tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from tasks.counting.call import Call, CallReason
from tasks.words import counted

LEAST_SHOWN = 5e-5  # percent: less is written as 0


def percent_text(percent: float) -> str:
    """Write a parasitaemia to two digits.

    >>> [percent_text(value) for value in (0.0123, 4.26, 100.0, 1e-9)]
    ['0.012%', '4.3%', '100%', '0%']
    """
    if percent < LEAST_SHOWN:
        return "0%"
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.2g}%"


def range_text(low: float, high: float) -> str:
    """Write an interval of parasitaemia.

    >>> range_text(0.0, 0.31), range_text(1.2, 4.56)
    ('0 to 0.31%', '1.2 to 4.6%')
    """
    return f"{percent_text(low).removesuffix('%')} to {percent_text(high)}"


def density_text(parasites: float) -> str:
    """Write parasites/µL to two digits.

    >>> density_text(51_234.0), density_text(37.2)
    ('51,000', '37')
    """
    digits = max(0, len(str(int(parasites))) - 2)
    return f"{int(round(parasites, -digits)):,}"


def call_text(row: Mapping[str, Any]) -> str:
    """Write in a sentence what a row of the slide or patient report says about parasites.

    >>> row = {"call": "negative", "none_above_percent": 0.31, "cells_called": 1}
    >>> call_text(row | {"cells_read": 5000}).partition(": ")[2]
    '1 of 5,000 cells called parasitized, as in healthy blood'
    """
    reasons: Sequence[str] = row.get("call_reasons") or ()
    cells = f"{row['cells_called']:,} of {counted(row['cells_read'], 'cell')} called parasitized"
    if row["call"] == Call.POSITIVE:
        return (
            f"parasites, about {percent_text(row['corrected_percent'])} of red cells "
            f"({range_text(row['corrected_low'], row['corrected_high'])}), "
            f"{density_text(row['parasites_per_microlitre'])} parasites/µL: {cells}"
        )
    if row["call"] == Call.NEGATIVE:
        bound = percent_text(row["none_above_percent"])
        return f"no more than {bound} with 95% confidence: {cells}, as in healthy blood"
    if row["call"] == Call.UNREADABLE:
        return f"no answer: {', '.join(reasons)}"
    if CallReason.RATES_UNKNOWN in reasons:
        return f"no answer: error rates unknown here; {cells}"
    if row["none_above_percent"] is None:
        return f"no answer: healthy cells are called as often as parasites here; {cells}"
    bound = percent_text(row["none_above_percent"])
    told = f"no more than in healthy blood: {cells}; parasitaemia may be up to {bound}"
    if row.get("cells_needed") is None:
        return f"{told}, and more cells would not help: healthy slides differ too much"
    return f"{told}; {counted(row['cells_needed'], 'cell')} would decide"
