"""The detector that comes with slidewatch, in a store that has none."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from flows.settings import Settings
from flows.smears.jobs.known_cells import fitted_classes
from storage.models import detectors, shipped
from storage.store import Store, StoreError
from tasks.detector.witnesses import Witnesses
from tasks.types import below
from tests.support.fitted import copied
from tests.support.shipping import ship
from tests.support.stalls import Moments

SIZE = 16 * 2**20  # bytes of the model and the detector together


@pytest.fixture
def with_tiny(tiny_fitted: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The package with another detector in it."""
    package = Store(copied(tiny_fitted, tmp_path / "package").store)
    ship(monkeypatch, package.root)
    return package


def test_a_new_store_is_given_it(with_tiny: Store, store: Store) -> None:
    card = detectors.load_detector_card(store)
    assert card == detectors.load_detector_card(with_tiny)
    assert detectors.load_model_of(store, card) == detectors.load_model_of(with_tiny, card)
    assert detectors.load_detector(store, card).keys()


def test_a_name_asks_for_no_other(with_tiny: Store, store: Store) -> None:
    with pytest.raises(StoreError, match="no detector"):
        detectors.load_detector_card(store, "mine")


def test_a_run_that_dies_while_it_copies_it_is_finished_by_the_next(
    with_tiny: Store, store: Store
) -> None:
    def die() -> None:
        raise InterruptedError

    for at in range(4):  # two files and two cards
        with Moments(at, die).watched(), pytest.raises(InterruptedError):
            detectors.load_detector_card(store)
    card = detectors.load_detector_card(store)
    assert shipped.digest_of_files(store) == shipped.DIGEST
    assert detectors.load_detector(store, card).keys()


@pytest.mark.parametrize("what", ["exchanged", "altered", "gone"])
def test_another_one_in_the_package_is_refused_with_a_remedy(
    with_tiny: Store, store: Store, what: str
) -> None:
    """An exchanged one is whole: its cards describe its files."""
    card = detectors.load_detector_card(with_tiny)
    folder = Path(with_tiny.path("detectors", card.name))
    arrays = (folder / "detector.safetensors").read_bytes()
    shutil.rmtree(folder)
    if what == "exchanged":
        detectors.save_detector(with_tiny, card.model_copy(update={"alpha": 0.5}), arrays)
    elif what == "altered":
        detectors.save_detector(with_tiny, card, arrays)
        (folder / "detector.safetensors").write_bytes(arrays[:-1] + b"\0")
    for asked in (lambda: detectors.load_detector_card(store), shipped.shipped):
        with pytest.raises(StoreError, match="install slidewatch again"):
            asked()
    assert not store.names()


def test_what_is_in_the_package_is_small_and_undamaged() -> None:
    files = [path for path in shipped.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= SIZE
    store = shipped.shipped()
    card = detectors.load_detector_card(store)
    arrays = detectors.load_detector(store, card)
    # A laboratory is learned by the classes that the discriminant was made of.
    made = fitted_classes(store, card, 0).discriminant().weights
    kept = Witnesses.from_arrays(below("witnesses", arrays)).discriminant.weights
    assert all(np.allclose(made[tap], kept[tap]) for tap in kept)
    sources = detectors.load_model_of(store, card).training["images"]
    assert not [source for source in sources if "=/" in source]  # no folder of a machine
