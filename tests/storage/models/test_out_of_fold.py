import pyarrow as pa
import pytest

from storage.models.classifiers import CrossValidation, ModelCard, load_card, save_model
from storage.models.out_of_fold import FILE, OUT_OF_FOLD, load_out_of_fold, save_out_of_fold
from storage.store import MissingError, Store, StoreError
from storage.verification import all_checks

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


def save(store: Store) -> ModelCard:
    tiny = load_card(store, "tiny")
    digest = save_out_of_fold(store, "folded", TABLE)
    figures = CrossValidation(digest=digest, folds=2, metrics=[{"metric": "AUROC", "value": None}])
    card = tiny.model_copy(update={"name": "folded", "cross_validation": figures})
    save_model(store, card, store.read_bytes("models", "tiny", "model.safetensors"))
    return load_card(store, "folded")


def test_a_table_comes_back_with_its_figures(store_with_model: Store) -> None:
    card = save(store_with_model)
    found = load_out_of_fold(store_with_model, card)
    assert found is not None
    assert found.equals(TABLE)
    assert found.schema.field("log_odds").metadata == OUT_OF_FOLD.field("log_odds").metadata
    assert card.cross_validation is not None
    assert card.cross_validation.folds == 2


def test_a_model_without_folds_has_no_table(store_with_model: Store) -> None:
    assert load_out_of_fold(store_with_model, load_card(store_with_model, "tiny")) is None


def test_another_table_is_refused_and_verify_names_it(store_with_model: Store) -> None:
    card = save(store_with_model)
    save_out_of_fold(store_with_model, "folded", TABLE.slice(1))
    with pytest.raises(StoreError, match=r"out_of_fold\.parquet is not the file"):
        load_out_of_fold(store_with_model, card)
    (check,) = [c for c in all_checks(store_with_model) if c.path == "models/folded"]
    with pytest.raises(StoreError, match="sha256 differs"):
        check.verify()
    store_with_model.remove("models", "folded", FILE)
    with pytest.raises(MissingError):
        load_out_of_fold(store_with_model, card)
