from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from tasks.detector.slides.groups import (
    GroupKey,
    GroupStatistics,
    by_patient,
    coarser,
    empty_groups,
    group_statistics,
    merge_groups,
    retract_groups,
)

CLASSES, WIDTHS = 2, {"early": 3, "late": 4}
SEEDS = st.integers(0, 2**32 - 1)
Sample = tuple[dict[str, np.ndarray], np.ndarray, list[GroupKey]]


def sample(seed: int, n: int = 80, offset: float = 0.0, slides: int = 6) -> Sample:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, CLASSES, n)
    slide = rng.integers(0, slides, n)
    taps = {
        tap: offset + slide[:, None] + labels[:, None] + rng.normal(size=(n, d))
        for tap, d in WIDTHS.items()
    }
    return taps, labels, [GroupKey(f"b{s % 2}", f"p{s % 3}", f"s{s}") for s in slide.tolist()]


def of(data: Sample, rows: np.ndarray | slice = slice(None)) -> GroupStatistics:
    taps, labels, keys = data
    chosen = np.arange(len(labels))[rows]
    return group_statistics(
        {tap: x[chosen] for tap, x in taps.items()},
        labels[chosen],
        [keys[row] for row in chosen.tolist()],
        CLASSES,
    )


def assert_same(found: GroupStatistics, wanted: GroupStatistics, within: float = 1e-10) -> None:
    assert found.keys == wanted.keys
    assert_array_equal(found.n, wanted.n)
    for tap in wanted.taps:
        for name in ("means", "scatter"):
            a, b = getattr(found, name)[tap], getattr(wanted, name)[tap]
            assert_allclose(a, b, rtol=0, atol=within * max(1.0, abs(b).max(initial=0)))


def test_statistics_are_what_their_names_say() -> None:
    data = sample(0)
    taps, labels, keys = data
    found = of(data)
    wanted = np.zeros((CLASSES, 4, 4))
    for place, key in enumerate(found.keys):
        for c in range(CLASSES):
            rows = np.flatnonzero([k == key and y == c for k, y in zip(keys, labels, strict=True)])
            assert found.n[place, c] == len(rows)
            if len(rows):
                mean = taps["late"][rows].mean(axis=0)
                assert_allclose(found.means["late"][place, c], mean)
                wanted[c] += (taps["late"][rows] - mean).T @ (taps["late"][rows] - mean)
    assert_allclose(found.scatter["late"], wanted)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, cuts=st.lists(st.integers(0, 80), max_size=4), offset=st.sampled_from([0, 1e3]))
def test_any_split_merges_to_the_whole(seed: int, cuts: list[int], offset: float) -> None:
    data = sample(seed, offset=offset)
    parts = [of(data, rows) for rows in np.split(np.arange(80), sorted(cuts))]
    assert_same(reduce(merge_groups, parts), of(data))
    assert_same(reduce(merge_groups, reversed(parts)), of(data))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(["slide", "patient", "batch"]), offset=st.floats(-1e3, 1e3))
def test_taking_out_undoes_adding(seed: int, kind: str, offset: float) -> None:
    data = sample(seed, offset=offset)
    total, keys = of(data), data[2]
    name = getattr(total.keys[0], kind)
    goes = np.asarray([getattr(key, kind) == name for key in keys])
    left = retract_groups(total, of(data, goes))
    assert_same(left, of(data, ~goes))
    assert name not in {getattr(key, kind) for key in left.keys}
    for place, key in enumerate(left.keys):  # what stays is not touched
        at = total.keys.index(key)
        assert_array_equal(left.means["late"][place], total.means["late"][at])


@given(seed=SEEDS, cut=st.integers(1, 79))
@settings(max_examples=30, deadline=None)
def test_some_cells_of_a_group_can_be_taken_out(seed: int, cut: int) -> None:
    data = sample(seed)
    part, rest = of(data, slice(cut)), of(data, slice(cut, None))
    assert_same(retract_groups(merge_groups(part, rest), part), rest)


def test_what_is_not_there_cannot_be_taken_out() -> None:
    total, other = of(sample(1)), of(sample(2, n=400))
    with pytest.raises(ValueError, match="fewer"):
        retract_groups(total, other)
    stranger = group_statistics(
        {t: np.zeros((1, d)) for t, d in WIDTHS.items()}, np.array([0]), [GroupKey("x", "", "")], 2
    )
    with pytest.raises(ValueError, match="not in"):
        retract_groups(total, stranger)


def test_patients_of_slides_are_the_patients_cells() -> None:
    data = sample(5)
    taps, labels, keys = data
    patients = [GroupKey("", key.patient, "") for key in keys]
    assert_same(coarser(of(data), by_patient), group_statistics(taps, labels, patients, CLASSES))


def test_statistics_of_other_taps_are_not_combined() -> None:
    with pytest.raises(ValueError, match="combined"):
        merge_groups(empty_groups({"early": 2}, 2), empty_groups({"early": 3}, 2))
