"""List the slides that a person should look at as a whole, by reason."""

from collections.abc import Sequence
from typing import Any

from tasks.reports.slide_reasons import SlideReason

SHOWN = 20  # slides of each kind


def odd_slides(slides: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Divide described slides into those that are no smear, shifted, and abnormal together.

    A slide that cannot be a smear is not also listed as shifted. ``more_<kind>`` counts the slides
    of a kind beyond those shown.
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
