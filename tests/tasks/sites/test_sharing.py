import numpy as np
import pytest
from numpy.testing import assert_allclose

from tasks.detector.groups import GroupKey, group_statistics
from tasks.detector.moments import ClassStatistics, merge_statistics, statistics_of
from tasks.sites.sharing import of_batch, pseudonym, shareable, shareable_groups


def cells(seed: int, sizes: list[int], batch: str) -> ClassStatistics:
    """Slides of so many cells of class 0, and two of class 1 each."""
    rng = np.random.default_rng(seed)
    keys = [GroupKey(batch, f"P{i}", f"s{i}") for i, n in enumerate(sizes) for _ in range(n + 2)]
    labels = np.concatenate([[*[0] * n, 1, 1] for n in sizes])
    taps = {"a": rng.normal(size=(len(keys), 3)), "b": rng.normal(size=(len(keys), 5))}
    return statistics_of(taps, labels, 2, keys)


def test_no_mean_of_a_single_cell_leaves() -> None:
    whole = cells(0, [1, 1, 5, 9], "n")
    assert whole.slides is not None
    found = shareable_groups(whole.slides)
    assert sorted(found.n[:, 0].tolist()) == [0, 0, 5, 9]
    assert not (found.n == 1).any()
    for tap in "ab":
        gone = found.n == 0
        assert (found.means[tap][gone] == 0).all()


def test_a_single_cell_does_not_follow_from_the_difference_of_sums() -> None:
    """With one cell left out of a class, its features would be all cells less those of slides."""
    whole = cells(1, [1, 4, 9], "n")
    assert whole.slides is not None
    found = shareable_groups(whole.slides)
    assert sorted(found.n[:, 0].tolist()) == [0, 0, 9]


def test_names_are_replaced_the_same_by_the_same() -> None:
    found = shareable_groups(of_batch(cells(2, [4, 5], "n").slides, "away"))  # type: ignore[arg-type]
    assert {key.batch for key in found.keys} == {"away"}
    assert sorted(key.patient for key in found.keys) == sorted(map(pseudonym, ("P0", "P1")))
    assert list(found.keys) == sorted(found.keys)


def test_merged_statistics_of_two_stores_equal_those_of_all_cells() -> None:
    """Fitted apart, shared and merged, or fitted together: the same to 1e-12."""
    a, b = cells(3, [4, 5], "a"), cells(4, [6, 7, 3], "b")
    apart = merge_statistics(shareable(a), shareable(b))
    together = shareable(merge_statistics(a, b))
    for tap in "ab":
        for name in ("n", "mean", "scatter"):
            found, wanted = (getattr(s.taps[tap], name) for s in (apart, together))
            assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
        assert apart.slides is not None
        assert together.slides is not None
        assert apart.slides.keys == together.slides.keys
        assert_allclose(apart.slides.means[tap], together.slides.means[tap], rtol=1e-12)
        assert_allclose(apart.slides.scatter[tap], together.slides.scatter[tap], rtol=1e-12)


def test_a_class_of_one_cell_is_not_shared() -> None:
    taps = {"a": np.random.default_rng(0).normal(size=(4, 2))}
    labels = np.asarray([0, 0, 0, 1])
    keys = [GroupKey("n", "", "s")] * 4
    with pytest.raises(ValueError, match="class of one cell"):
        shareable(statistics_of(taps, labels, 2, keys))
    with pytest.raises(ValueError, match="know of no slides"):
        shareable(statistics_of(taps, labels, 2))
    assert group_statistics(taps, labels, keys, 2).n.tolist() == [[3, 1]]
