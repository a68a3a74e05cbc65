from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from tasks.metrics import metrics
from tasks.metrics.metrics import DETECTION, Subject
from tasks.smears.evaluation.comparison import (
    KNOWN_ATTACK,
    UNSEEN_ATTACK,
    VERDICT,
    Comparison,
    Side,
    compare,
)

Array = NDArray[np.floating]
PATIENTS = np.array([f"C{number}" for number in np.repeat(np.arange(12), 8)])
SUBJECT = Subject("near/malaria")


def side(
    layers: Array,
    clusters: NDArray[np.str_] = PATIENTS,
    *,
    scores: dict[str, Array] | None = None,
    verdict: NDArray[np.bool_] | None = None,
) -> Side:
    n = len(layers)
    return Side(
        {"own": layers[:, 0]} if scores is None else scores,
        layers,
        np.zeros(n, bool) if verdict is None else verdict,
        clusters,
    )


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    return [result.row() for result in compare(comparison)]


def values(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    return {(row["detector"], row["measure"]): row["value"] for row in rows}


def compared(
    ordinary: Side, abnormal: Side, teachers: tuple[Side, Side] | None = None
) -> dict[tuple[str, str], float]:
    return values(rows_of(Comparison(SUBJECT, ordinary, abnormal, teachers)))


def noise(seed: int, width: int = 3, n: int = len(PATIENTS)) -> Array:
    return np.random.default_rng(seed).normal(size=(n, width))


@pytest.mark.parametrize("taught", [True, False])
def test_there_is_a_row_for_every_detector_and_metric(taught: bool) -> None:
    scores = [{name: noise(seed)[:, 0] for name in ("a", "b")} for seed in (0, 1)]
    ordinary, abnormal = (
        side(noise(2), scores=scores[0]),
        side(noise(3)[:80], PATIENTS[:80], scores={k: v[:80] for k, v in scores[1].items()}),
    )
    teachers = (side(noise(4)), side(noise(5))) if taught else None
    rows = rows_of(Comparison(SUBJECT, ordinary, abnormal, teachers))
    detectors = ["a", "b", KNOWN_ATTACK] + [UNSEEN_ATTACK] * taught
    wanted = {(name, metric) for name in detectors for metric in (*DETECTION, "caught")}
    wanted |= {(VERDICT, "caught"), (VERDICT, "false alarms")}
    assert len(rows) == len(wanted)
    assert {(row["detector"], row["measure"]) for row in rows} == wanted
    for row in rows:
        assert SUBJECT._asdict().items() <= row.items()
        assert (row["strange"], row["ordinary"]) == (80, 96)
        assert row["low"] <= row["value"] <= row["high"]


def test_perfect_and_useless_scores() -> None:
    some = noise(0, n=96)[:, 0]
    ordinary = side(noise(1), scores={"perfect": -abs(some), "useless": some, "tied": 0 * some})
    abnormal = side(noise(1), scores={"perfect": 1 + abs(some), "useless": some, "tied": 0 * some})
    rows = rows_of(Comparison(SUBJECT, ordinary, abnormal, None))
    found = values(rows)
    assert [found["perfect", metric] for metric in (*DETECTION, "caught")] == [1.0] * 6
    lows = [row["low"] for row in rows if row["detector"] == "perfect"]
    assert lows == pytest.approx([1.0] * 6)
    for name in ("useless", "tied"):
        assert found[name, "AUROC"] == pytest.approx(0.5)
        assert found[name, "detection accuracy"] == pytest.approx(0.5)
        assert found[name, "caught"] == 0.0  # the verdict has no false alarms
    # As many ordinary images as abnormal ones have every value of the layers too.
    assert found[KNOWN_ATTACK, "AUROC"] == pytest.approx(0.5, abs=0.05)


def test_an_interval_is_of_patients_that_are_drawn_on_both_sides_at_once() -> None:
    """Within each patient abnormal images score higher, between patients the scores are apart."""
    level = 10.0 * np.unique(PATIENTS, return_inverse=True)[1]
    apart = np.repeat(np.arange(2), len(PATIENTS)) == 1
    both = np.r_[level, level + 1]
    rows = rows_of(Comparison(SUBJECT, side(level[:, None]), side(level[:, None] + 1), None))
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
    sides = (
        side(ordinary[:, None], clusters[:n], verdict=verdict),
        side(abnormal[:, None], clusters[n:]),
    )
    with pytest.MonkeyPatch.context() as patched:
        few = partial(metrics.resampled, repeats=3)  # intervals are not looked at
        patched.setattr(metrics, "resampled", few)
        found = compared(*sides)
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
    found = compared(*sides)
    assert found[VERDICT, "false alarms"] == pytest.approx(1 / 4)
    assert found[VERDICT, "caught"] == pytest.approx(1 / 3)


# Who learns from whom


def leak(sign: float) -> Array:
    """What abnormality looks like in one patient and in no other."""
    _, number = np.unique(PATIENTS, return_inverse=True)
    own = np.where(np.arange(12) % 2 == 0, 1.0, -1.0)
    layers = np.zeros((len(PATIENTS), 12))
    layers[np.arange(len(PATIENTS)), number] = sign * own[number]
    return layers


def control(ordinary: Array, abnormal: Array) -> float:
    """How well the same regression does when it learns from those whom it scores."""
    x, truth = np.concatenate([ordinary, abnormal]), np.repeat([False, True], len(ordinary))
    return float(roc_auc_score(truth, LogisticRegression().fit(x, truth).decision_function(x)))


def test_known_attack_never_learns_from_the_patient_it_scores() -> None:
    assert control(leak(-1), leak(1)) == 1.0
    found = compared(side(leak(-1)), side(leak(1)))
    assert found[KNOWN_ATTACK, "AUROC"] == pytest.approx(0.5, abs=0.02)


def test_unseen_attack_never_learns_from_the_patient_it_scores() -> None:
    teachers = side(leak(-1)), side(leak(1))
    found = compared(side(leak(-1)), side(leak(1)), teachers)
    assert found[UNSEEN_ATTACK, "AUROC"] == pytest.approx(0.5, abs=0.02)
    # Where the same teachers are other patients, nothing forbids to learn from them.
    others = np.array([f"other {name}" for name in PATIENTS])
    strangers = tuple(replace(teacher, clusters=others) for teacher in teachers)
    found = compared(side(leak(-1)), side(leak(1)), (strangers[0], strangers[1]))
    assert found[UNSEEN_ATTACK, "AUROC"] == 1.0


def test_what_patients_have_in_common_is_learnt() -> None:
    shift = np.array([0.0, 4.0, -4.0])
    ordinary, abnormal = side(noise(0)), side(noise(1) + shift)
    assert compared(ordinary, abnormal)[KNOWN_ATTACK, "AUROC"] > 0.99
    alike = side(noise(2)), side(noise(3) + shift)
    assert compared(ordinary, abnormal, alike)[UNSEEN_ATTACK, "AUROC"] > 0.99
    # Of an attack that looks otherwise, unseen-attack has learnt the wrong thing.
    other = side(noise(2)), side(noise(3) - shift)
    found = compared(ordinary, abnormal, other)
    assert found[UNSEEN_ATTACK, "AUROC"] < 0.01
    assert found[KNOWN_ATTACK, "AUROC"] > 0.99


def test_with_nobody_left_to_learn_from_nothing_is_told_apart() -> None:
    """The only patient who was attacked before is scored: there is no teacher for that fold."""
    shift = np.array([0.0, 9.0, 0.0])
    one = PATIENTS[:8]
    teachers = side(noise(2)[:8], one), side(noise(3)[:8] + shift, one)
    sides = side(noise(0)[:8], one), side(noise(1)[:16] + shift, PATIENTS[:16])
    scored_with_others = compared(*sides, teachers)[UNSEEN_ATTACK, "AUROC"]
    assert 0.5 < scored_with_others < 1  # only the other patient's cells are told apart


def test_images_of_one_patient_are_compared_without_a_regression_that_could_know() -> None:
    one = np.array(["C1"] * 10)
    ordinary, abnormal = side(noise(0)[:10], one), side(noise(1)[:10] + 9, one)
    found = compared(ordinary, abnormal, (ordinary, abnormal))
    assert found["own", "AUROC"] == 1.0
    for name in (KNOWN_ATTACK, UNSEEN_ATTACK):
        assert found[name, "AUROC"] == 0.5
