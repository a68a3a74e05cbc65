"""Describe for a page what persons answer on patients, and the calls that follow."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tasks.answers.patients import Answer, Confirmation
from tasks.counting.sentences import percent_text, range_text


def persons_answer(found: Confirmation | None) -> dict[str, Any] | None:
    """Describe an answer: ``answer``, ``parasites`` of ``read`` cells, ``call`` and ``figure``.

    ``figure`` is the corrected parasitaemia with its interval; None, as ``call``, where it is
    unknown. Where nobody has answered, there is nothing to describe.
    """
    if found is None:
        return None
    return {
        "answer": str(found.answer),
        "parasites": found.parasites,
        "read": found.read,
        "call": found.call,
        "figure": figure_text(found),
    }


def figure_text(found: Confirmation) -> str | None:
    """Write a corrected parasitaemia with its 95% interval; None where it is unknown."""
    if found.parasitaemia is None or found.low is None or found.high is None:
        return None
    share, low, high = (100 * each for each in (found.parasitaemia, found.low, found.high))
    return f"{percent_text(share)} ({range_text(low, high)})"


def confirmed_text(answers: Iterable[Confirmation]) -> str | None:
    """Count patients by what persons answer on them; None where nobody has answered.

    >>> confirmed_text([Confirmation(Answer.CONFIRMED, 5, 2), Confirmation(Answer.OPEN, 3, 0)])
    '1 confirmed, 1 open'
    """
    counts = Counter(each.answer for each in answers)
    return ", ".join(f"{counts[each]:,} {each}" for each in Answer if counts[each]) or None
