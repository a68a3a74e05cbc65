from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tasks.network.split import (
    PARTS,
    SplitError,
    folds,
    mean_absorbance,
    split,
    split_by,
    stain_clusters,
)
from tests.support.paths import ROOT
from tests.support.processes import python

FRACTIONS = st.tuples(*[st.floats(0.05, 1)] * 3)
SEEDS = st.integers(0, 2**32 - 1)
USUAL = (0.7, 0.15, 0.15)

Rows = tuple[list[str], list[int]]


def patients(both: int, negative: int = 0, positive: int = 0) -> Rows:
    """Rows of patients with cells of both classes, and of one."""
    rows = [(f"both {i}", label) for i in range(both) for label in (0, 1, 1)]
    rows += [(f"negative {i}", 0) for i in range(negative)]
    rows += [(f"positive {i}", 1) for i in range(positive)]
    return [key for key, _ in rows], [label for _, label in rows]


def dealt(rows: Rows, fractions: tuple[float, ...] = USUAL, seed: int = 0) -> dict[str, list[str]]:
    return split(rows[0], np.array(rows[1], int), by="patient", fractions=fractions, seed=seed)


@st.composite
def collections(draw: Callable) -> Rows:
    """Rows in any order, of patients with any cells, of up to three classes."""
    names = draw(st.lists(st.text(st.characters(exclude_characters="\0")), min_size=9, max_size=30))
    labels = draw(st.lists(st.integers(0, 2), min_size=len(names), max_size=len(names)))
    return names, labels


@given(collections(), FRACTIONS, SEEDS)
def test_every_key_is_in_one_part_and_every_part_has_every_class_or_it_is_refused(
    rows: Rows, fractions: tuple[float, ...], seed: int
) -> None:
    keys, labels = rows
    try:
        found = dealt(rows, fractions, seed)
    except SplitError:
        return
    assert sorted(key for part in PARTS for key in found[part]) == sorted(set(keys))
    for part in PARTS:
        assert {labels[row] for row, key in enumerate(keys) if key in found[part]} == set(labels)


@given(st.integers(3, 60), st.integers(0, 60), FRACTIONS, SEEDS)
def test_every_part_is_within_a_key_of_its_share(
    both: int, negative: int, fractions: tuple[float, ...], seed: int
) -> None:
    share = np.array(fractions) / sum(fractions) * (both + negative)
    assume(share.min() >= 1)  # a part of less gets its one key all the same
    found = dealt(patients(both, negative), fractions, seed)
    assert np.abs([len(found[part]) for part in PARTS] - share).max() < 1


@pytest.mark.parametrize("seed", range(5))
def test_patients_of_every_kind_are_dealt_in_proportion(seed: int) -> None:
    found = dealt(patients(60, 40, 20), seed=seed)
    for kind, keys in (("both", 60), ("negative", 40), ("positive", 20)):
        counts = [sum(key.startswith(kind) for key in found[part]) for part in PARTS]
        assert counts == pytest.approx([0.7 * keys, 0.15 * keys, 0.15 * keys], abs=1)


@pytest.mark.parametrize("fractions", [USUAL, (1.0, 1.0, 1.0), (0.05, 0.05, 0.9)])
@pytest.mark.parametrize("both", range(4))
def test_two_classes_are_in_every_part_exactly_where_the_keys_allow_it(
    both: int, fractions: tuple[float, ...]
) -> None:
    for negative, positive in product(range(14), repeat=2):
        rows = patients(both, negative, positive)
        one_class = len(set(rows[1])) == 1
        whole = both + (negative + positive if one_class else min(negative, positive))
        if whole < len(PARTS):
            with pytest.raises(SplitError, match="patients are too few, or too alike, for a "):
                dealt(rows, fractions)
            continue
        found = dealt(rows, fractions)
        for part in PARTS:
            classes = {c for key, c in zip(*rows, strict=True) if key in found[part]}
            assert classes == set(rows[1])


@given(st.permutations(range(60)), SEEDS)
def test_a_split_depends_on_the_seed_and_not_on_the_order_of_the_rows(
    order: list[int], seed: int
) -> None:
    keys, labels = patients(20)
    shuffled = [keys[row] for row in order], [labels[row] for row in order]
    assert dealt(shuffled, seed=seed) == dealt((keys, labels), seed=seed)
    assert dealt(patients(20), seed=1) != dealt(patients(20), seed=2)


@pytest.mark.parametrize("fractions", [(0.8, 0.2, 0.0), (1.2, -0.1, -0.1)])
def test_a_part_without_a_fraction_is_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(SplitError, match="train, validation, test need fractions above 0"):
        dealt(patients(20), fractions)


@pytest.mark.parametrize(
    ("patient_ids", "slide_ids", "expected"),
    [
        (["p", "q"], ["s", "s"], "patient"),
        (["p", "q"], [None, None], "patient"),
        (["p", None], ["s", "t"], "slide"),
        (["p", ""], ["s", "t"], "slide"),
        (["p", None], ["s", None], "image"),
    ],
)
def test_the_coarsest_unit_that_every_image_has_is_kept_whole(
    patient_ids: list[str | None], slide_ids: list[str | None], expected: str
) -> None:
    assert split_by(patient_ids, slide_ids) == expected


def test_a_split_is_made_without_importing_pytorch() -> None:
    """A coordinator splits images long before it needs a network."""
    program = "import sys, tasks.network.split; sys.exit('torch' in sys.modules)"
    python("-c", program, cwd=ROOT)


def test_folds_test_every_row_once_and_never_split_a_patient() -> None:
    rng = np.random.default_rng(0)
    keys = [f"p{i}" for i in rng.integers(0, 30, 600)]
    labels = rng.integers(0, 2, 600)
    found = folds(keys, labels, 5, by="patient", validation=0.12, seed=0)
    everything = np.asarray(keys)
    assert np.sort(np.concatenate([parts["test"] for parts in found])).tolist() == [*range(600)]
    for parts in found:
        assert np.sort(np.concatenate([*parts.values()])).tolist() == [*range(600)]
        held = [set(everything[rows]) for rows in parts.values()]
        assert sum(map(len, held)) == len(set.union(*held)) == 30
        assert len(held[list(parts).index("test")]) == 6
        assert all(set(labels[parts[part]]) == {0, 1} for part in ("train", "validation"))


def test_too_few_patients_for_folds_are_told() -> None:
    keys, labels = ["a", "a", "b", "b"], np.array([0, 1, 0, 1])
    with pytest.raises(SplitError, match=r"2 patients are too few.* for 2 folds.*fewer folds"):
        folds(keys, labels, 2, by="patient", validation=0.12, seed=0)


def test_absorbance_is_averaged_over_what_is_not_black() -> None:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[0, :2] = (255, 51, 0)
    images[1] = 255
    found = mean_absorbance(images, batch=2)
    assert np.allclose(found[0], [0.0, np.log(5), np.log(255)])
    assert np.allclose(found[1:], 0.0)


def test_patients_of_one_stain_share_a_number_and_the_palest_is_first() -> None:
    rng = np.random.default_rng(0)
    patients = [f"p{i}" for i in range(12) for _ in range(20)]
    shade = np.repeat([0.8, 0.2, 0.5] * 4, 20)[:, None]
    found = stain_clusters(shade + rng.normal(0, 0.05, (240, 3)), patients)
    assert found.reshape(12, 20).tolist() == [[k] * 20 for k in (2, 0, 1) * 4]


def test_fewer_patients_than_clusters_are_a_cluster_each() -> None:
    found = stain_clusters(np.array([[0.3] * 3, [0.1] * 3, [0.3] * 3]), ["b", "a", "b"])
    assert found.tolist() == [1, 0, 1]
