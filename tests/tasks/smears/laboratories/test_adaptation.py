"""Adapting a diagnosis: what is fitted, what is held back, and when it is accepted."""

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from tasks.detector.probabilities import PARASITIZED_SHARE, Adaptation, fit_adaptation, weighted
from tasks.detector.witnesses import Classes, Scales
from tasks.smears.laboratories.adaptation import (
    NO_LABELS,
    SHARE,
    Fitted,
    Labelled,
    Trial,
    joined,
    laboratory_discriminant,
    try_adaptation,
)
from tasks.types import Float


def labelled(
    n: int, *, moved: float = 0.0, scale: float = 1.0, slides: int = 6, seed: int = 0
) -> Labelled:
    """Cells whose log-odds are calibrated before they are moved and scaled, half of each kind."""
    rng = np.random.default_rng(seed)
    parasitized = np.arange(n) % 2 == 0
    # Normals a distance d apart, of variance d, have log-odds that are calibrated.
    x = rng.normal(np.where(parasitized, 2.0, -2.0), 2.0) + logit(PARASITIZED_SHARE)
    return Labelled(scale * x + moved, parasitized, tuple(f"s{i // 2 % slides}" for i in range(n)))


def test_a_shift_and_a_scale_are_undone() -> None:
    cells = labelled(4000, moved=-3.0, scale=0.5)
    found = fit_adaptation(cells.log_odds, cells.parasitized)
    assert found.scale == pytest.approx(2.0, rel=0.1)
    assert found.bias == pytest.approx(6.0, rel=0.1)


def test_the_share_of_parasites_among_labelled_cells_does_not_matter() -> None:
    cells = labelled(4000, moved=-2.0)
    kept = ~cells.parasitized | (np.arange(4000) % 20 == 0)
    few = fit_adaptation(cells.log_odds[kept], cells.parasitized[kept])
    all_cells = fit_adaptation(cells.log_odds, cells.parasitized)
    assert few.bias == pytest.approx(all_cells.bias, abs=0.3)


def test_cells_that_separate_well_do_not_make_any_scale_fit() -> None:
    x = np.asarray([-4.0] * 10 + [4.0] * 10)
    assert fit_adaptation(x, x > 0).scale < 2


def tried(cells: Labelled, known: Fitted | None = None) -> Trial:
    trial = try_adaptation(cells, known)
    assert trial is not None
    return trial


@pytest.mark.parametrize(("moved", "accepted"), [(3.0, True), (0.0, False)])
@pytest.mark.parametrize("n", [40, 200])
def test_an_adaptation_is_accepted_where_held_back_cells_are_surely_better(
    n: int, moved: float, accepted: bool
) -> None:
    trial = tried(labelled(n, moved=moved))
    assert trial.by_slide
    assert (trial.accepted, trial.cells, trial.slides) == (accepted, n, 6)
    assert trial.confusion.sum() == n
    if accepted:
        assert trial.accuracy_after > trial.accuracy_before + 0.1
        assert trial.loss_after < trial.loss_before
        assert trial.gain.value == pytest.approx(trial.loss_before - trial.loss_after)


@pytest.mark.parametrize("n", [20, 60])
def test_where_nothing_is_to_be_gained_few_trials_are_accepted(n: int) -> None:
    trials = [try_adaptation(labelled(n, seed=seed)) for seed in range(60)]
    assert np.mean([trial is not None and trial.accepted for trial in trials]) <= 0.1


def test_a_few_cells_that_are_all_right_do_not_make_a_diagnosis_surer() -> None:
    x = np.asarray([-3.0, 3.0] * 12)
    trial = tried(Labelled(x, x > 0, tuple(f"s{i // 4}" for i in range(24))))
    assert trial.gain.low > 0
    assert not trial.accepted


@pytest.mark.parametrize("slides", [2, 5])
def test_cells_are_held_back_where_slides_are_few(slides: int) -> None:
    trial = tried(labelled(60, moved=-3.0, slides=slides))
    assert trial.by_slide == (slides == 5)


def test_few_cells_or_cells_of_one_kind_adapt_nothing() -> None:
    cells = labelled(18)
    assert try_adaptation(cells) is None
    healthy = ~labelled(200).parasitized
    of_one = labelled(200)
    assert try_adaptation(Labelled(of_one.log_odds, healthy & ~healthy, of_one.slides)) is None


def test_labels_of_nights_add_up_and_are_kept() -> None:
    both = joined([labelled(20), NO_LABELS, labelled(30, seed=1)])
    assert both.parasitized.sum() == 25
    again = Labelled.from_arrays(both.to_arrays())
    assert again.slides == both.slides
    np.testing.assert_array_equal(again.log_odds, both.log_odds)
    cells = seen(300, lower=-3.0)
    again = Labelled.from_arrays(joined([cells, seen(10, lower=0.0)]).to_arrays())
    np.testing.assert_array_equal(again.network[:300], cells.network)
    np.testing.assert_array_equal(again.features["a"][:300], cells.features["a"])
    assert joined([]) is NO_LABELS


P, U = 0, 1  # places of the classes
CLASSES = Classes(
    P,
    {"a": np.asarray([[1.0, 0.0], [-1.0, 0.0]])},
    {"a": np.eye(2)},
    {"a": np.asarray([-1.0, 0.0])},
)
BOTH = Adaptation(0.7, float(logit(PARASITIZED_SHARE)))
FITTED = Fitted(CLASSES, Scales(Adaptation(), Adaptation(3.0), BOTH))


def seen(n: int, *, lower: float, seed: int = 0) -> Labelled:
    """Cells whose parasites differ from fitted ones along the second feature, too."""
    rng = np.random.default_rng(seed)
    parasitized = np.arange(n) % 2 == 0
    middle = np.where(parasitized[:, None], [1.0, lower], [-1.0, 0.0])
    features = {"a": rng.normal(middle, 1.0).astype(np.float32)}
    network = rng.normal(np.where(parasitized, 0.7, -0.7), 1.0)
    said = FITTED.scales.combine(network, CLASSES.discriminant().scores(features))
    slides = tuple(f"s{i // 2 % 9}" for i in range(n))
    return Labelled(said.both, parasitized, slides, network, features)


def test_the_discriminant_of_a_laboratory_is_that_of_moved_class_means() -> None:
    cells = seen(200, lower=-3.0)
    found = laboratory_discriminant(CLASSES, cells)
    values = cells.features["a"].astype(np.float64)
    mine = np.stack([values[kind].mean(axis=0) for kind in (cells.parasitized, ~cells.parasitized)])
    moved = (1 - SHARE) * CLASSES.means["a"] + SHARE * mine
    w, gap = found.weights["a"], moved[P] - moved[U]
    np.testing.assert_allclose(w / np.linalg.norm(w), gap / np.linalg.norm(gap))
    assert found.offset == pytest.approx(-w @ (moved[P] + moved[U]) / 2)
    # A slide's healthy cells are still expected where fitted ones are.
    assert found.healthy == pytest.approx(w @ CLASSES.means["a"][U] + found.offset)


def test_labelled_cells_of_other_parasites_give_a_laboratory_its_own_discriminant() -> None:
    trial = tried(seen(300, lower=-3.0), FITTED)
    assert trial.accepted
    assert trial.change.discriminant is not None
    unseen = seen(4000, lower=-3.0, seed=1)
    before = roc_auc_score(unseen.parasitized, unseen.log_odds)
    after = roc_auc_score(unseen.parasitized, trial.change.of(unseen, FITTED))
    assert after > before + 0.01


def test_where_parasites_are_as_fitted_what_is_accepted_does_no_harm() -> None:
    trials = [try_adaptation(seen(60, lower=0.0, seed=seed), FITTED) for seed in range(80)]
    accepted = [trial.change for trial in trials if trial and trial.accepted]
    assert 0 < len(accepted) < 50
    assert np.mean([not change.is_of_order for change in accepted]) <= 0.1
    unseen = seen(4000, lower=0.0, seed=99)

    def accuracy(log_odds: Float) -> float:
        return float(weighted(unseen.parasitized) @ ((log_odds >= 0) == unseen.parasitized))

    after = [accuracy(change.of(unseen, FITTED)) for change in accepted]
    assert np.mean(after) > accuracy(unseen.log_odds) - 0.002


def test_twenty_cells_of_other_parasites_are_often_enough() -> None:
    trials = [try_adaptation(seen(20, lower=-3.0, seed=seed), FITTED) for seed in range(10)]
    assert np.mean([trial is not None and trial.accepted for trial in trials]) >= 0.5
