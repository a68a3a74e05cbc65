from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from tasks.metrics import metrics
from tasks.metrics.metrics import DETECTION, Subject
from tasks.smears.evaluation.measures import VERDICT, Comparison, compare
from tasks.smears.evaluation.scored import ScoredForm
from tests.support.evaluated import scored

Array = NDArray[np.floating]
PATIENTS = np.array([f"C{number}" for number in np.repeat(np.arange(12), 8)])
SUBJECT = Subject("near/malaria")


def side(
    own: Array,
    clusters: NDArray[np.str_] = PATIENTS,
    *,
    scores: dict[str, Array] | None = None,
    verdict: NDArray[np.bool_] | None = None,
) -> ScoredForm:
    called = np.zeros(len(own), bool) if verdict is None else verdict
    return scored(scores or {"own": own}, clusters=clusters, review=called)


def rows_of(*sides: ScoredForm) -> list[dict[str, Any]]:
    return [result.row() for result in compare(Comparison(SUBJECT, *sides))]


def values(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["detector"], row["measure"]): row["value"] for row in rows}


def noise(seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=len(PATIENTS))


def test_there_is_a_row_for_every_detector_and_metric() -> None:
    ordinary = side(noise(2), scores={"a": noise(0), "b": noise(1)})
    few = {"a": noise(3)[:80], "b": noise(4)[:80]}
    rows = rows_of(ordinary, side(noise(3)[:80], PATIENTS[:80], scores=few))
    wanted = {(name, metric) for name in "ab" for metric in (*DETECTION, "caught")}
    wanted |= {(VERDICT, "caught"), (VERDICT, "false alarms")}
    assert len(rows) == len(wanted)
    assert {(row["detector"], row["measure"]) for row in rows} == wanted
    for row in rows:
        assert SUBJECT._asdict().items() <= row.items()
        assert (row["strange"], row["ordinary"]) == (80, 96)
        assert row["low"] <= row["value"] <= row["high"]


def test_perfect_and_useless_scores() -> None:
    some = noise(0)
    ordinary = side(noise(1), scores={"perfect": -abs(some), "useless": some, "tied": 0 * some})
    abnormal = side(noise(1), scores={"perfect": 1 + abs(some), "useless": some, "tied": 0 * some})
    rows = rows_of(ordinary, abnormal)
    found = values(rows)
    assert [found["perfect", metric] for metric in (*DETECTION, "caught")] == [1.0] * 6
    lows = [row["low"] for row in rows if row["detector"] == "perfect"]
    assert lows == pytest.approx([1.0] * 6)
    for name in ("useless", "tied"):
        assert found[name, "AUROC"] == pytest.approx(0.5)
        assert found[name, "detection accuracy"] == pytest.approx(0.5)
        assert found[name, "caught"] == 0.0  # the verdict has no false alarms


def test_an_interval_is_of_patients_that_are_drawn_on_both_sides_at_once() -> None:
    """Within each patient abnormal images score higher, between patients the scores are apart."""
    level = 10.0 * np.unique(PATIENTS, return_inverse=True)[1]
    apart = np.repeat(np.arange(2), len(PATIENTS)) == 1
    both = np.r_[level, level + 1]
    rows = rows_of(side(level), side(level + 1))
    (row,) = (r for r in rows if (r["detector"], r["measure"]) == ("own", "AUROC"))
    assert row["value"] == pytest.approx(roc_auc_score(apart, both))
    # A pair of one patient is right, of all others half are: 1/2 + the share of such pairs / 2.
    draws = np.random.default_rng(0).integers(0, 12, (4000, 12))
    times = np.stack([np.bincount(draw, minlength=12) for draw in draws])
    expected = 0.5 + (times**2).sum(axis=1) / 144 / 2
    assert (row["low"], row["high"]) == pytest.approx(
        tuple(np.percentile(expected, [2.5, 97.5])), abs=0.01
    )


# Caught at equal false alarms


def most_caught(ordinary: Array, abnormal: Array, alarms: int) -> float:
    """Of all thresholds with at most so many false alarms, the share that the best one catches."""
    thresholds = [-np.inf, *ordinary, *abnormal, np.inf]
    return max(np.mean(abnormal >= t) for t in thresholds if np.sum(ordinary >= t) <= alarms)


def caught(ordinary: Array, abnormal: Array, alarms: int) -> float:
    n, m = len(ordinary), len(abnormal)
    clusters = np.arange(n + m).astype(str)
    verdict = np.arange(n) < alarms
    sides = (side(ordinary, clusters[:n], verdict=verdict), side(abnormal, clusters[n:]))
    with pytest.MonkeyPatch.context() as patched:
        few = partial(metrics.resampled, repeats=3)  # intervals are not looked at
        patched.setattr(metrics, "resampled", few)
        found = values(rows_of(*sides))
    assert found[VERDICT, "false alarms"] == alarms / n
    return found["own", "caught"]


SCORES = st.integers(2, 8).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.integers(-2, 2)),
        arrays(np.float64, n, elements=st.integers(-2, 2)),
        st.integers(0, n),
    )
)


@settings(max_examples=50)
@given(SCORES)
def test_caught_never_has_more_false_alarms_and_ties_count_together(
    given: tuple[Array, Array, int],
) -> None:
    assert caught(*given) == pytest.approx(most_caught(*given))


def test_the_verdict_is_its_shares() -> None:
    verdicts = np.arange(96) % 4 == 0, np.arange(96) % 3 == 0
    sides = (side(noise(i), verdict=verdict) for i, verdict in enumerate(verdicts))
    found = values(rows_of(*sides))
    assert found[VERDICT, "false alarms"] == pytest.approx(1 / 4)
    assert found[VERDICT, "caught"] == pytest.approx(1 / 3)
