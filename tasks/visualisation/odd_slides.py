"""List the slides of a night that a person looks at as a whole, by what is odd about them."""

from collections.abc import Sequence
from typing import Any

from tasks.reports.slide_reasons import SlideReason

SHOWN = 20  # slides of each kind


def odd_slides(slides: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Divide described slides into those that are no smear, shifted, and abnormal together.

    A slide that cannot be a smear is not listed as shifted again. ``more_<kind>`` counts those of a
    kind that are not shown.
    """
    no_smear = [each for each in slides if SlideReason.IMPLAUSIBLE in each["reasons"]]
    others = [each for each in slides if SlideReason.IMPLAUSIBLE not in each["reasons"]]
    kinds = {
        "implausible": no_smear,
        "shifted": [each for each in others if SlideReason.SHIFTED in each["reasons"]],
        "together": [each for each in others if SlideReason.TOGETHER in each["reasons"]],
    }
    shown = {kind: found[:SHOWN] for kind, found in kinds.items()}
    return {**shown, **{f"more_{kind}": max(0, len(v) - SHOWN) for kind, v in kinds.items()}}
