import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from tasks.detector import witnesses
from tasks.detector.probabilities import Adaptation, weighted
from tasks.detector.slides import groups
from tasks.types import Float

P, U = 0, 1  # places of the classes
D = 6
GAP = np.asarray([1.0, 0.5, 0.0, 0.0, 0.0, 0.0])


def cells(
    seed: int, n: int = 400, shift: float | Float = 0.0, parasitized: float = 0.4
) -> tuple[dict[str, Float], NDArray[np.intp]]:
    """A patient's cells, all of whose features are shifted."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random(n) < parasitized, P, U)
    features = rng.normal(size=(n, D)) @ np.diag([0.3, 0.3, 1, 1, 1, 1]) + shift
    features += np.where(labels[:, None] == P, GAP, 0.0)
    return {"a": features, "b": features[:, ::-1] ** 1}, labels


def statistics(patients: int = 12, shifts: float = 0.5) -> groups.GroupStatistics:
    rng = np.random.default_rng(0)
    total = None
    for number in range(patients):
        taps, labels = cells(number, shift=shifts * rng.normal(size=D))
        keys = [groups.GroupKey("", f"P{number}", "")] * len(labels)
        part = groups.group_statistics(taps, labels, keys, 2)
        total = part if total is None else groups.merge_groups(total, part)
    assert total is not None
    return total


def test_the_direction_is_that_of_scikit_learn_where_no_slide_is_shifted() -> None:
    taps, labels = cells(0, 4000)
    keys = [groups.GroupKey("", "P", "")] * len(labels)
    found = witnesses.discriminant(groups.group_statistics({"a": taps["a"]}, labels, keys, 2), P)
    known = LinearDiscriminantAnalysis(solver="lsqr").fit(taps["a"], labels == P)
    scores, peer = found.scores(taps), known.decision_function(taps["a"])
    assert np.corrcoef(scores, peer)[0, 1] > 0.999
    # Both classes weigh the same, so their means are as far from 0 on either side.
    means = [scores[labels == c].mean() for c in (P, U)]
    assert means[0] == pytest.approx(-means[1], abs=1e-6)
    assert found.healthy == pytest.approx(means[1], abs=1e-6)


def test_relative_to_the_slide_a_shifted_laboratory_is_read_as_if_it_were_not() -> None:
    found = witnesses.discriminant(statistics(), P)
    taps, labels = cells(99, 600, shift=2 * GAP)  # its healthy cells look like parasites
    scores = found.scores(taps)
    assert (scores[labels == U] > 0).mean() > 0.9
    lean = found.lean(scores, labels == U)
    assert ((scores - lean > 0) == (labels == P)).mean() > 0.9
    at_home, same = cells(99, 600)
    assert found.scores(at_home) - found.lean(found.scores(at_home), same == U) == pytest.approx(
        scores - lean, abs=0.2
    )


def test_few_healthy_cells_hardly_move_the_reference_and_none_leave_the_parent() -> None:
    found = witnesses.Discriminant({"a": np.ones(1)}, 0.0, -1.0)
    scores = np.asarray([4.0, 4.0, 9.0, np.nan])
    healthy = np.asarray([True, True, False, True])
    assert found.lean(scores, healthy) == pytest.approx(2 * 5.0 / (2 + witnesses.SHRINKAGE))
    assert found.lean(scores, healthy, parent=3.0) == pytest.approx(
        (2 * 5.0 + witnesses.SHRINKAGE * 3.0) / (2 + witnesses.SHRINKAGE)
    )
    assert found.lean(scores, np.zeros(4, bool), parent=3.0) == 3.0


def test_a_slide_that_is_mostly_parasites_keeps_its_reference() -> None:
    found = witnesses.discriminant(statistics(shifts=0.0), P)
    taps, labels = cells(97, 600, parasitized=0.9)
    scores = found.scores(taps)
    assert abs(found.lean(scores, labels == U)) < 0.3


def test_two_witnesses_see_more_than_either() -> None:
    rng = np.random.default_rng(3)
    truth = rng.random(4000) < 0.5
    network, scores = (np.where(truth, 1.0, -1.0) + rng.normal(size=4000) for _ in "ab")
    known = witnesses.calibrated(4 * network + 1, scores, truth)
    assert known is not None
    said = known.combine(4 * network + 1, scores)
    single = [roc_auc_score(truth, each) for each in (said.network, said.statistics)]
    assert roc_auc_score(truth, said.both) > max(single) + 0.02
    assert weighted(truth) @ ((said.both > 0) == truth) > 0.9
    # Calibrated: of the cells that are parasitized with 80 to 90%, about as many are, where a
    # quarter of all cells is.
    chance = 1 / (1 + np.exp(-said.both))
    near = (chance > 0.8) & (chance < 0.9)
    assert np.average(truth[near], weights=weighted(truth)[near]) == pytest.approx(0.85, abs=0.07)
    wrong = (said.both > 0) != truth
    assert said.disagree[wrong].mean() > 1.5 * said.disagree.mean()


def test_a_witness_that_is_surer_than_of_a_typical_parasite_says_no_more() -> None:
    scales = witnesses.Scales(Adaptation(), Adaptation(), Adaptation())
    one, other = np.asarray([-9.0, 5.0, 7.0, 70.0]), np.full(4, 2.0)
    for pair in ((one, other), (other, one)):
        assert scales.combine(*pair).both.tolist() == [-7.0, 7.0, 8.0, 8.0]


def test_unknown_scores_neither_agree_nor_disagree() -> None:
    nan = np.asarray([np.nan, 1.0, -1.0])
    said = witnesses.LogOdds(nan, np.asarray([1.0, np.nan, 1.0]), nan)
    assert said.disagree.tolist() == [False, False, True]


def test_too_few_unseen_cells_calibrate_nothing() -> None:
    few = np.arange(witnesses.LEAST_CELLS) % 2 == 0
    values = np.where(few, 1.0, -1.0)
    assert witnesses.calibrated(values, values, few) is not None
    assert witnesses.calibrated(values[:-1], values[:-1], few[:-1]) is None
    assert witnesses.calibrated(values, values, np.zeros(witnesses.LEAST_CELLS, bool)) is None


@pytest.mark.parametrize(
    ("labels", "message"),
    [([0, 0, 0], "cells of two classes"), ([0, 1, 0], "nothing varies within the slides")],
)
def test_statistics_that_make_no_discriminant_are_refused(labels: list[int], message: str) -> None:
    features = {"a": np.asarray([[1.0], [2.0], [1.0]])}
    known = groups.group_statistics(
        features, np.asarray(labels), [groups.GroupKey("", "P", "")] * 3, 2
    )
    with pytest.raises(ValueError, match=message):
        witnesses.discriminant(known, P)
