"""Adapting a diagnosis: what is fitted, what is held back, and when it is accepted."""

import numpy as np
import pytest

from tasks.sites.adaptation import Labelled, fit_adaptation, try_adaptation


def labelled(
    n: int, *, moved: float = 0.0, scale: float = 1.0, slides: int = 6, seed: int = 0
) -> Labelled:
    """Cells whose log-odds are calibrated before they are moved and scaled, half of each kind."""
    rng = np.random.default_rng(seed)
    parasitized = np.arange(n) % 2 == 0
    # Normals a distance d apart, of variance d, have log-odds that are calibrated.
    x = rng.normal(np.where(parasitized, 2.0, -2.0), 2.0)
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


@pytest.mark.parametrize(("moved", "accepted"), [(-3.0, True), (0.0, False)])
@pytest.mark.parametrize("n", [40, 200])
def test_an_adaptation_is_accepted_where_held_back_cells_are_surely_better(
    n: int, moved: float, accepted: bool
) -> None:
    trial = try_adaptation(labelled(n, moved=moved))
    assert trial is not None
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
    trial = try_adaptation(Labelled(x, x > 0, tuple(f"s{i // 4}" for i in range(24))))
    assert trial is not None
    assert trial.gain.low > 0
    assert not trial.accepted


@pytest.mark.parametrize("slides", [2, 5])
def test_cells_are_held_back_where_slides_are_few(slides: int) -> None:
    trial = try_adaptation(labelled(60, moved=-3.0, slides=slides))
    assert trial is not None
    assert trial.by_slide == (slides == 5)


def test_few_cells_or_cells_of_one_kind_adapt_nothing() -> None:
    cells = labelled(18)
    assert try_adaptation(cells) is None
    healthy = ~labelled(200).parasitized
    of_one = labelled(200)
    assert try_adaptation(Labelled(of_one.log_odds, healthy & ~healthy, of_one.slides)) is None


def test_labels_of_nights_add_up_and_are_kept() -> None:
    both = labelled(20) + labelled(30, seed=1)
    assert both.parasitized.sum() == 25
    again = Labelled.from_arrays(both.to_arrays())
    assert again.slides == both.slides
    np.testing.assert_array_equal(again.log_odds, both.log_odds)
