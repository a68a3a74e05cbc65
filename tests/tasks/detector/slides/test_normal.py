from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest

from tasks.detector.slides.cell_score import Prior, squared_distances
from tasks.detector.slides.groups import GroupKey, GroupStatistics, group_statistics, reference_rows
from tasks.detector.slides.normal import (
    _posterior,
    between_covariance,
    learned_prior,
    prior_of,
    residual_means,
    slide_normal,
    within_covariance,
)
from tasks.detector.slides.own_normal import fitted_slide, own_calibration
from tests.support.simulated import MEANS, WIDTHS, fitted, joined, slide_of, strangers
from tests.support.slide_scores import score_slide

SEEDS = st.integers(0, 2**32 - 1)

# --- The random-effects model --------------------------------------------------------------------


def simulated(
    rng: np.random.Generator, slides: int, d: int = 4, cells: int = 40
) -> tuple[GroupStatistics, np.ndarray, np.ndarray, np.ndarray]:
    """Slides of the model, and the m (2, d), W and B that they were drawn from."""
    mix_w, mix_b = rng.normal(size=(2, d, d)) / np.sqrt(d)
    within, between = mix_w @ mix_w.T + 0.3 * np.eye(d), mix_b @ mix_b.T + 0.1 * np.eye(d)
    means = rng.normal(size=(2, d))
    sizes = rng.integers(2, 2 * cells, slides)
    slide = np.repeat(np.arange(slides), sizes)
    # Most slides are of one class, so that cells alone would mistake slides for classes.
    labels = np.where(rng.random(len(slide)) < 0.2, 1 - slide % 2, slide % 2)
    shifts = rng.multivariate_normal(np.zeros(d), between, slides)
    features = means[labels] + shifts[slide]
    features += rng.multivariate_normal(np.zeros(d), within, len(slide))
    keys = [GroupKey("", "", f"{s:05d}") for s in slide.tolist()]
    return group_statistics({"tap": features}, labels, keys, 2), means, within, between


def error_of(covariance: np.ndarray, n: float) -> np.ndarray:
    """Standard errors of a covariance of n normal rows."""
    diagonal = np.diag(covariance)
    return np.asarray(np.sqrt((np.outer(diagonal, diagonal) + covariance**2) / n))


@pytest.mark.parametrize("seed", range(4))
def test_components_are_recovered_within_their_errors(seed: int) -> None:
    slides = 400
    statistics, means, within, between = simulated(np.random.default_rng(seed), slides)
    raw, degrees = within_covariance(statistics, "tap")
    assert (abs(raw - within) < 4 * error_of(within, degrees)).all()
    found = prior_of(statistics, "tap")
    count, residuals = residual_means(statistics, "tap", found.means)
    weights = count / (count + found.k)
    unshrunk = between_covariance(count, residuals, found.within, weights)
    spread = between + within * np.mean(1 / count)
    for estimate in (unshrunk, found.between):
        assert (abs(estimate - between) < 4 * error_of(spread, slides)).all()
    assert (abs(found.means - means) < 4 * np.sqrt(np.diag(spread) / slides * 2)).all()
    assert found.k == pytest.approx(4 / np.trace(np.linalg.solve(within, between)), rel=0.3)


def test_slides_that_do_not_differ_have_little_between_them() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(2000, 5))
    keys = [GroupKey("", "", f"{i % 20:02d}") for i in range(2000)]
    found = prior_of(group_statistics({"tap": features}, np.zeros(2000, int), keys, 2), "tap")
    assert np.linalg.eigvalsh(found.between).min() > 0
    assert np.trace(found.between) < 0.05 * np.trace(found.within)
    assert np.isnan(found.means[1]).all()


def test_a_feature_that_never_varies_leaves_everything_finite() -> None:
    rng = np.random.default_rng(2)
    features = np.column_stack([rng.normal(size=(200, 2)), np.ones(200)])
    keys = [GroupKey("", "", f"{i % 10:02d}") for i in range(200)]
    found = prior_of(group_statistics({"tap": features}, np.zeros(200, int), keys, 1), "tap")
    for matrix in (found.within, found.between):
        assert np.linalg.eigvalsh(matrix).min() > 0


def test_what_cannot_be_estimated_is_said() -> None:
    key = GroupKey("", "", "a")
    one = group_statistics({"tap": np.eye(3)}, np.zeros(3, int), [key] * 3, 1)
    with pytest.raises(ValueError, match="one slide"):
        prior_of(one, "tap")
    keys = [GroupKey("", "", name) for name in "abc"]
    alone = group_statistics({"tap": np.eye(3)}, np.zeros(3, int), keys, 1)
    with pytest.raises(ValueError, match="two cells"):
        prior_of(alone, "tap")
    same = group_statistics({"tap": np.ones((4, 3))}, np.zeros(4, int), [key, key, *keys[1:]], 1)
    with pytest.raises(ValueError, match="same in every cell"):
        prior_of(same, "tap")


# --- One slide -----------------------------------------------------------------------------------


def test_a_shift_that_was_foreseen_is_drawn_back_and_a_larger_one_is_not() -> None:
    prior = Prior(np.zeros((1, 3)), np.eye(3), np.eye(3), 1.0)
    near = _posterior(prior, np.ones((4, 3)))
    far = _posterior(prior, np.full((4, 3), 100.0))
    assert_allclose(near.means[0], 4 / 5)
    assert_allclose(far.means[0], 100.0, rtol=1e-3)
    assert np.trace(far.factor @ far.factor.T) / far.nu < 3.5


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 40))
def test_leaving_a_cell_out_is_what_refitting_without_it_gives(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    taps, classes = slide_of(rng, n)
    d = WIDTHS["late"]
    # A shift that the prior foresees, so that its strength is the same with and without a cell.
    prior = Prior(MEANS["late"], np.eye(d), 1e3 * np.eye(d), 0.7)
    residuals = taps["late"] - MEANS["late"][classes]
    normal = _posterior(prior, residuals)
    found = squared_distances(normal, taps["late"], classes, np.ones(n, bool))
    for i in range(n):
        rest = _posterior(prior, np.delete(residuals, i, axis=0))
        one = squared_distances(rest, taps["late"][[i]], classes[[i]], np.zeros(1, bool))
        assert_allclose(found[i], one[0], rtol=1e-8)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_a_reference_survives_contamination(share: float) -> None:
    known = fitted()
    caught, alarms, beside = [], [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        own = slide_of(rng, round(200 * (1 - share)))
        slide = joined(own, strangers(rng, round(200 * share)))
        normal = slide_normal(known.priors, *slide)
        clean = slide_normal(known.priors, *own)
        found = score_slide(known, *slide)
        caught.append(np.mean(found.p_value[len(own[1]) :] <= 0.05))
        alarms.append(np.mean(found.p_value[: len(own[1])] <= 0.05))
        beside.append(
            max(abs(normal.taps[t].means - clean.taps[t].means).max() for t in normal.taps)
        )
        assert not normal.kept[len(own[1]) :].any()
    assert np.mean(caught) > 0.99
    assert 0.02 < np.mean(alarms) < 0.09
    assert np.max(beside) < 0.5  # of a cell's deviation


def test_a_slide_of_another_laboratory_is_normal_to_itself_and_flagged_once() -> None:
    rng = np.random.default_rng(2)
    slide = slide_of(rng, 2000, shift=30.0, scale=1.7)
    found = score_slide(fitted(), *slide)
    assert found.level == "slide"
    assert 0.02 < np.mean(found.p_value <= 0.05) < 0.08
    assert found.beyond
    assert found.shift_p_value == pytest.approx(1 / 41)


def test_p_values_of_simulated_slides_are_uniform() -> None:
    rng = np.random.default_rng(3)
    cells, shifts = [], []
    for _ in range(40):
        found = score_slide(fitted(), *slide_of(rng, 80))
        cells.append(found.p_value)
        shifts.append(found.shift_p_value)
    assert kstest(shifts, "uniform").pvalue > 0.01
    one_of_each = np.asarray([p[0] for p in cells])
    assert kstest(one_of_each, "uniform").pvalue > 0.01
    assert np.mean(np.concatenate(cells) <= 0.05) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("n", [1, 2, 29, 30])
def test_few_cells_lean_on_the_population(n: int) -> None:
    known = fitted()
    slide = slide_of(np.random.default_rng(n), n)
    found = score_slide(known, *slide)
    assert found.level == ("population" if n < 30 else "slide")
    assert np.isfinite(found.p_value).all()
    assert 0 < found.shift_p_value <= 1
    stranger = score_slide(known, *strangers(np.random.default_rng(n), min(n, 29), 20.0))
    assert (stranger.p_value < 0.05).all()  # never normal to itself


def test_no_cells_and_cells_without_features() -> None:
    known = fitted()
    none = {tap: np.zeros((0, d)) for tap, d in WIDTHS.items()}
    found = score_slide(known, none, np.zeros(0, int))
    assert len(found.p_value) == 0
    assert np.isnan(found.shift_p_value)
    taps, classes = slide_of(np.random.default_rng(7), 60)
    before = score_slide(known, taps, classes)
    spoilt = {tap: np.insert(x, [0, 10], np.nan, axis=0) for tap, x in taps.items()}
    after = score_slide(known, spoilt, np.insert(classes, [0, 10], [1, -1]))
    assert np.isnan(after.p_value[[0, 11]]).all()
    assert_allclose(np.delete(after.p_value, [0, 11]), before.p_value)
    lost = score_slide(known, {t: x * np.nan for t, x in taps.items()}, classes)
    assert np.isnan(lost.abnormality).all()


def test_cells_that_are_all_the_same_and_huge_ones_have_finite_scores() -> None:
    for value in (0.0, 1e12):
        taps = {tap: np.full((50, d), value) for tap, d in WIDTHS.items()}
        found = score_slide(fitted(), taps, np.zeros(50, int))
        assert np.isfinite(found.abnormality).all()
    assert found.beyond


def test_a_class_that_was_never_fitted_is_not_scored() -> None:
    known, only_first = fitted(), np.asarray([[1.0], [np.nan]])
    half = {tap: replace(p, means=p.means * only_first) for tap, p in known.priors.items()}
    taps, classes = slide_of(np.random.default_rng(8), 90)
    found = score_slide(replace(known, priors=half), taps, classes)
    assert_array_equal(np.isnan(found.p_value), classes == 1)


# --- Large slides --------------------------------------------------------------------------------


def test_reference_rows_are_spread_and_few() -> None:
    assert_array_equal(reference_rows(5), np.arange(5))
    rows = reference_rows(1_000_003, 1000)
    assert len(set(rows.tolist())) == 1000
    assert rows[0] == 0
    assert rows[-1] > 998_000
    assert len(reference_rows(0)) == 0


# --- Laboratories --------------------------------------------------------------------------------


def test_a_laboratories_prior_is_where_its_slides_are(monkeypatch: pytest.MonkeyPatch) -> None:
    priors = fitted().priors
    rng = np.random.default_rng(11)
    taps, labels, keys = [], [], []
    for number in range(40):
        x, classes = slide_of(rng, 50, shift=0.3, scale=1.4)
        taps.append({t: v + 10.0 for t, v in x.items()})
        labels.append(classes)
        keys += [GroupKey("", "", f"{number:02d}")] * 50
    statistics = group_statistics(
        {t: np.concatenate([x[t] for x in taps]) for t in WIDTHS}, np.concatenate(labels), keys, 2
    )
    laboratory = learned_prior(priors["late"], statistics, "late")
    assert_allclose(laboratory.means, MEANS["late"] + 10.0, atol=0.3)
    assert np.trace(laboratory.within) / WIDTHS["late"] == pytest.approx(1.96, rel=0.1)
    assert np.trace(laboratory.between) < 0.5 * np.trace(priors["late"].between)
    monkeypatch.setattr("tasks.detector.slides.normal.PRIOR_CELLS", 1e12)
    one = learned_prior(priors["late"], statistics, "late")
    assert_allclose(one.within, priors["late"].within, rtol=1e-3, atol=1e-3)


def test_calibration_needs_a_slide_with_enough_cells() -> None:
    priors = fitted().priors
    few = fitted_slide(priors, *slide_of(np.random.default_rng(13), 5))
    with pytest.raises(ValueError, match="enough cells"):
        own_calibration([few])


def test_laboratories_that_differ_more_than_slides_of_one_are_seen_to() -> None:
    """Five laboratories of twelve slides: the variance between them is not that of their slides."""
    rng = np.random.default_rng(0)
    d, rows, keys = 3, [], []
    for laboratory in range(5):
        place = rng.normal(size=d) * [3.0, 1.0, 1.0]
        for number in range(12):
            rows.append(place + 0.5 * rng.normal(size=d) + rng.normal(size=(40, d)))
            keys += [GroupKey("b", f"l{laboratory}::{number}", "")] * 40
    statistics = group_statistics({"tap": np.concatenate(rows)}, np.zeros(len(keys), int), keys, 1)
    named = prior_of(statistics, "tap")
    plain = replace(
        statistics, keys=tuple(GroupKey("b", f"{n:02}", "") for n in range(len(statistics.keys)))
    )
    assert_allclose(np.diag(named.within), 1.0, atol=0.1)
    # One level counts sixty slides, two levels five laboratories: these say less of a direction.
    assert np.trace(named.between) > np.trace(prior_of(plain, "tap").between)
    assert named.between[0, 0] > 2 * named.between[1, 1]
