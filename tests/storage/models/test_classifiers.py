import re
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from storage.kinds import all_checks
from storage.models.classifiers import (
    OUT_OF_FOLD,
    CrossValidation,
    ModelCard,
    find_card,
    list_models,
    load_card,
    load_out_of_fold,
    load_state,
    load_weights,
    refuse_existing,
    remove_states,
    save_model,
    save_out_of_fold,
    save_state,
)
from storage.store import MissingError, Store, StoreError

TABLE = pa.table(
    {
        "uri": ["a.png", "b.png"],
        "image_id": ["00", "11"],
        "patient_id": ["C1", None],
        "slide_id": [None, "s"],
        "label": ["Parasitized", "Uninfected"],
        "fold": [0, 1],
        "log_odds": [2.5, -1.0],
        "probability": [0.9, 0.3],
        "network": [2.0, -0.5],
        "statistics": [1.5, None],
        "stain": [0, 0],
    }
).cast(OUT_OF_FOLD)


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


def test_a_model_whose_card_was_never_written_does_not_exist(store_with_model: Store) -> None:
    store_with_model.write_bytes(b"half", "models", "killed", "model.safetensors")
    assert [card.name for card in list_models(store_with_model)] == ["tiny"]
    add_model(store_with_model, "killed", later=1)
    load_weights(store_with_model, load_card(store_with_model, "killed"))


# --- Out of fold ---------------------------------------------------------------------------------


def save_folded(store: Store) -> ModelCard:
    tiny = load_card(store, "tiny")
    digest = save_out_of_fold(store, "folded", TABLE)
    figures = CrossValidation(digest=digest, folds=2, metrics=[{"metric": "AUROC", "value": None}])
    card = tiny.model_copy(update={"name": "folded", "cross_validation": figures})
    save_model(store, card, store.read_bytes("models", "tiny", "model.safetensors"))
    return load_card(store, "folded")


def test_a_table_comes_back_with_its_figures(store_with_model: Store) -> None:
    card = save_folded(store_with_model)
    found = load_out_of_fold(store_with_model, card)
    assert found is not None
    assert found.equals(TABLE)
    assert found.schema.field("log_odds").metadata == OUT_OF_FOLD.field("log_odds").metadata
    assert card.cross_validation is not None
    assert card.cross_validation.folds == 2
    # A model without folds has none.
    assert load_out_of_fold(store_with_model, load_card(store_with_model, "tiny")) is None


def test_another_table_is_refused_and_verify_names_it(store_with_model: Store) -> None:
    card = save_folded(store_with_model)
    save_out_of_fold(store_with_model, "folded", TABLE.slice(1))
    with pytest.raises(StoreError, match=r"out_of_fold\.parquet is not the file"):
        load_out_of_fold(store_with_model, card)
    (check,) = [c for c in all_checks(store_with_model) if c.path == "models/folded"]
    with pytest.raises(StoreError, match="sha256 differs"):
        check.verify()
    store_with_model.remove("models", "folded", "out_of_fold.parquet")
    with pytest.raises(MissingError):
        load_out_of_fold(store_with_model, card)


# --- Unfinished trainings ------------------------------------------------------------------------


def state(value: int) -> dict[str, np.ndarray]:
    return {"model/w": np.full((2, 2), value, np.float32), "model/n": np.array(value)}


def test_the_newest_state_comes_back_and_the_others_are_gone(store: Store) -> None:
    assert load_state(store, "t", print) is None
    for epoch in (1, 2, 3):
        save_state(store, "t", epoch, state(epoch))
    found = load_state(store, "t", print)
    assert found is not None
    assert found["model/w"].tolist() == [[3, 3], [3, 3]]
    assert found["model/n"].shape == ()
    assert store.names("trainings", "t") == ["epoch-0003.json", "epoch-0003.safetensors"]
    save_state(store, "other", 1, state(7))
    remove_states(store, "t")
    assert load_state(store, "t", print) is None
    assert load_state(store, "other", print) is not None


def test_a_damaged_state_is_told_of_and_training_begins_anew(store: Store) -> None:
    save_state(store, "t", 1, state(1))
    content = bytearray(store.read_bytes("trainings", "t", "epoch-0001.safetensors"))
    content[-1] ^= 1
    store.write_bytes(bytes(content), "trainings", "t", "epoch-0001.safetensors")
    told: list[str] = []
    assert load_state(store, "t", told.append) is None
    assert "epoch-0001.safetensors" in told[0]
    save_state(store, "t", 1, state(1))
    assert load_state(store, "t", told.append) is not None


def test_a_kill_between_two_states_leaves_the_newer(store: Store) -> None:
    save_state(store, "t", 1, state(1))
    old = {n: store.read_bytes("trainings", "t", n) for n in store.names("trainings", "t")}
    save_state(store, "t", 2, state(2))
    for name, content in old.items():
        store.write_bytes(content, "trainings", "t", name)
    found = load_state(store, "t", print)
    assert found is not None
    assert found["model/n"] == 2
