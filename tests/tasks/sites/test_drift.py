import numpy as np
import pytest

from tasks.sites.drift import LEAST_P_VALUE, drift_p_value
from tasks.sites.learning import kept_statistics, merged, site_priors
from tests.support.sites import detector, of_site


def night(seed: int, batch: str, drift: float = 0.0, slides: int = 4):
    own = detector().own
    parts = [
        kept_statistics(own, s, 2, None) for s in of_site(seed, slides, batch=batch, drift=drift)
    ]
    return merged(parts, own)


@pytest.fixture(scope="module")
def commissioned():
    return merged([night(1, "first"), night(2, "second")], detector().own)


def test_nights_like_the_commissioned_ones_are_no_drift(commissioned) -> None:
    priors = site_priors(detector().own, commissioned)
    p = [
        drift_p_value(
            priors, commissioned, merged([night(10 * i + j, f"n{j}") for j in range(3)],
                                         detector().own),
        )
        for i in range(1, 11)
    ]  # fmt: skip
    assert min(p) > LEAST_P_VALUE


def test_a_slow_drift_is_stopped_before_it_is_far(commissioned) -> None:
    """Every night is a twentieth of a deviation of slides further, in every direction."""
    own = detector().own
    priors = site_priors(own, commissioned)
    deviation = np.sqrt(np.mean(np.diag(priors["late"].between)))
    learned, stopped = [], None
    for number in range(60):
        drift = float(number * deviation / 20)
        tonight = night(100 + number, f"n{number:02d}", drift)
        p = drift_p_value(priors, commissioned, merged([*learned, tonight][-30:], own))
        if p < LEAST_P_VALUE:
            stopped = drift
            break
        learned.append(tonight)
    assert stopped is not None
    assert stopped / deviation < 3.0


def test_a_night_of_another_stain_is_refused_at_once(commissioned) -> None:
    priors = site_priors(detector().own, commissioned)
    assert drift_p_value(priors, commissioned, night(5, "other", drift=4.0)) < 1e-6


def test_no_night_is_an_error(commissioned) -> None:
    own = detector().own
    with pytest.raises(ValueError, match="no night"):
        drift_p_value(site_priors(own, commissioned), commissioned, merged([], own))
