from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray
from sklearn.covariance import oas

from tasks.evaluation import false_alarms
from tasks.evaluation.false_alarms import HELD_OUT, LEFT_OUT, Images, Realised, realised

Array = NDArray[np.floating]


def draw(rng: np.random.Generator, sizes: list[int], prefix: str, shift: float = 1.0) -> Images:
    """Cells of patients who differ from each other, at two taps."""
    patients = np.repeat([f"{prefix}{i}" for i in range(len(sizes))], sizes)
    labels = rng.integers(0, 2, len(patients)).astype(np.int8)
    taps = []
    for width in (3, 2):
        effects = shift * np.repeat(rng.normal(size=(len(sizes), width)), sizes, axis=0)
        own = rng.normal(size=(len(patients), width))
        taps.append((4 * labels[:, None] + effects + own).astype(np.float32))
    return Images(taps, labels, patients)


def log_distances(known: Images, chosen: NDArray[np.bool_], taps: list[Array]) -> Array:
    """(n, T) of some images under what the chosen known ones fit."""
    columns = []
    labels = known.labels[chosen]
    for tap, new in zip(known.taps, taps, strict=True):
        x = tap[chosen].astype(np.float64)
        means = {c: x[labels == c].mean(axis=0) for c in set(labels.tolist())}
        covariance, _ = oas(x - [means[c] for c in labels.tolist()], assume_centered=True)
        precision = np.linalg.inv(covariance)
        offsets = [np.float64(new) - mean for mean in means.values()]
        columns.append(np.min([((o @ precision) * o).sum(axis=1) for o in offsets], axis=0))
    return np.log(np.stack(columns, axis=1))


def slowly(known: Images, unseen: Images, chosen: tuple[str, ...], left_out: bool) -> Array:
    """p-values of unseen images when some patients calibrate, one patient after the other."""
    calibrating = np.isin(known.patients, chosen)
    everybody = np.ones(len(known.patients), bool)
    own, weights = [], []
    for patient in chosen:
        mine = known.patients == patient
        fitted = ~mine if left_out else ~calibrating
        own.append(log_distances(known, fitted, [tap[mine] for tap in known.taps]))
        weights += [1 / (len(chosen) * mine.sum())] * int(mine.sum())
    logs, w = np.concatenate(own), np.array(weights)
    mean = w @ logs
    deviation = np.sqrt(w @ (logs - mean) ** 2)
    calibration = ((logs - mean) / deviation).max(axis=1)
    fitted = everybody if left_out else ~calibrating
    scores = ((log_distances(known, fitted, unseen.taps) - mean) / deviation).max(axis=1)
    n = len(calibration)
    return np.array([(1 + n * w[calibration >= s].sum()) / (n + 1) for s in scores])


def by_patient(alarms: Array, patients: NDArray[np.str_]) -> float:
    return float(np.mean([alarms[patients == name].mean() for name in np.unique(patients)]))


def only(found: list[Realised], method: str, alpha: float) -> Realised:
    (one,) = [each for each in found if (each.method, each.alpha) == (method, alpha)]
    return one


ALPHAS = [0.1, 0.2, 0.4]


@pytest.mark.parametrize("count", [2, 3])
def test_one_draw_equals_a_slow_direct_computation(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(false_alarms, "DRAWS", 1)
    rng = np.random.default_rng(count)
    known, unseen = draw(rng, [9, 14, 11, 20, 8], "C"), draw(rng, [20, 5, 40], "U")
    found = realised(known, unseen, count, ALPHAS)
    assert len(found) == 2 * len(ALPHAS)

    def figures(one: Realised) -> tuple[float, float]:
        return one.by_patient.value, one.by_image.value

    agreeing = []
    for chosen in combinations(sorted(set(known.patients)), count):
        expected = []
        for method in (LEFT_OUT, HELD_OUT):
            p = slowly(known, unseen, chosen, left_out=method == LEFT_OUT)
            for alpha in ALPHAS:
                alarms = p <= alpha
                expected += [by_patient(alarms, unseen.patients), alarms.mean()]
        got = [
            value
            for method in (LEFT_OUT, HELD_OUT)
            for alpha in ALPHAS
            for value in figures(only(found, method, alpha))
        ]
        agreeing.append(np.allclose(got, expected, atol=1e-12))
        assert len(set(expected)) > 3
    # One choice of patients explains every figure of both methods.
    assert sum(agreeing) == 1


def test_all_patients_at_once_equals_the_direct_computation_and_nobody_can_be_held_out() -> None:
    rng = np.random.default_rng(5)
    known, unseen = draw(rng, [9, 14, 11, 20], "C"), draw(rng, [20, 5, 40], "U")
    found = realised(known, unseen, 4, ALPHAS)
    assert {(one.method, one.alpha) for one in found} == {(LEFT_OUT, alpha) for alpha in ALPHAS}
    p = slowly(known, unseen, tuple(np.unique(known.patients)), left_out=True)
    for one in found:
        alarms = p <= one.alpha
        assert one.by_image.value == pytest.approx(alarms.mean())
        assert one.by_patient.value == pytest.approx(by_patient(alarms, unseen.patients))
        assert (one.patients, one.images) == (4, 65)
    assert only(found, LEFT_OUT, 0.4).by_image.value > only(found, LEFT_OUT, 0.1).by_image.value


def test_rates_are_means_over_several_choices_of_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    known, unseen = draw(rng, [9, 14, 11, 20, 12], "C"), draw(rng, [30, 30], "U")
    figures = []
    for draws in (1, 2, 3):
        monkeypatch.setattr(false_alarms, "DRAWS", draws)
        figures.append(only(realised(known, unseen, 2, [0.3]), HELD_OUT, 0.3).by_image.value)
    every = [
        (slowly(known, unseen, chosen, left_out=False) <= 0.3).mean()
        for chosen in combinations(np.unique(known.patients), 2)
    ]
    singles = np.diff(np.r_[0.0, np.array(figures) * [1, 2, 3]])  # of each draw by itself
    assert len(set(singles.round(9))) > 1
    for single in singles:
        assert np.isclose(every, single).any()


def test_patients_count_alike_however_many_images_they_have() -> None:
    rng = np.random.default_rng(7)
    known = draw(rng, [30] * 12, "C", shift=0.1)
    one, many = draw(rng, [4], "far", shift=0.1), draw(rng, [36], "near", shift=0.1)
    far = Images([tap + 100 for tap in one.taps], one.labels, one.patients)
    near = Images([0 * tap + 4 for tap in many.taps], many.labels, many.patients)  # at a mean
    unseen = Images(
        [np.concatenate(pair) for pair in zip(far.taps, near.taps, strict=True)],
        np.r_[far.labels, near.labels],
        np.r_[far.patients, near.patients],
    )
    for found in realised(known, unseen, 6, [0.05]):
        assert found.images == 40
        assert found.by_image.value == pytest.approx(0.1)
        assert found.by_patient.value == pytest.approx(0.5)
        # Of two patients a bootstrap sample has both, or one of them twice.
        assert (found.by_patient.low, found.by_patient.high) == pytest.approx((0, 1))
        assert (found.by_image.low, found.by_image.high) == pytest.approx((0, 1))


def test_an_interval_is_of_resampled_patients() -> None:
    rng = np.random.default_rng(8)
    known, unseen = draw(rng, [20] * 15, "C"), draw(rng, [6] * 60, "U")
    found = only(realised(known, unseen, 15, [0.2]), LEFT_OUT, 0.2)
    p = slowly(known, unseen, tuple(np.unique(known.patients)), left_out=True)
    rates = np.array([np.mean(p[unseen.patients == u] <= 0.2) for u in np.unique(unseen.patients)])
    error = rates.std() / np.sqrt(60)
    for interval in (found.by_patient, found.by_image):  # all have six images
        assert interval.value == pytest.approx(rates.mean())
        assert (interval.low, interval.high) == pytest.approx(
            (rates.mean() - 1.96 * error, rates.mean() + 1.96 * error), abs=0.25 * error
        )


def test_images_without_a_label_fit_and_calibrate_nothing() -> None:
    rng = np.random.default_rng(9)
    known, unseen = draw(rng, [12, 15, 18], "C"), draw(rng, [30, 30], "U")
    odd = draw(rng, [40], "C", shift=50)
    more = Images(
        [np.concatenate(pair) for pair in zip(known.taps, odd.taps, strict=True)],
        np.r_[known.labels, np.full(40, -1, np.int8)],
        np.r_[known.patients, odd.patients],
    )
    assert realised(more, unseen, 2, ALPHAS) == realised(known, unseen, 2, ALPHAS)
    # Unseen images need none.
    blank = replace(unseen, labels=np.full(60, -1, np.int8))
    assert realised(known, blank, 2, ALPHAS) == realised(known, unseen, 2, ALPHAS)


def test_all_patients_left_out_in_turn_come_nearer_the_level_than_a_few_held_out() -> None:
    """Between-patient shifts make few patients a poor sample, and nobody is wasted in turn."""
    alpha, found = 0.05, {LEFT_OUT: [], HELD_OUT: []}
    for seed in range(12):
        rng = np.random.default_rng(100 + seed)
        known, unseen = draw(rng, [12] * 20, "C", shift=2), draw(rng, [6] * 100, "U", shift=2)
        few = only(realised(known, unseen, 3, [alpha]), HELD_OUT, alpha)
        everybody = only(realised(known, unseen, 20, [alpha]), LEFT_OUT, alpha)
        found[HELD_OUT].append(few.by_patient.value)
        found[LEFT_OUT].append(everybody.by_patient.value)
    means = {method: np.mean(rates) for method, rates in found.items()}
    errors = {method: np.std(rates) / np.sqrt(12) for method, rates in found.items()}
    # What hierarchical conformal prediction allows for so many patients, and no more.
    for method, patients in ((LEFT_OUT, 20), (HELD_OUT, 3)):
        bound = alpha + (1 - alpha) / (patients + 1)
        assert means[method] <= bound + 3 * errors[method]
    assert abs(means[LEFT_OUT] - alpha) + 2 * errors[LEFT_OUT] < abs(means[HELD_OUT] - alpha)
    assert means[HELD_OUT] > 2 * alpha
    spread = {method: np.abs(np.array(rates) - alpha).mean() for method, rates in found.items()}
    assert spread[LEFT_OUT] < spread[HELD_OUT]


def test_alarms_rise_with_the_level_and_everything_is_alarming_at_level_one() -> None:
    rng = np.random.default_rng(10)
    found = realised(draw(rng, [20] * 6, "C"), draw(rng, [30] * 4, "U"), 3, [0.05, 0.3, 1.0])
    for method in (LEFT_OUT, HELD_OUT):
        rates = [one.by_image.value for one in found if one.method == method]
        assert rates == sorted(rates)
        assert_allclose(rates[-1], 1.0)
        assert rates[0] < rates[1] < 1
