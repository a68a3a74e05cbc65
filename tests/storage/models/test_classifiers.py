import re
from datetime import timedelta

import pytest

from storage.models.classifiers import (
    find_card,
    list_models,
    load_card,
    load_weights,
    refuse_existing,
    save_model,
)
from storage.store import Store, StoreError


def add_model(store: Store, name: str, later: int) -> None:
    tiny = load_card(store, "tiny")
    made = {"name": name, "created_at": tiny.created_at + timedelta(seconds=later)}
    weights = store.read_bytes("models", "tiny", "model.safetensors")
    save_model(store, tiny.model_copy(update=made), weights)


def test_a_model_comes_back_with_its_weights(store_with_model: Store) -> None:
    card = load_card(store_with_model, "tiny")
    assert card.classes == ["Parasitized", "Uninfected"]
    assert card.held_out == {"C104P4"}
    weights = load_weights(store_with_model, card)
    assert weights["backbone.fc.bias"].shape == (2,)
    assert weights["backbone.bn1.num_batches_tracked"].shape == ()


def test_the_newest_model_is_the_default_whatever_its_name(store_with_model: Store) -> None:
    add_model(store_with_model, "a-newest", later=2)
    add_model(store_with_model, "z-newer", later=1)
    names = [card.name for card in list_models(store_with_model)]
    assert names == ["tiny", "z-newer", "a-newest"]
    assert find_card(store_with_model, None).name == "a-newest"
    assert find_card(store_with_model, "tiny").name == "tiny"


def test_an_unknown_model_is_answered_with_those_that_there_are(
    store_with_model: Store,
) -> None:
    add_model(store_with_model, "other", later=1)
    with pytest.raises(StoreError, match=r"no model 'tinny' in .*; did you mean tiny\?$"):
        load_card(store_with_model, "tinny")


@pytest.mark.parametrize("name", [None, "tiny"])
def test_a_store_without_models_says_how_to_train_one(store: Store, name: str | None) -> None:
    with pytest.raises(StoreError, match="slidewatch train"):
        find_card(store, name)


def test_a_model_is_never_overwritten(store_with_model: Store) -> None:
    before = store_with_model.read_bytes("models", "tiny", "card.json")
    with pytest.raises(StoreError, match=re.escape("model tiny exists already")):
        add_model(store_with_model, "tiny", later=1)
    with pytest.raises(StoreError, match="choose another name"):
        refuse_existing(store_with_model, "tiny")
    assert store_with_model.read_bytes("models", "tiny", "card.json") == before


@pytest.mark.parametrize("name", ["..", "a/b", "", "🩸"])
def test_a_model_name_that_is_no_folder_is_refused(store_with_model: Store, name: str) -> None:
    with pytest.raises(StoreError, match="is no model name"):
        add_model(store_with_model, name, later=1)
    with pytest.raises(StoreError, match="is no model name"):
        load_card(store_with_model, name)


def test_weights_that_are_not_the_cards_are_refused(store_with_model: Store) -> None:
    content = bytearray(store_with_model.read_bytes("models", "tiny", "model.safetensors"))
    content[-1] ^= 1
    store_with_model.write_bytes(bytes(content), "models", "tiny", "model.safetensors")
    with pytest.raises(StoreError, match=r"model\.safetensors is not the file .*sha256 differs"):
        load_weights(store_with_model, load_card(store_with_model, "tiny"))


def test_a_model_whose_card_was_never_written_does_not_exist(store_with_model: Store) -> None:
    store_with_model.write_bytes(b"half", "models", "killed", "model.safetensors")
    assert [card.name for card in list_models(store_with_model)] == ["tiny"]
    add_model(store_with_model, "killed", later=1)
    load_weights(store_with_model, load_card(store_with_model, "killed"))
