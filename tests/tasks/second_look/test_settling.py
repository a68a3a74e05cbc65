import numpy as np

from tasks.second_look.settling import BETWEEN_VIEWS, is_settled, margins, settled_from
from tasks.second_look.views import VIEWS


def test_a_margin_is_of_the_two_most_probable_classes() -> None:
    chances = np.asarray([[0.2, 0.1, 0.7], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(margins(chances), [np.log(3.5), 0, np.inf])


def test_a_settled_diagnosis_is_seldom_changed_by_the_views_that_are_left() -> None:
    rng = np.random.default_rng(0)
    middles = rng.uniform(-2, 2, 20_000)
    odds = middles[:, np.newaxis] + BETWEEN_VIEWS * rng.standard_normal((len(middles), VIEWS))
    last = odds.mean(axis=1) > 0
    for views in range(1, VIEWS):
        mean = odds[:, :views].mean(axis=1)
        chances = np.stack([1 / (1 + np.exp(-mean)), 1 / (1 + np.exp(mean))], axis=1)
        settled = is_settled(chances, views)
        assert 0.4 < settled.mean() < 1
        assert ((mean > 0) != last)[settled].mean() < 0.01
    assert is_settled(np.full((1, 2), 0.5), VIEWS).all()
    assert np.all(np.diff([settled_from(views) for views in range(1, VIEWS + 1)]) < 0)
