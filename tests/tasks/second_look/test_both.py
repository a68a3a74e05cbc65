import numpy as np

from tasks.second_look.both import Ordinary, Seen, both_scores, fit_ordinary, stability_score
from tasks.second_look.stability import losses


def seen(rng: np.random.Generator, n: int, noise: float, odds: float = 5, lost: float = 0) -> Seen:
    """Images as distant as noise makes them, whose log-odds a filter lowers by so much."""
    first = odds + rng.normal(0, 1, n)
    after = first[:, None] - lost - rng.normal(0, 0.5, (n, 2))
    distances = 3 + noise + rng.normal(0, 0.3, (n, 3, 2))
    distances[:, 1:] -= 0.8 * noise
    both = [np.stack([values, np.zeros_like(values)], axis=-1) for values in (first, after)]
    return Seen(both[0], both[1], distances)


def test_vectors_are_log_odds_losses_distances_and_their_changes() -> None:
    one = seen(np.random.default_rng(0), 4, 1.0)
    found = one.vectors
    assert found.shape == (4, 1 + 2 + 2 + 4)
    np.testing.assert_allclose(found[:, 0], one.logits[:, 0])
    np.testing.assert_allclose(found[:, 1:3], losses(one.logits, one.filtered))
    np.testing.assert_allclose(found[:, 5:7], one.distances[:, 1] - one.distances[:, 0])
    np.testing.assert_allclose(one.doubt, -one.filtered[:, 0, 0])


def ordinary(rng: np.random.Generator) -> Ordinary:
    sizes = (0.0, 2.0, 3.0, 4.0)
    return fit_ordinary([seen(rng, 300, size) for size in sizes], [np.arange(300) % 9] * 4)


def test_attacks_of_many_steps_and_of_one_are_told_from_noise_as_large() -> None:
    rng = np.random.default_rng(0)
    known = ordinary(rng)
    noisy = [both_scores(known, seen(rng, 200, size)) for size in (0.0, 2.0, 4.0)]
    limit = np.quantile(np.concatenate(noisy), 0.95)
    strong, weak = seen(rng, 200, 3, odds=20, lost=25), seen(rng, 200, 3, odds=0.3)
    assert (both_scores(known, strong) > limit).mean() > 0.99
    assert (both_scores(known, weak) > limit).mean() > 0.9
    assert (stability_score(known, strong) > 5).all()


def test_what_is_ordinary_is_kept() -> None:
    rng = np.random.default_rng(1)
    known, some = ordinary(rng), seen(rng, 9, 1.0)
    again = Ordinary.from_arrays(known.to_arrays())
    np.testing.assert_array_equal(both_scores(again, some), both_scores(known, some))


def test_what_never_varies_says_nothing() -> None:
    same = Seen(np.tile([4.0, 0.0], (30, 1)), np.tile([4.0, 0.0], (30, 2, 1)), np.ones((30, 3, 2)))
    known = fit_ordinary([same, same], [np.arange(30) % 3] * 2)
    assert np.isfinite(both_scores(known, same)).all()
