"""The detector that comes with slidewatch, in a store that has none."""

from pathlib import Path

import pytest

from flows.settings import Settings
from storage.models import detectors, shipped
from storage.store import Store, StoreError

SIZE = 16 * 2**20  # bytes of the model and the detector together


@pytest.fixture
def with_tiny(tiny_ready: Settings, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The package with another detector in it."""
    monkeypatch.setattr(shipped, "FOLDER", Path(tiny_ready.store))
    return Store(tiny_ready.store)


def test_a_new_store_is_given_it(with_tiny: Store, store: Store) -> None:
    card = detectors.load_detector_card(store)
    assert card == detectors.load_detector_card(with_tiny)
    assert detectors.load_model_of(store, card) == detectors.load_model_of(with_tiny, card)
    assert detectors.load_detector(store, card).keys()


def test_a_name_asks_for_no_other(with_tiny: Store, store: Store) -> None:
    with pytest.raises(StoreError, match="no detector"):
        detectors.load_detector_card(store, "mine")


def test_what_is_in_the_package_is_small_and_undamaged() -> None:
    files = [path for path in shipped.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= SIZE
    store = shipped.shipped()
    card = detectors.load_detector_card(store)
    detectors.load_detector(store, card)
    sources = detectors.load_model_of(store, card).training["images"]
    assert not [source for source in sources if "=/" in source]  # no folder of a machine
