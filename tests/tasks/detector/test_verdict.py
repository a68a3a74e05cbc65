import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.detector.verdict import Reason, VerdictRule, format_reasons, parse_reasons

RULE = VerdictRule(alpha=0.05, uncertain_below=0.8)


@pytest.mark.parametrize(
    ("p", "probability", "failed", "reasons"),
    [
        (0.5, 0.9, False, ()),
        (0.05, 0.9, False, ("abnormal",)),
        (0.5, 0.8, False, ()),
        (0.5, 0.79, False, ("uncertain",)),
        (0.01, 0.5, False, ("abnormal", "uncertain")),
        (0.5, np.nan, False, ("uncertain",)),
        (np.nan, 0.9, False, ()),  # a cell that the border cuts has no p-value
        (0.01, 0.5, True, ("failed",)),
        (np.nan, np.nan, True, ("failed",)),
    ],
)
def test_a_person_looks_at_what_failed_is_abnormal_or_uncertain(
    p: float, probability: float, failed: bool, reasons: tuple[str, ...]
) -> None:
    found = RULE.decide(np.array([p]), np.array([probability]), np.array([failed]))
    (text,) = found.reasons()
    assert parse_reasons(text) == reasons
    assert found.review.tolist() == [bool(reasons)]


@given(st.lists(st.sampled_from(Reason), unique=True))
def test_reasons_come_back_from_a_column(reasons: list[Reason]) -> None:
    assert parse_reasons(format_reasons(reasons)) == tuple(reasons)
