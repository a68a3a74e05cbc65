"""Clocks that were wrong, and cards that are damaged, do not decide which is the newest."""

from datetime import timedelta
from typing import Any

import pytest

from storage.batches.manifests import list_batches, load_batch
from storage.models.classifiers import find_card, list_models, load_card, save_model
from storage.models.detectors import list_detectors, load_detector_card, save_detector
from storage.models.statistics import list_statistics, save_statistics
from storage.store import Store, StoreError
from tests.support.batches import freeze, manifest
from tests.support.cards import CONTENT, card, lineage, moments
from tests.support.models import WHEN

AHEAD = timedelta(days=400)


def add_detector(store: Store, version: int, *, later: int = 0, model: str = "tiny") -> str:
    name = f"{model}-v{version:04d}"
    made: dict[str, Any] = {"model": model, "statistics_version": version}
    save_detector(store, card(name, later).model_copy(update=made), CONTENT)
    return name


def add_model(store: Store, name: str, **made: Any) -> None:
    weights = store.read_bytes("models", "tiny", "model.safetensors")
    save_model(store, load_card(store, "tiny").model_copy(update={"name": name, **made}), weights)


def damage(store: Store, *parts: str) -> None:
    store.write_bytes(store.read_bytes(*parts)[:-20], *parts)


def test_a_detector_made_while_the_clock_was_ahead_is_not_the_newest_for_ever(
    store_with_model: Store,
) -> None:
    add_detector(store_with_model, 3, later=int(AHEAD.total_seconds()))
    newest = add_detector(store_with_model, 5)
    add_detector(store_with_model, 4)
    assert load_detector_card(store_with_model).name == newest
    assert [each.statistics_version for each in list_detectors(store_with_model)] == [3, 4, 5]


def test_the_newest_model_decides_before_the_version_of_its_statistics(
    store_with_model: Store,
) -> None:
    add_model(store_with_model, "second", sequence=1)
    add_detector(store_with_model, 7, later=60)
    newest = add_detector(store_with_model, 1, model="second")
    assert load_detector_card(store_with_model).name == newest


def test_a_model_and_a_batch_made_while_the_clock_was_ahead_are_not_the_newest(
    store_with_model: Store,
) -> None:
    add_model(store_with_model, "wrong", created_at=WHEN + AHEAD, sequence=1)
    add_model(store_with_model, "right", sequence=2)
    names = [each.name for each in list_models(store_with_model)]
    assert names == ["tiny", "wrong", "right"]
    for number, (name, when) in enumerate((("a", WHEN), ("b", WHEN + AHEAD), ("c", WHEN))):
        freeze(store_with_model, manifest(2), name, started_at=when, sequence=number)
    assert [batch.name for batch in list_batches(store_with_model)] == ["a", "b", "c"]


CHANGES = {"alpha": 0.85, "model_digest": 64 * "0", "surprise": 1}


@pytest.mark.parametrize("field", CHANGES)
def test_a_detector_card_that_was_changed_is_refused(store_with_model: Store, field: str) -> None:
    name = add_detector(store_with_model, 1)
    parts = ("detectors", name, "card.json")
    store_with_model.write_json(
        store_with_model.read_json(*parts) | {field: CHANGES[field]}, *parts
    )
    with pytest.raises(StoreError, match=rf"{name}/card\.json is not the card that was written"):
        load_detector_card(store_with_model, name)


def test_a_model_card_and_a_lineage_that_were_changed_are_refused(store_with_model: Store) -> None:
    store = store_with_model
    store.write_json(
        store.read_json("models", "tiny", "card.json") | {"temperature": 900.0},
        "models", "tiny", "card.json",
    )  # fmt: skip
    with pytest.raises(StoreError, match=r"tiny/card\.json is not the card that was written"):
        load_card(store, "tiny")
    save_statistics(store, lineage(1), moments(1))
    parts = ("statistics", "tiny", "v0001", "lineage.json")
    store.write_json(store.read_json(*parts) | {"images": {"Parasitized": 4}}, *parts)
    with pytest.raises(StoreError, match=r"lineage\.json is not the card that was written"):
        list_statistics(store, "tiny")


@pytest.mark.parametrize("kind", ["model", "statistics", "detector"])
def test_a_card_whose_digest_is_removed_is_refused(store_with_model: Store, kind: str) -> None:
    store, name = store_with_model, add_detector(store_with_model, 1)
    save_statistics(store, lineage(1), moments(1))
    parts, read = {
        "model": (("models", "tiny", "card.json"), lambda: load_card(store, "tiny")),
        "statistics": (("statistics", "tiny", "v0001", "lineage.json"),
                       lambda: list_statistics(store, "tiny")),
        "detector": (("detectors", name, "card.json"), lambda: load_detector_card(store)),
    }[kind]  # fmt: skip
    read()
    card = store.read_json(*parts)
    del card["card_digest"]
    store.write_json(card, *parts)
    with pytest.raises(StoreError, match="has no card_digest, with which cards are written"):
        read()


def test_an_older_detector_that_is_damaged_is_named_and_does_not_stop_the_newest(
    store_with_model: Store,
) -> None:
    old, newest = add_detector(store_with_model, 1), add_detector(store_with_model, 2)
    damage(store_with_model, "detectors", old, "card.json")
    told: list[str] = []
    assert load_detector_card(store_with_model, on_damage=told.append).name == newest
    (text,) = told
    assert f"detectors/{old}/card.json is not valid JSON" in text
    with pytest.raises(StoreError, match=f"{old}/card.json"):
        load_detector_card(store_with_model, old)


def test_an_older_detector_is_not_taken_where_the_newest_is_damaged(
    store_with_model: Store,
) -> None:
    add_detector(store_with_model, 1)
    newest = add_detector(store_with_model, 2)
    damage(store_with_model, "detectors", newest, "card.json")
    with pytest.raises(StoreError, match=f"{newest}/card.json"):
        load_detector_card(store_with_model, on_damage=lambda _: None)


def add_models(store: Store, *names: str) -> None:
    """Train models after ``tiny``, each with a detector."""
    for number, name in enumerate(names, 1):
        add_model(store, name, sequence=number)
        made = {"model": name, "sequence": number}
        save_detector(store, card(f"{name}-v0001").model_copy(update=made), CONTENT)


def test_a_damaged_card_of_an_older_model_is_named_and_stops_nothing(
    store_with_model: Store,
) -> None:
    add_models(store_with_model, "old", "new")
    damage(store_with_model, "models", "old", "card.json")
    told: list[str] = []
    assert load_detector_card(store_with_model, on_damage=told.append).name == "new-v0001"
    assert find_card(store_with_model, None, told.append).name == "new"
    assert len(told) == 2
    assert all("models/old/card.json is not valid JSON" in text for text in told)
    with pytest.raises(StoreError, match=r"old/card\.json"):
        load_detector_card(store_with_model)


def test_an_older_model_is_not_taken_where_one_that_may_be_newer_is_damaged(
    store_with_model: Store,
) -> None:
    add_models(store_with_model, "old", "new")
    damage(store_with_model, "models", "new", "card.json")
    for look in (load_detector_card, find_card):
        with pytest.raises(StoreError, match=r"new/card\.json"):
            look(store_with_model, None, lambda _: None)
    # A number is missing because a model was removed: its detector's number says that it is newer.
    store_with_model.remove("models", "old")
    add_model(store_with_model, "third", sequence=3)
    add = {"model": "third", "sequence": 1}
    save_detector(store_with_model, card("third-v0001").model_copy(update=add), CONTENT)
    with pytest.raises(StoreError, match=r"new/card\.json"):
        load_detector_card(store_with_model, None, lambda _: None)


def test_a_damaged_model_without_a_detector_stops_no_screen(store_with_model: Store) -> None:
    add_models(store_with_model, "old")
    add_model(store_with_model, "new", sequence=2)
    damage(store_with_model, "models", "new", "card.json")
    found = load_detector_card(store_with_model, on_damage=lambda _: None)
    assert found.name == "old-v0001"


def test_a_damaged_batch_is_named_and_left_out_but_refused_by_name(store: Store) -> None:
    freeze(store, manifest(2), "good")
    freeze(store, manifest(2), "bad")
    damage(store, "batches", "bad", "batch.json")
    told: list[str] = []
    assert [batch.name for batch in list_batches(store, told.append)] == ["good"]
    assert "batches/bad/batch.json" in told[0]
    with pytest.raises(StoreError, match=r"bad/batch\.json"):
        load_batch(store, "bad")
