from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from storage.smears.evaluations import (
    Evaluation,
    read_arrays,
    shard_path,
    start_evaluation,
    write_arrays,
)
from storage.store import Store, StoreError
from tests.support.models import WHEN

CARD = ("evaluations", "night", "card.json")


def evaluation(**changed: Any) -> Evaluation:
    return Evaluation(
        **{
            "name": "night",
            "started_at": WHEN,
            "detectors": ["tiny-v0001", "tiny-seed-1-v0001"],
            "images": "cells",
            "limit": None,
            "ood": {"near/white": "zip://wbc::ood.zip"},
            "attacks": ["fgsm", "pgd"],
            "attacked": 500,
            **changed,
        }
    )


def files(store: Store) -> dict[str, bytes]:
    return {path: store.fs.cat_file(path) for path in store.fs.find(store.root)}


def test_an_evaluation_that_asks_the_same_goes_on_as_it_was_started(store: Store) -> None:
    assert start_evaluation(store, evaluation()) == evaluation()
    before = files(store)
    later = evaluation(started_at=WHEN + timedelta(days=1))
    for _ in range(2):
        assert start_evaluation(store, later) == evaluation()  # with the time of the first
    assert files(store) == before
    assert len(before) == 1
    assert Evaluation.read(store, *CARD) == evaluation()


CHANGES: dict[str, Any] = {
    "detectors": ["tiny-v0002"],
    "images": "others",
    "limit": 100,
    "ood": {"near/white": "elsewhere"},
    "commissioned": "kampala-v0001",
    "attacks": ["fgsm"],
    "attacked": 501,
}


@pytest.mark.parametrize("field", CHANGES)
def test_another_question_of_the_same_name_is_refused_and_says_what_changed(
    store: Store, field: str
) -> None:
    start_evaluation(store, evaluation())
    before = files(store)
    with pytest.raises(StoreError, match=f"night was started with other {field}: give the same"):
        start_evaluation(store, evaluation(**{field: CHANGES[field]}))
    assert files(store) == before
    with pytest.raises(StoreError, match=f"with other .*{field}.*: "):
        start_evaluation(store, evaluation(**CHANGES))


def test_every_question_that_may_change_is_tried() -> None:
    fixed = {"name", "started_at", "schema_version", "save_attacks"}
    assert CHANGES.keys() == Evaluation.model_fields.keys() - fixed


@pytest.mark.parametrize("name", ["..", "a/b", "", "🩸"])
def test_a_name_that_is_no_folder_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="is no evaluation name"):
        start_evaluation(store, evaluation(name=name))


def test_a_damaged_card_is_named_and_not_begun_anew(store: Store) -> None:
    store.write_bytes(b"{", *CARD)
    with pytest.raises(StoreError, match=r"night/card\.json is not valid JSON"):
        start_evaluation(store, evaluation())
    store.write_bytes(b"{}", *CARD)
    with pytest.raises(StoreError, match=r"night/card\.json is no valid Evaluation: name"):
        start_evaluation(store, evaluation())


ARRAYS = {"rows": np.arange(3), "label": np.array([-1, 0, 1], np.int8)}
SHARD = shard_path("night", "tiny-v0001", "near--white", "fgsm-0.0314", 7)


def test_arrays_that_are_lost_or_damaged_are_named(store: Store) -> None:
    with pytest.raises(StoreError, match=rf"{SHARD[-1]} does not exist"):
        read_arrays(store, *SHARD)
    write_arrays(store, ARRAYS, *SHARD)
    whole = store.read_bytes(*SHARD)
    for content in (b"", whole[: len(whole) // 2], b"{}" * 100):
        store.write_bytes(content, *SHARD)
        with pytest.raises(StoreError, match=SHARD[-1]):
            read_arrays(store, *SHARD)
