import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from tasks.smears.evaluation.scored import OWN, Scored, ScoredImages, join_scored
from tasks.smears.evaluation.treated import COMPUTED, FILE, Norms


def digests(n: int) -> NDArray[np.uint8]:
    return np.arange(n, dtype=np.uint8).repeat(32).reshape(n, 32)


def scored(start: float) -> Scored:
    own, labels = start + np.arange(6.0), np.arange(6, dtype=np.int8) % 2
    return Scored(
        rows=np.arange(6),
        label=labels,
        scores={OWN: own},
        layers=np.stack([own, own**2], axis=1),
        p_value=own / 100,
        diagnosed=labels,
        probability=own / 10,
        logits=np.stack([own, -own], axis=1),
        by_network=labels,
        disagree=labels > 0,
    )


def some() -> ScoredImages:
    norms = {FILE: Norms(np.arange(6, dtype=np.float32), np.zeros(6, np.float32))}
    return ScoredImages({FILE: scored(0.0), COMPUTED: scored(5.0)}, digests(6), norms)


def cut(chosen: list[int]) -> ScoredImages:
    return some().without({digests(6)[i].tobytes() for i in range(6) if i not in chosen})


def equal(a: ScoredImages, b: ScoredImages) -> None:
    assert_array_equal(a.image_ids, b.image_ids)
    assert_array_equal(a.norms[FILE].l2, b.norms[FILE].l2)
    for form in (FILE, COMPUTED):
        one, other = a.forms[form], b.forms[form]
        assert_array_equal(one.scores[OWN], other.scores[OWN])
        for field in set(vars(one)) - {"scores"}:
            assert_array_equal(getattr(one, field), getattr(other, field))


def test_images_are_left_out_by_their_digests() -> None:
    left = cut([0, 1, 3, 4])
    assert_array_equal(left.image_ids[:, 0], [0, 1, 3, 4])
    assert left.forms[COMPUTED].rows.tolist() == [0, 1, 3, 4]
    assert left.forms[COMPUTED].scores[OWN].tolist() == [5, 6, 8, 9]
    assert left.forms[FILE].logits.shape == (4, 2)
    assert left.norms[FILE].l2.tolist() == [0, 1, 3, 4]
    assert len(some().without({bytes(32 * [99])})) == 6
    assert len(cut([])) == 0


def test_shards_are_joined_in_their_order() -> None:
    pieces = [cut(chosen) for chosen in ([0, 1], [2], [3, 4, 5])]
    equal(join_scored(pieces), some())
    assert join_scored(pieces[::-1]).forms[FILE].rows.tolist() == [3, 4, 5, 2, 0, 1]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_shard_of_which_no_image_can_be_read_adds_nothing(place: int) -> None:
    pieces = [cut([0, 1, 2]), cut([3, 4, 5])]
    pieces.insert(place, ScoredImages({}, np.empty((0, 32), np.uint8)))
    equal(join_scored(pieces), some())
