import numpy as np
import pytest

from tasks.detector.slides.halves import second_half


def points(seed: int) -> np.ndarray:
    """Make one cloud, two that overlap, a few points far from the others, or a skewed cloud."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(int(rng.integers(20, 300)), 12))
    if seed % 4 == 1:
        made[: len(made) // 3] += 2 * rng.normal(size=12)
    if seed % 4 == 2:
        made[: len(made) // 10] *= 6
    return np.abs(made) ** 3 if seed % 4 == 3 else made


@pytest.mark.parametrize("seed", range(8))
def test_halves_are_those_of_scikit_learn(seed: int) -> None:
    from sklearn.cluster import KMeans  # which nothing else here waits for

    made = points(seed)
    expected = KMeans(2, n_init=4, random_state=0).fit_predict(made)
    assert second_half(made).tolist() == (expected == 1).tolist()


def test_two_clouds_are_the_halves_whatever_their_sizes() -> None:
    made = np.random.default_rng(0).normal(size=(60, 5))
    made[:7] += 30
    few = np.arange(60) < 7
    assert second_half(made).tolist() in [few.tolist(), (~few).tolist()]
