from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from tasks.metrics.metrics import SINGLE, Result
from tasks.smears.evaluation.measures import (
    AND_NOISE,
    ATTACKED,
    HOME,
    SAMPLED,
    TEST,
    VERDICT,
    ScoredSets,
    comparisons,
    measures,
)
from tasks.smears.evaluation.scored import (
    CLEAN,
    FILE,
    NOISE,
    OWN,
    ScoredForm,
    ScoredImages,
    Treatment,
)
from tests.support.evaluated import scored

FGSM = Treatment("attack", "fgsm", 8 / 255)
BLUR = Treatment("corruption", "defocus", 3.0)


def images(right: list[int], *, start: float = 0.0, **fields: Any) -> ScoredForm:
    """Images that are diagnosed rightly or not; their scores are ``start`` and up from there."""
    n = len(right)
    truth = np.arange(n, dtype=np.int8) % 2
    diagnosed = np.where(np.array(right, bool), truth, 1 - truth).astype(np.int8)
    logits = np.zeros((n, 2))
    logits[np.arange(n), diagnosed] = 1.0 + np.arange(n)
    usual = {
        "clusters": np.array([f"C{i // 2}" for i in range(n)]),
        "diagnosed": diagnosed,
        "by_network": diagnosed,
        "logits": logits,
    }
    own = start + np.arange(n, dtype=np.float64)
    return scored({OWN: own, "energy": -own}, **usual | fields)


def part(forms: dict[str, ScoredForm] | ScoredForm) -> ScoredImages:
    forms = {FILE: forms} if isinstance(forms, ScoredForm) else forms
    digests = np.arange(len(forms[FILE].rows), dtype=np.uint8).repeat(32).reshape(-1, 32)
    return ScoredImages(forms, digests)


#               0  1  2  3  4  5
CLEAN_RIGHT = [1, 1, 1, 1, 0, 1]
NOISE_RIGHT = [1, 1, 0, 1, 1, 1]
FILE_RIGHT = [0, 0, 0, 1, 0, 0]  # counted: 0, 1, 5


def attacked_part() -> ScoredImages:
    return part({FILE: images(FILE_RIGHT, start=100), NOISE: images(NOISE_RIGHT, start=300)})


def sets(
    attacks: dict[Treatment, ScoredImages] | None = None,
    others: dict[str, ScoredImages] | None = None,
    test: ScoredForm | None = None,
) -> ScoredSets:
    others = others or {}
    ordinary = test or images([1, 1, 0, 1, 1, 1, 1, 0], abnormal=[False] * 7 + [True])
    made = {
        (TEST, CLEAN): part(ordinary),
        (SAMPLED, CLEAN): part(images([1, 1, 1, 1])),
        (ATTACKED, CLEAN): part(images(CLEAN_RIGHT)),
        (SAMPLED, BLUR): part(images([1, 0, 0, 0], start=50, abnormal=[True, False, True, False])),
        **{(ATTACKED, treatment): each for treatment, each in (attacks or {}).items()},
        **{(f"near--{name}", CLEAN): each for name, each in others.items()},
    }
    return ScoredSets(1.75, made, {f"near/{name}": f"near--{name}" for name in others})


def rows_of(results: Iterable[Result], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in (each.row() for each in results) if wanted.items() <= row.items()]


def value_of(found: ScoredSets, **wanted: Any) -> float | None:
    (row,) = rows_of(measures(found), **wanted)
    value: float | None = row["value"]
    return value


# Attacks that count


def test_an_attack_counts_where_clean_and_noise_are_right_and_the_attacked_is_wrong() -> None:
    found = {each.subject.composition: each for each in comparisons(sets({FGSM: attacked_part()}))}
    assert found.keys() == {SINGLE, SINGLE + AND_NOISE}
    for words, noisy in ((SINGLE, []), (SINGLE + AND_NOISE, [300.0, 301.0, 305.0])):
        one = found[words]
        assert one.abnormal.scores[OWN].tolist() == [100.0, 101.0, 105.0]
        assert one.ordinary.scores[OWN].tolist() == [0.0, 1.0, 5.0, *noisy]
        assert one.abnormal.clusters.tolist() == ["C0", "C0", "C2"]
        assert one.ordinary.clusters.tolist() == ["C0", "C0", "C2"] * (1 + bool(noisy))
        assert (one.subject.set, one.subject.strength) == ("attack/fgsm", 8 / 255)


@pytest.mark.parametrize(("fooled", "compared"), [(0, False), (1, False), (2, True)])
def test_an_attack_that_all_but_fails_is_not_compared(fooled: int, compared: bool) -> None:
    right = [0] * fooled + [1] * (6 - fooled)
    found = sets({FGSM: part({FILE: images(right, start=9), NOISE: images([1] * 6)})})
    assert bool(list(comparisons(found))) == compared
    assert value_of(found, measure="success rate") == fooled / 6


def test_success_is_the_share_of_attacked_images_that_fool() -> None:
    found = sets({FGSM: attacked_part()})
    assert value_of(found, measure="success rate") == pytest.approx(5 / 6)
    assert value_of(found, measure="network fooled") == pytest.approx(5 / 6)
    assert value_of(found, measure="witnesses disagree") == 0
    rows = rows_of(measures(found), set="attack/fgsm")
    assert {(row["detector"], row["strange"], row["ordinary"]) for row in rows} == {(None, 6, 0)}


# Other images


def test_other_images_are_compared_with_ordinary_ones_of_the_test() -> None:
    (one,) = comparisons(sets(others={"white": part(images([1] * 9, start=70))}))
    assert one.subject.set == "near/white"
    assert one.ordinary.scores[OWN].tolist() == list(range(8))
    assert one.abnormal.scores[OWN].tolist() == [70.0 + i for i in range(9)]


def test_what_is_abnormal_and_what_is_sent_to_a_person_are_rates() -> None:
    review = [True, False, False, True, True, True, False, False]
    test = images([1] * 8, abnormal=[True, False, False, True] + [False] * 4, review=review)
    found = sets(test=test)
    assert value_of(found, set=HOME, detector=OWN, measure="called abnormal") == 2 / 8
    assert value_of(found, set=HOME, detector=VERDICT, measure="sent to review") == 4 / 8


def test_diagnoses_are_right_or_not_and_ranked_by_their_margin() -> None:
    found = sets(test=images([1, 1, 0, 1, 1, 1, 1, 0]))
    assert value_of(found, set=HOME, measure="accuracy") == 6 / 8
    # Class 0 (rows 0, 2, 4, 6) has margins 1, -3, 5, 7; class 1 has -2, -4, -6, +8.
    positive, negative = [1, -3, 5, 7], [-2, -4, -6, 8]
    pairs = [(p > n) for p in positive for n in negative]
    (row,) = rows_of(measures(found), measure="AUROC of the diagnosis")
    assert row["value"] == pytest.approx(np.mean(pairs))
    assert row["low"] <= row["value"] <= row["high"]
    assert value_of(found, detector=OWN, measure="threshold") == 1.75


def test_corruptions_are_false_alarms_and_lost_accuracy() -> None:
    about = {"set": "corruption/defocus", "strength": 3.0}
    assert value_of(sets(), **about, measure="accuracy") == 1 / 4
    assert value_of(sets(), **about, measure="called abnormal") == 2 / 4
