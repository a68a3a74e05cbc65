from pathlib import Path

import numpy as np
import pytest

from storage.models import classifiers, detectors
from storage.models.tunings import BatchTuning, load_tuning, save_tuning
from storage.records import arrays_to_bytes
from storage.store import Store, StoreError
from tests.support.cards import CONTENT, card
from tests.support.shipping import ship
from tests.system.golden import values
from tests.system.golden.stores import newest


def test_a_detector_comes_back_with_its_arrays(store: Store) -> None:
    detectors.save_detector(store, card("d"), CONTENT)
    back = detectors.load_detector_card(store, "d")
    assert back == card("d")
    np.testing.assert_array_equal(
        detectors.load_detector(store, back)["calibration/scores"], [0.0, 1.0, 2.0]
    )


def test_a_detector_is_never_overwritten(store: Store) -> None:
    detectors.save_detector(store, card("d"), CONTENT)
    other = arrays_to_bytes({"calibration/scores": np.zeros(3)})
    with pytest.raises(StoreError, match=r"detector d exists already, .*never overwritten"):
        detectors.save_detector(store, card("d", later=1, content=other), other)
    assert detectors.load_detector_card(store, "d") == card("d")
    detectors.load_detector(store, card("d"))


def test_the_newest_detector_is_the_default_and_names_settle_a_tie(store: Store) -> None:
    for name, later in (("z", 0), ("a", 2), ("b", 2), ("c", 1)):
        detectors.save_detector(store, card(name, later), CONTENT)
    assert [each.name for each in detectors.list_detectors(store)] == ["z", "c", "a", "b"]
    assert detectors.load_detector_card(store).name == "b"
    assert detectors.load_detector_card(store, "z").name == "z"


def test_a_name_without_a_version_is_its_newest_one_and_never_the_default(store: Store) -> None:
    names = ("fitted", "kampala-v0001", "kampala-v0010", "kampala-v0002", "kampala-2-v0011")
    for number, name in enumerate(names):
        parent = "fitted" if number else None
        made = card(name).model_copy(update={"sequence": number, "parent": parent})
        detectors.save_detector(store, made, CONTENT)
    assert detectors.load_detector_card(store, "kampala").name == "kampala-v0010"
    assert detectors.load_detector_card(store, "kampala-v0002").name == "kampala-v0002"
    assert detectors.next_version(store, "kampala") == "kampala-v0011"
    assert detectors.next_version(store, "lima") == "lima-v0001"
    assert detectors.load_detector_card(store).name == "fitted"
    store.remove("detectors", "fitted")
    with pytest.raises(StoreError, match=r"no fitted detector in .*: say --detector kampala"):
        detectors.load_detector_card(store)


def test_all_that_a_detector_needs_is_lent(store: Store, tmp_path: Path) -> None:
    golden = newest(tmp_path / "golden")
    made = detectors.load_detector_card(golden, "kampala")
    tuning = save_tuning(golden, made.model, CONTENT)
    tuned = {"name": "kampala-v0002", "tuning": BatchTuning(tuning=tuning, why="")}
    content = golden.read_bytes("detectors", made.name, "detector.safetensors")
    made = made.model_copy(update=tuned)
    detectors.save_detector(golden, made, content)
    detectors.borrow(golden, store, made)
    assert detectors.load_detector_card(store, "kampala") == made
    assert detectors.load_detector(store, made).keys() == values.AT_LABORATORY.keys()
    assert detectors.load_model_of(store, made).name == "golden"
    assert load_tuning(store, "golden", tuning)


def test_an_unknown_detector_is_answered_with_those_that_there_are(store: Store) -> None:
    for name in ("second", "first"):
        detectors.save_detector(store, card(name), CONTENT)
    with pytest.raises(StoreError, match=r"no detector 'frist' in .*; did you mean first\?$"):
        detectors.load_detector_card(store, "frist")


@pytest.mark.parametrize("name", [None, "d"])
def test_a_store_without_detectors_says_how_to_make_one(
    store: Store, name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ship(monkeypatch, tmp_path / "none")
    with pytest.raises(StoreError, match="slidewatch fit"):
        detectors.load_detector_card(store, name)


@pytest.mark.parametrize("name", ["..", "a/b", "", "🩸", "a\n"])
def test_a_detector_name_that_is_no_folder_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="is no detector name"):
        detectors.save_detector(store, card(name), CONTENT)
    with pytest.raises(StoreError, match="is no detector name"):
        detectors.load_detector_card(store, name)


def test_a_detector_names_its_very_model(store_with_model: Store) -> None:
    store = store_with_model
    model = classifiers.load_card(store, "tiny")
    made = card("d").model_copy(update={"model_digest": model.digest})
    assert detectors.load_model_of(store, made) == model
    with pytest.raises(StoreError, match=r"model tiny is not the one that detector d .* fit a"):
        detectors.load_model_of(store, card("d"))
    with pytest.raises(StoreError, match="no model 'huge'"):
        detectors.load_model_of(store, made.model_copy(update={"model": "huge"}))


def test_what_is_loaded_for_a_card_is_cached_by_its_digest() -> None:
    again = detectors.DetectorCard.model_validate_json(card("d").model_dump_json())
    assert again is not card("d")
    assert hash(again) == hash(card("d"))
    assert {card("d"): "loaded"}[again] == "loaded"
    assert card("d").model_copy(update={"digest": "other"}) not in {card("d")}
    assert card("d").model_copy(update={"alpha": 0.5}) not in {card("d")}
