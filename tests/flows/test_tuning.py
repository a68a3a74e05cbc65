"""The tuning of a network to a laboratory, from the command's flows to the store."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.commands.status import verify
from flows.fit import fit
from flows.jobs import tuning
from flows.monitoring import logs
from flows.options.flows import Commission, Fit, Screen
from flows.options.tools import Verify
from flows.settings import Settings
from flows.smears.night import screen
from flows.stages import batch as extraction
from storage.batches.features import read_block
from storage.batches.manifests import load_batch
from storage.models.detectors import load_detector_card
from storage.models.tunings import BatchTuning, tuning_of
from storage.store import Store
from tests.support.commissioned import learn
from tests.support.fitted import copied
from tests.support.images import write_cells


@pytest.fixture(scope="module")
def made(by_slides: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store with a detector that knows slides, from patients of 40 cells."""
    return copied(by_slides, tmp_path_factory.mktemp("tuned") / "store")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night")
    for path in write_cells(folder, 3, 40, seed=9, first=60, parasitized=0.1).rglob("*.png"):
        stained = np.asarray(Image.open(path).convert("RGB")) * (0.8, 0.9, 1.0)
        Image.fromarray(stained.astype(np.uint8)).save(path)
    return folder


def tuned_to(settings: Settings, batch: str) -> BatchTuning:
    store = Store(settings.store)
    found = tuning_of(store, load_batch(store, batch), "m")
    assert found is not None
    return found


def taps(settings: Settings, batch: str, model: str) -> dict[str, np.ndarray]:
    store = Store(settings.store)
    known = load_batch(store, batch)
    block = read_block(store, model, known.key, 0, known.rows)
    return {**block.taps, "logits": block.logits}


def test_a_night_of_blood_is_tuned_to_and_its_distances_are_not(
    made: Settings, night: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger=logs.PROGRAM)
    screen.fn(Screen(images=str(night), batch="first"), made)
    found = tuned_to(made, "first")
    assert found.tuning is not None
    assert "the network is tuned to batch first: by " in caplog.text
    fit.fn(Fit(images=str(night), batch="plain"), made)
    assert tuned_to(made, "plain").tuning is None  # as `fit` has made its features
    tuned, without = taps(made, "first", f"m+{found.tuning[:16]}"), taps(made, "plain", "m")
    assert np.array_equal(tuned["blocks.2"], without["blocks.2"])
    assert np.array_equal(tuned["blocks.3"], without["blocks.3"])
    assert not np.allclose(tuned["logits"], without["logits"], atol=1e-4)
    assert not verify(Verify(), made).failed


def test_what_looks_like_training_is_not_tuned_to(made: Settings, tmp_path: Path) -> None:
    write_cells(tmp_path, 3, 40, seed=9, first=60, parasitized=0.1)
    screen.fn(Screen(images=str(tmp_path), batch="home"), made)
    assert tuned_to(made, "home").why == "its cells look like those that trained the network"


def test_rubbish_is_not_tuned_to(made: Settings, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"picture {number}.png")
    screen.fn(Screen(images=str(tmp_path), batch="noise"), made)
    found = tuned_to(made, "noise")
    assert found.tuning is None
    assert "no smear of blood" in found.why


def test_the_same_night_has_the_same_tuning_and_a_resumed_one_keeps_it(
    made: Settings, night: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "prepare_features", killed)
        with pytest.raises(KeyboardInterrupt):
            screen.fn(Screen(images=str(night), batch="second"), made)
    assert tuned_to(made, "second") == tuned_to(made, "first")
    monkeypatch.setattr("flows.screen.measure_tuning", killed)
    screen.fn(Screen(images=str(night), batch="second"), made)
    name = f"m+{str(tuned_to(made, 'first').tuning)[:16]}"
    first, second = taps(made, "first", name), taps(made, "second", name)
    assert all(np.array_equal(values, second[tap]) for tap, values in first.items())


@pytest.mark.slow
def test_later_nights_of_a_laboratory_have_the_tuning_of_its_first(
    made: Settings, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(Commission(images=str(night), laboratory="lab", batch="commissioned"), made)
    known = load_detector_card(Store(made.store), "lab").tuning
    assert known is not None
    assert known.tuning == tuned_to(made, "commissioned").tuning is not None
    monkeypatch.setattr("flows.screen.measure_tuning", None)
    write_cells(tmp_path, 2, 30, seed=11, first=80, parasitized=0.1)
    screen.fn(Screen(images=str(tmp_path), batch="later", detector="lab"), made)
    assert tuned_to(made, "later") == known
    learn(Commission(images=str(tmp_path), laboratory="lab", batch="later"), made)
    newest = load_detector_card(Store(made.store), "lab")
    assert (newest.name, newest.tuning) == ("lab-v0002", known)


def test_a_night_of_few_cells_is_not_tuned_to(made: Settings, tmp_path: Path) -> None:
    write_cells(tmp_path, 1, tuning.LEAST, seed=13, first=90)
    short = min(tmp_path.rglob("*.png"))
    short.write_bytes(short.read_bytes()[:100])
    screen.fn(Screen(images=str(tmp_path), batch="short"), made)
    assert tuned_to(made, "short").why == "29 of its cells can be read, and 30 are needed"
    short.unlink()
    screen.fn(Screen(images=str(tmp_path), batch="few"), made)
    assert tuned_to(made, "few").why == "it has 29 whole cells, and 30 are needed"
