from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.detector.verdict import VerdictRule
from tasks.metrics.metrics import SINGLE, Result
from tasks.smears.evaluation.comparison import VERDICT
from tasks.smears.evaluation.measures import (
    AND_NOISE,
    ATTACKED,
    HOME,
    SAMPLED,
    TEST,
    UNROUNDED,
    ScoredSets,
    comparisons,
    is_masked,
    measures,
)
from tasks.smears.evaluation.scored import BORDER, OWN, Scored, ScoredImages
from tasks.smears.evaluation.treated import CLEAN, COMPUTED, FILE, NOISE, Norms, Treatment

FGSM = Treatment("attack", "fgsm", 8 / 255)
DEEPFOOL = Treatment("attack", "deepfool", None)
BLUR = Treatment("corruption", "defocus", 3.0)


def scored(
    right: list[int] | NDArray[np.bool_],
    *,
    start: float = 0.0,
    border: float = 0.0,
    p_value: list[float] | None = None,
    probability: list[float] | None = None,
    label: list[int] | None = None,
    rows: list[int] | None = None,
) -> Scored:
    """Images that are diagnosed rightly or not; their scores are ``start`` and up from there."""
    n = len(right)
    truth = np.array(label if label is not None else [i % 2 for i in range(n)], np.int8)
    diagnosed = np.where(np.array(right, bool), truth, 1 - truth).astype(np.int8)
    own = start + np.arange(n, dtype=np.float64)
    logits = np.zeros((n, 2))
    logits[np.arange(n), diagnosed] = 1.0 + np.arange(n)
    return Scored(
        rows=np.arange(n) if rows is None else np.array(rows),
        label=truth,
        scores={OWN: own, "energy": -own, BORDER: np.full(n, border)},
        layers=np.stack([own, own**2], axis=1),
        p_value=np.full(n, 0.5) if p_value is None else np.array(p_value),
        diagnosed=diagnosed,
        probability=np.full(n, 0.9) if probability is None else np.array(probability),
        logits=logits,
        by_network=diagnosed,
        disagree=np.zeros(n, bool),
    )


def digests(n: int, first: int = 0) -> NDArray[np.uint8]:
    return np.stack([np.full(32, first + i, np.uint8) for i in range(n)]).reshape(n, 32)


def part(forms: dict[str, Scored] | Scored, norms: dict[str, Norms] | None = None) -> ScoredImages:
    forms = {FILE: forms} if isinstance(forms, Scored) else forms
    return ScoredImages(forms, digests(len(forms[FILE].rows)), norms or {})


#               0  1  2  3  4  5
CLEAN_RIGHT = [1, 1, 1, 1, 0, 1]
NOISE_RIGHT = [1, 1, 0, 1, 1, 1]
FILE_RIGHT = [0, 0, 0, 1, 0, 0]  # counted: 0, 1, 5
COMPUTED_RIGHT = [0, 0, 0, 0, 0, 1]  # counted: 0, 1, 3


def norms(l2: list[float], linf: list[float]) -> Norms:
    return Norms(np.array(l2, np.float32), np.array(linf, np.float32))


def attacked_part() -> ScoredImages:
    sizes = {
        FILE: norms([1, 2, 3, 4, 5, 60], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        COMPUTED: norms([10, 20, 30, 40, 50, 600], [0.01, 0.02, 0.03, 0.04, 0.05, 0.06]),
    }
    forms = {
        FILE: scored(FILE_RIGHT, start=100),
        COMPUTED: scored(COMPUTED_RIGHT, start=200),
        NOISE: scored(NOISE_RIGHT, start=300),
    }
    return part(forms, sizes)


def sets(
    attacks: dict[Treatment, ScoredImages] | None = None,
    others: dict[str, ScoredImages] | None = None,
    test: Scored | None = None,
) -> ScoredSets:
    others = others or {}
    ordinary = test or scored([1, 1, 0, 1, 1, 1, 1, 0], p_value=[0.5] * 7 + [0.01])
    made = {
        (TEST, CLEAN): part(ordinary),
        (SAMPLED, CLEAN): part(scored([1, 1, 1, 1])),
        (ATTACKED, CLEAN): part(scored(CLEAN_RIGHT)),
        (SAMPLED, BLUR): part(scored([1, 0, 0, 0], start=50, p_value=[0.01, 0.2, 0.01, 0.5])),
        **{(ATTACKED, treatment): each for treatment, each in (attacks or {}).items()},
        **{(f"near--{name}", CLEAN): each for name, each in others.items()},
    }
    patients = np.array([f"C{i // 2}" for i in range(8)])
    groups = {TEST: patients, SAMPLED: patients, ATTACKED: patients}
    groups |= {f"near--{name}": np.array([f"{name}{i}" for i in range(9)]) for name in others}
    listed = {f"near/{name}": f"near--{name}" for name in others}
    return ScoredSets(VerdictRule(0.05, 0.75), 1.75, groups, made, listed)


def rows_of(results: Iterable[Result], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in (each.row() for each in results) if wanted.items() <= row.items()]


def value_of(found: ScoredSets, **wanted: Any) -> float | None:
    (row,) = rows_of(measures(found), **wanted)
    value: float | None = row["value"]
    return value


# Attacks that count


def test_an_attack_counts_where_clean_and_noise_are_right_and_the_attacked_is_wrong() -> None:
    found = {each.subject.composition: each for each in comparisons(sets({FGSM: attacked_part()}))}
    assert len(found) == 4
    for words, base, counted in ((SINGLE, 100, [0, 1, 5]), (UNROUNDED, 200, [0, 1, 3])):
        for beside in ("", AND_NOISE):
            one = found[words + beside]
            noisy = [300.0 + i for i in counted] if beside else []
            assert one.abnormal.scores[OWN].tolist() == [base + i for i in counted]
            assert one.ordinary.scores[OWN].tolist() == [*map(float, counted), *noisy]
            assert one.abnormal.layers.tolist() == [[base + i, (base + i) ** 2] for i in counted]
            patients = [f"C{i // 2}" for i in counted]
            assert one.abnormal.clusters.tolist() == patients
            assert one.ordinary.clusters.tolist() == patients * (1 + bool(noisy))
            assert (one.subject.set, one.subject.strength) == ("attack/fgsm", 8 / 255)


@pytest.mark.parametrize(("fooled", "compared"), [(0, False), (1, False), (2, True)])
def test_an_attack_that_all_but_fails_is_not_compared(fooled: int, compared: bool) -> None:
    right = [0] * fooled + [1] * (6 - fooled)
    forms = {form: scored(right, start=9) for form in (FILE, COMPUTED)} | {NOISE: scored([1] * 6)}
    found = sets({DEEPFOOL: replace(attacked_part(), forms=forms)})
    assert bool(list(comparisons(found))) == compared
    assert value_of(found, measure="success rate", composition=SINGLE) == fooled / 6


def test_teachers_are_what_fgsm_fooled_as_files() -> None:
    for one in comparisons(sets({FGSM: attacked_part(), DEEPFOOL: attacked_part()})):
        assert one.teachers is not None
        ordinary, attacked = one.teachers
        assert attacked.scores[OWN].tolist() == [100.0, 101.0, 105.0]
        assert ordinary.scores[OWN].tolist() == [0.0, 1.0, 5.0, 300.0, 301.0, 305.0]
    without = comparisons(sets({DEEPFOOL: attacked_part()}))
    assert {one.teachers for one in without} == {None}


# Attacks in figures


def test_success_and_norms_are_of_images_that_fool() -> None:
    found = sets({FGSM: attacked_part()})
    assert value_of(found, measure="success rate", composition=SINGLE) == pytest.approx(5 / 6)
    assert value_of(found, measure="success rate", composition=UNROUNDED) == pytest.approx(5 / 6)
    # The median of 1, 2, 3, 5, 60.
    assert value_of(found, measure="median L2", composition=SINGLE) == 3
    assert value_of(found, measure="median Linf", composition=SINGLE) == pytest.approx(0.3)
    assert value_of(found, measure="median L2", composition=UNROUNDED) == 30
    assert value_of(found, measure="median Linf", composition=UNROUNDED) == pytest.approx(0.03)
    rows = rows_of(measures(found), set="attack/fgsm")
    assert {row["detector"] for row in rows} == {None}
    assert {row["strange"] for row in rows if row["measure"] == "median L2"} == {5}


def test_norms_of_an_attack_that_fools_nobody_are_no_numbers() -> None:
    forms = dict.fromkeys((FILE, COMPUTED, NOISE), scored([1] * 6))
    found = sets({FGSM: replace(attacked_part(), forms=forms)})
    assert value_of(found, measure="success rate", composition=SINGLE) == 0
    assert value_of(found, measure="median L2", composition=SINGLE) is None


# Other images


@pytest.mark.parametrize(
    ("ordinary", "other", "masked"), [(0.0, 0.0, True), (0.0, 0.4, False), (0.3, 0.2, True)]
)
def test_a_set_is_masked_where_its_borders_are_as_dark_as_cells_have(
    ordinary: float, other: float, masked: bool
) -> None:
    clean = scored([1] * 8, border=ordinary)
    others = scored([1] * 9, border=other)
    assert is_masked(clean, others) == masked
    # One bright border does not decide.
    odd = replace(others, scores=others.scores | {BORDER: np.r_[np.full(8, other), 1.0]})
    assert is_masked(clean, odd) == masked


def test_other_images_are_compared_with_ordinary_ones_of_the_test() -> None:
    (one,) = comparisons(sets(others={"white": part(scored([1] * 9, start=70))}))
    assert one.subject.set == "near/white"
    assert one.ordinary.scores[OWN].tolist() == list(range(8))
    assert one.abnormal.scores[OWN].tolist() == [70.0 + i for i in range(9)]
    assert one.abnormal.clusters.tolist() == [f"white{i}" for i in range(9)]
    assert one.teachers is None


def test_images_are_of_the_patients_of_their_rows_where_some_could_not_be_read() -> None:
    test = scored([1] * 3, rows=[1, 4, 6])
    (one,) = comparisons(sets(others={"white": part(scored([1] * 9))}, test=test))
    assert one.ordinary.clusters.tolist() == ["C0", "C2", "C3"]


def test_the_verdict_is_abnormal_or_uncertain() -> None:
    test = scored(
        [1] * 8,
        p_value=[0.05, 0.051, 0.9, 0.01, 0.9, 0.9, 0.9, 0.9],
        probability=[0.9, 0.9, 0.75, 0.9, 0.749, float("nan"), 0.9, 0.9],
    )
    found = sets(others={"white": part(scored([1] * 9))}, test=test)
    (one,) = comparisons(found)
    assert one.ordinary.verdict.tolist() == [True, False, False, True, True, True, False, False]
    assert value_of(found, set=HOME, detector=OWN, measure="called abnormal") == 2 / 8
    assert value_of(found, set=HOME, detector=VERDICT, measure="sent to review") == 4 / 8


def test_diagnoses_are_right_or_not_and_ranked_by_their_margin() -> None:
    found = sets(test=scored([1, 1, 0, 1, 1, 1, 1, 0]))
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
