import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from tasks.detector.verdict import VerdictRule
from tasks.smears.evaluation.scored import (
    FILE,
    NOISE,
    OWN,
    ImageEvidence,
    ScoredImages,
    TreatedImages,
    join_scored,
    score,
)
from tests.support.evaluated import scored
from tests.support.laboratories import WIDTHS, detector


def digests(n: int) -> NDArray[np.uint8]:
    return np.arange(n, dtype=np.uint8).repeat(32).reshape(n, 32)


def some() -> ScoredImages:
    return ScoredImages(
        {FILE: scored({OWN: np.arange(6.0)}), NOISE: scored({OWN: 5 + np.arange(6.0)})}, digests(6)
    )


def cut(chosen: list[int]) -> ScoredImages:
    return some().without({digests(6)[i].tobytes() for i in range(6) if i not in chosen})


def equal(a: ScoredImages, b: ScoredImages) -> None:
    assert_array_equal(a.image_ids, b.image_ids)
    for form in (FILE, NOISE):
        one, other = a.forms[form], b.forms[form]
        assert_array_equal(one.scores[OWN], other.scores[OWN])
        for field in set(vars(one)) - {"scores"}:
            assert_array_equal(getattr(one, field), getattr(other, field))


def test_images_are_left_out_by_their_digests() -> None:
    left = cut([0, 1, 3, 4])
    assert_array_equal(left.image_ids[:, 0], [0, 1, 3, 4])
    assert left.forms[NOISE].rows.tolist() == [0, 1, 3, 4]
    assert left.forms[NOISE].scores[OWN].tolist() == [5, 6, 8, 9]
    assert left.forms[FILE].logits.shape == (4, 2)
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


def test_what_a_night_would_send_to_a_person_is_abnormal_or_uncertain() -> None:
    rng = np.random.default_rng(0)
    taps = {
        tap: np.concatenate([rng.normal(size=(20, d)), rng.normal(30, size=(20, d))]).astype("f4")
        for tap, d in WIDTHS.items()
    }
    margin = np.where(np.arange(40) % 2, 0.1, 9.0)
    logits = np.stack([margin, -margin], axis=1).astype(np.float32)
    evidence = ImageEvidence(taps, logits)
    images = TreatedImages(
        np.arange(40), np.zeros((40, 32), np.uint8), np.zeros(40, np.int8), {FILE: evidence}
    )
    patients, rule = np.array(["C"] * 40), VerdictRule(0.05, 0.75)
    found = score(images, patients, detector(), {}, rule, 1.0, np.zeros(40)).forms[FILE]
    assert found.abnormal[20:].all()
    assert_array_equal(found.review, found.abnormal | (np.arange(40) % 2 == 1))
    assert found.right.all()
    assert_array_equal(found.logits, logits)  # a single witness is the network
    assert not found.disagree.any()
