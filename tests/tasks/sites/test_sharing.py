import numpy as np
import pytest
from numpy.testing import assert_allclose

from tasks.counting.error_rates import ErrorCounts, count_errors
from tasks.detector.moments import ClassStatistics, merge_statistics, statistics_of
from tasks.detector.slides.groups import GroupKey, group_statistics
from tasks.sites.sharing import (
    TOGETHER,
    of_batch,
    pseudonym,
    shareable,
    shareable_errors,
    shareable_groups,
    shareable_site,
)

KEY = b"a secret"


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
    found = shareable_groups(whole.slides, KEY)
    assert sorted(found.n[:, 0].tolist()) == [0, 0, 5, 9]
    assert not (found.n == 1).any()
    for tap in "ab":
        gone = found.n == 0
        assert (found.means[tap][gone] == 0).all()


def test_a_single_cell_does_not_follow_from_the_difference_of_sums() -> None:
    """With one cell left out of a class, its features would be all cells less those of slides."""
    whole = cells(1, [1, 4, 9], "n")
    assert whole.slides is not None
    found = shareable_groups(whole.slides, KEY)
    assert sorted(found.n[:, 0].tolist()) == [0, 0, 9]


def test_names_are_replaced_the_same_by_the_same() -> None:
    found = shareable_groups(of_batch(cells(2, [4, 5], "n").slides, "away"), KEY)  # type: ignore[arg-type]
    assert {key.batch for key in found.keys} == {"away"}
    assert sorted(key.patient for key in found.keys) == sorted(
        pseudonym(name, KEY) for name in ("P0", "P1")
    )
    assert list(found.keys) == sorted(found.keys)


def test_merged_statistics_of_two_stores_equal_those_of_all_cells() -> None:
    """Fitted apart, shared and merged, or fitted together: the same to 1e-12."""
    a, b = cells(3, [4, 5], "a"), cells(4, [6, 7, 3], "b")
    apart = merge_statistics(shareable(a, KEY), shareable(b, KEY))
    together = shareable(merge_statistics(a, b), KEY)
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
    with pytest.raises(ValueError, match="only one cell"):
        shareable(statistics_of(taps, labels, 2, keys), KEY)
    with pytest.raises(ValueError, match="have no slides"):
        shareable(statistics_of(taps, labels, 2), KEY)
    assert group_statistics(taps, labels, keys, 2).n.tolist() == [[3, 1]]


def test_a_pseudonym_needs_the_secret_of_its_store() -> None:
    assert pseudonym("P1", KEY) == pseudonym("P1", KEY)
    assert pseudonym("P1", KEY) != pseudonym("P1", b"another") != pseudonym("P2", b"another")


def test_errors_of_a_single_cell_do_not_leave() -> None:
    parasitized = np.asarray([0, 0, 1, 0, 1, 1, 0], bool)
    slides = ["a", "a", "a", "b", "b", "b", "c"]
    whole = count_errors(np.linspace(-1, 1, 7), parasitized, slides)
    found = shareable_errors(whole, KEY)
    cells = dict(zip(found.slides, zip(found.negatives, found.positives, strict=True), strict=True))
    assert cells == {pseudonym("a", KEY): (2, 0), pseudonym("b", KEY): (0, 2)}
    assert list(found.slides) == sorted(found.slides)
    for table, left in ((found.false, found.negatives), (found.found, found.positives)):
        assert not table[left == 0].any()
    assert shareable_errors(ErrorCounts.empty(), KEY).slides == ()


@pytest.mark.parametrize("n", [1, 4, 5, 9, 10, 103])
def test_scores_of_cells_leave_together(n: int) -> None:
    rng = np.random.default_rng(n)
    weights = rng.random(n)
    arrays = {
        "own/cells/scores": np.sort(rng.normal(size=n)),
        "own/cells/weights": weights / weights.sum(),
        "own/cells/mean": np.zeros(2),
        "own/population/scores": np.zeros(3),
        "reference/a/means": np.ones(2),
    }
    found = shareable_site(arrays)
    assert found.keys() == {"own/cells/scores", "own/cells/weights", "reference/a/means"}
    scores, left = found["own/cells/scores"], found["own/cells/weights"]
    assert len(scores) == max(1, n // TOGETHER)
    assert (np.diff(scores) >= 0).all()
    assert_allclose(left.sum(), 1.0)
    assert_allclose(left @ scores, arrays["own/cells/weights"] @ arrays["own/cells/scores"])
