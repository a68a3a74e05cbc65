import math
import tracemalloc
from collections.abc import Callable, Iterator
from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from sklearn.covariance import EmpiricalCovariance

from tasks.detector.moments import (
    ClassStatistics,
    Moments,
    merge,
    merge_statistics,
    merge_tree,
    moments,
    retract,
    retract_statistics,
    statistics_of,
)
from tasks.detector.slides.groups import GroupKey, empty_groups

Sample = tuple[NDArray[np.floating], NDArray[np.integer]]

EPS = np.finfo(np.float64).eps
CLASSES, WIDTH = 3, 4
OFFSETS = st.sampled_from([(0.0, 1.0), (100.0, 0.1)])  # mean and deviation of the features
SEEDS = st.integers(0, 2**32 - 1)


def draw(
    seed: int, n: int = 60, offset: float = 0.0, deviation: float = 1.0, width: int = WIDTH
) -> Sample:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, n)
    mixing = rng.normal(size=(width, width))
    spread = labels[:, None] + rng.normal(size=(n, width)) @ mixing
    return offset + deviation * spread, labels


def state_of(sample: Sample) -> Moments:
    return moments(*sample, CLASSES)


def assert_same(found: Moments, wanted: Moments, relative: float) -> None:
    """Equal counts; means and scatters to a tolerance relative to their largest entries."""
    assert_array_equal(found.n, wanted.n)
    for name in ("mean", "scatter"):
        a, b = getattr(found, name), getattr(wanted, name)
        assert_allclose(a, b, rtol=0, atol=relative * np.abs(b).max(initial=0.0), err_msg=name)


def as_bytes(found: ClassStatistics | Moments) -> dict[str, bytes]:
    arrays = found.to_arrays() if isinstance(found, ClassStatistics) else vars(found)
    return {name: array.tobytes() for name, array in arrays.items()}


def centred_by_class(features: NDArray[np.floating], labels: NDArray[np.integer]) -> NDArray:
    exact = features.astype(np.longdouble)
    means = np.stack([exact[labels == c].mean(axis=0) for c in range(CLASSES)])
    return np.asarray(exact - means[labels], np.float64)


@pytest.mark.parametrize(("offset", "deviation"), [(0, 1), (100, 0.1), (-1e4, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_streamed_covariance_equals_scikit_learn_on_class_centred_features(
    offset: float, deviation: float, dtype: type
) -> None:
    features, labels = draw(0, 500, offset, deviation, width=8)
    features = features.astype(dtype)
    state = Moments.empty(CLASSES, 8)
    for rows in np.array_split(np.arange(500), 13):
        state = merge(state, moments(features[rows], labels[rows], state.classes))
    centred = centred_by_class(features, labels)
    oracle = EmpiricalCovariance(assume_centered=True).fit(centred).covariance_
    covariance = state.scatter.sum(axis=0) / 500
    assert_allclose(covariance, oracle, rtol=0, atol=1e-12 * np.abs(oracle).max())


@pytest.mark.parametrize(("offset", "deviation"), [(0, 1), (100, 0.1), (1e8, 1e-3)])
def test_moments_err_no_more_than_exact_sums_do(offset: float, deviation: float) -> None:
    features, _ = draw(1, 400, offset, deviation)
    state = moments(features, np.zeros(400, int), 1)
    exact = np.array([math.fsum(column) / 400 for column in features.T])
    assert_allclose(state.mean[0], exact, rtol=2 * EPS)
    residuals = features - exact  # exact to the last bit, since features and mean are so close
    slip = np.array([math.fsum(column) / 400 for column in residuals.T])
    oracle = [[math.fsum(a * b) for b in (residuals - slip).T] for a in (residuals - slip).T]
    assert_allclose(state.scatter[0], oracle, rtol=0, atol=1e-13 * np.max(oracle))


@given(SEEDS, SEEDS, SEEDS, OFFSETS)
def test_merge_is_associative_and_commutative_to_rounding_and_nothing_is_neutral(
    i: int, j: int, k: int, offset: tuple[float, float]
) -> None:
    a, b, c = (state_of(draw(seed, 1 + seed % 30, *offset)) for seed in (i, j, k))
    assert_same(merge(a, b), merge(b, a), 1e-12)
    assert_same(merge(merge(a, b), c), merge(a, merge(b, c)), 1e-12)
    for same in (merge(a, Moments.empty(CLASSES, WIDTH)), merge(Moments.empty(CLASSES, WIDTH), a)):
        assert as_bytes(same) == as_bytes(a)


NO_SLIDES = empty_groups({"tap": WIDTH}, CLASSES)
ONE = GroupKey("night", "", "s")


def shards(n: int) -> list[ClassStatistics]:
    return [ClassStatistics({"tap": state_of(draw(seed, 7))}, NO_SLIDES) for seed in range(n)]


def by_recursion(parts: list[ClassStatistics]) -> ClassStatistics:
    """The tree that `merge_tree` promises: the largest power of two on the left."""
    if len(parts) == 1:
        return parts[0]
    half = 1 << (len(parts) - 1).bit_length() - 1
    return merge_statistics(by_recursion(parts[:half]), by_recursion(parts[half:]))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 11, 21])
def test_a_merge_tree_depends_on_the_order_of_its_parts_alone(n: int) -> None:
    total = merge_tree(iter(shards(n)))
    assert as_bytes(total) == as_bytes(by_recursion(shards(n)))
    assert_same(total.taps["tap"], reduce(merge, [s.taps["tap"] for s in shards(n)]), 1e-12)


def test_a_merge_tree_holds_few_of_its_parts_at_once() -> None:
    def parts() -> Iterator[ClassStatistics]:
        for seed in range(256):
            yield ClassStatistics({"tap": moments(*draw(seed, 9, width=64), CLASSES)}, NO_SLIDES)

    tracemalloc.start()
    merge_tree(parts())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * Moments.empty(CLASSES, 64).scatter.nbytes


# Taking much out leaves the digits of little: the error is relative to what was there before, and
# grows with the distance from zero. Of 5 images left of 20,005, some ten digits are right.
@pytest.mark.parametrize(("offset", "deviation"), [(0, 1), (100, 0.1), (1e4, 0.1)])
@pytest.mark.parametrize(("left", "taken"), [(5, 20_000), (500, 500), (20_000, 5)])
def test_retraction_errs_by_rounding_of_the_total(
    offset: float, deviation: float, left: int, taken: int
) -> None:
    a, b = (state_of(draw(seed, n, offset, deviation)) for seed, n in ((1, left), (2, taken)))
    total = merge(a, b)
    found = retract(total, b)
    bound = 4 * EPS * (1 + offset / deviation) * np.abs(total.scatter).max()
    assert_allclose(found.scatter, a.scatter, rtol=0, atol=bound)
    if offset <= 100 and left >= 500:
        assert_same(found, a, 1e-10)


@given(SEEDS, st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=30))
def test_merges_and_retractions_in_any_order_leave_what_is_in(
    seed: int, steps: list[tuple[bool, int]]
) -> None:
    features, labels = draw(seed, 100, 100, 0.1)
    patients = np.repeat(np.arange(10), 10)
    parts = [state_of((features[patients == p], labels[patients == p])) for p in range(10)]
    state, inside = parts[0], {0}
    for adds, patient in steps:
        if adds and patient not in inside:
            state, inside = merge(state, parts[patient]), inside | {patient}
        elif not adds and patient in inside:
            state, inside = retract(state, parts[patient]), inside - {patient}
    rows = np.isin(patients, list(inside))
    wanted, everything = state_of((features[rows], labels[rows])), reduce(merge, parts)
    assert_array_equal(state.n, wanted.n)
    assert_allclose(state.mean, wanted.mean, rtol=1e-11)
    atol = 1e-10 * np.abs(everything.scatter).max()
    assert_allclose(state.scatter, wanted.scatter, rtol=0, atol=atol)


@pytest.mark.parametrize("left", [0, 1])
def test_nothing_has_no_mean_and_one_image_no_scatter(left: int) -> None:
    features, _ = draw(3, 40, 100, 0.1)
    a, b = (moments(f, np.zeros(len(f), int), 2) for f in (features[:left], features[left:]))
    found = retract(merge(a, b), b)
    assert_same(Moments(found.n, found.mean, a.scatter), a, 1e-13)
    assert not found.scatter.any()
    assert not found.mean[found.n == 0].any()


def test_a_class_absent_from_a_batch_is_left_as_it_was() -> None:
    features, labels = draw(4)
    some = labels != 1
    before = state_of((features, labels))
    part = state_of((features[some], labels[some]))
    for after in (merge(before, part), retract(before, part)):
        assert_array_equal(after.n[1], before.n[1])
        assert_array_equal(after.mean[1], before.mean[1])
        assert_array_equal(after.scatter[1], before.scatter[1])


def test_images_without_a_label_are_left_out_whatever_their_features() -> None:
    features, labels = draw(6)
    hidden = np.arange(60) % 3 == 0
    seen = state_of((features[~hidden], labels[~hidden]))
    features[hidden], labels[hidden] = np.nan, -1
    assert as_bytes(state_of((features, labels))) == as_bytes(seen)


@pytest.mark.parametrize(
    ("bad", "labels", "message"),
    [
        (np.nan, [0, 1], "finite"),
        (-np.inf, [0, 1], "finite"),
        (0.0, [0, 3], "label 3 but only 3 classes"),
        (0.0, [0, 1, 2], "2 rows of features but 3 labels"),
    ],
)
def test_moments_refuse_what_has_none(bad: float, labels: list[int], message: str) -> None:
    features = np.array([[1.0, 2.0], [3.0, bad]])
    with pytest.raises(ValueError, match=message):
        moments(features, np.array(labels), CLASSES)


@pytest.mark.parametrize("combine", [merge, retract])
@pytest.mark.parametrize("other", [Moments.empty(2, WIDTH), Moments.empty(CLASSES, 5)])
def test_moments_of_other_shapes_are_not_combined(combine: Callable, other: Moments) -> None:
    with pytest.raises(ValueError, match="cannot be combined"):
        combine(Moments.empty(CLASSES, WIDTH), other)


@pytest.mark.parametrize("combine", [merge_statistics, retract_statistics])
def test_statistics_of_other_taps_are_not_combined(combine: Callable) -> None:
    other = Moments.empty(CLASSES, WIDTH)
    with pytest.raises(KeyError, match="layer9"):
        combine(shards(1)[0], ClassStatistics({**shards(1)[0].taps, "layer9": other}, NO_SLIDES))


def test_more_than_there_is_cannot_be_retracted() -> None:
    a, b = (moments(np.ones((2, 1)), np.array(labels), 2) for labels in ([0, 1], [0, 0]))
    with pytest.raises(ValueError, match=r"cannot take \[2.0, 0.0\] images out of \[1.0, 1.0\]"):
        retract(a, b)


def test_no_parts_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_tree([])


def test_statistics_come_back_from_arrays_to_the_last_bit() -> None:
    taps = {"stem": draw(7)[0], "layer2.1": draw(8)[0][:, :2]}
    found = statistics_of(taps, draw(7)[1], CLASSES, [ONE] * len(draw(7)[1]))
    again = ClassStatistics.from_arrays(found.to_arrays())
    assert set(again.taps) == {"stem", "layer2.1"}
    assert as_bytes(again) == as_bytes(found)
    empty = ClassStatistics.empty({"stem": WIDTH, "layer2.1": 2}, CLASSES)
    assert as_bytes(merge_statistics(empty, found)) == as_bytes(found)
    assert not any(state.n.any() for state in retract_statistics(found, found).taps.values())
