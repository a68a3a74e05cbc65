import numpy as np
import pytest

from tasks.detector.slides.distance import Prior
from tasks.detector.slides.groups import GroupKey, GroupStatistics, merge_groups
from tasks.detector.slides.own_normal import OwnNormal
from tasks.sites.drift import LEAST_P_VALUE, drift_p_value
from tasks.sites.learning import kept_statistics, merged, site_priors
from tests.support.sites import detector, of_site

POPULATION = detector().own.priors


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
            priors, commissioned, [night(10 * i + j, f"n{j}") for j in range(3)], POPULATION
        )
        for i in range(1, 11)
    ]  # fmt: skip
    assert min(p) > LEAST_P_VALUE


def test_a_slow_drift_is_stopped_before_it_is_far(commissioned) -> None:
    """Every night is a twentieth of a deviation of slides further, in every direction."""
    priors = site_priors(detector().own, commissioned)
    deviation = np.sqrt(np.mean(np.diag(priors["late"].between)))
    learned, stopped = [], None
    for number in range(60):
        drift = float(number * deviation / 20)
        tonight = night(100 + number, f"n{number:02d}", drift)
        p = drift_p_value(priors, commissioned, [*learned, tonight][-30:], POPULATION)
        if p < LEAST_P_VALUE:
            stopped = drift
            break
        learned.append(tonight)
    assert stopped is not None
    assert stopped / deviation < 1.5


def test_a_night_of_another_stain_is_refused_at_once(commissioned) -> None:
    priors = site_priors(detector().own, commissioned)
    assert drift_p_value(priors, commissioned, [night(5, "other", drift=4.0)], POPULATION) < 1e-6


def test_no_night_is_an_error(commissioned) -> None:
    own = detector().own
    with pytest.raises(ValueError, match="no night"):
        drift_p_value(site_priors(own, commissioned), commissioned, [], POPULATION)


WIDTHS = {"a": 12, "b": 20}
PRIORS = {
    tap: Prior(np.stack([np.zeros(d), np.full(d, 1.5)]), np.diag(np.linspace(1, 3, d)), np.eye(d),
               1.0)
    for tap, d in WIDTHS.items()
}  # fmt: skip


def nights(rng, count: int, shifts: np.ndarray | float = 0.0) -> list[GroupStatistics]:
    """Nights of one slide of many cells, whose shifts vary as I; those of "a" are added to."""
    found = []
    for number in range(count):
        means = {tap: rng.normal(size=(1, 1, d)) + np.zeros((1, 2, d)) for tap, d in WIDTHS.items()}
        means["a"] += shifts[number] if np.ndim(shifts) else shifts
        for tap, prior in PRIORS.items():
            means[tap] += prior.means
        key = GroupKey(f"n{count - number:02d}", "", "")  # names tell no order
        scatter = {tap: np.zeros((2, d, d)) for tap, d in WIDTHS.items()}
        found.append(GroupStatistics((key,), np.full((1, 2), 5e5), means, scatter))
    return found


def together(parts: list[GroupStatistics]) -> GroupStatistics:
    total = parts[0]
    for part in parts[1:]:
        total = merge_groups(total, part)
    return total


def test_false_alarms_are_as_rare_as_promised_whatever_the_number_of_nights() -> None:
    rng, alarms, trials = np.random.default_rng(0), 0, 0
    for commissioned in (1, 3, 10):
        for learned in (1, 3, 30):
            for _ in range(60):
                fixed = together(nights(rng, commissioned))
                p = drift_p_value(PRIORS, fixed, nights(rng, learned), PRIORS)
                alarms, trials = alarms + (p < LEAST_P_VALUE), trials + 1
    assert alarms <= 14  # of 540, 5.4 are expected, and 14 or more once in a thousand times


@pytest.mark.parametrize(
    ("commissioned", "learned", "far", "drifting"),
    [(1, 1, 8.0, False), (1, 30, 6.0, False), (1, 30, 3.5, True), (3, 30, 3.5, False),
     (3, 30, 4.0, True), (10, 1, 6.0, False), (10, 30, 2.0, False), (10, 30, 3.5, True)],
)  # fmt: skip
@pytest.mark.parametrize("along", ["a feature", "where slides differ", "from class to class"])
def test_a_shift_along_one_direction_is_found_from_where_the_table_says(
    commissioned: int, learned: int, far: float, drifting: bool, along: str
) -> None:
    direction = {
        "a feature": np.eye(12)[3],
        "where slides differ": np.eye(12)[0],
        "from class to class": np.full(12, 12**-0.5),
    }[along]
    rng, found = np.random.default_rng(1), 0
    steps = np.arange(1, learned + 1) / learned if drifting else np.ones(learned)
    for _ in range(20):
        fixed = together(nights(rng, commissioned))
        p = drift_p_value(
            PRIORS, fixed, nights(rng, learned, far * steps[:, None] * direction), PRIORS
        )
        found += p < LEAST_P_VALUE
    assert found >= 15


def test_few_slides_of_a_site_do_not_make_ordinary_nights_look_far() -> None:
    """With a B of 20 slides at 12 and 20 features, one ordinary night in seven was refused."""
    rng, calibration = np.random.default_rng(2), detector().own.calibration
    own, alarms = OwnNormal(PRIORS, calibration), 0
    for _ in range(60):
        fixed = together(nights(rng, 20))
        p = drift_p_value(site_priors(own, fixed), fixed, nights(rng, 1), PRIORS)
        alarms += p < LEAST_P_VALUE
    assert alarms <= 4
