"""Training end to end, on rendered cells."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from flows import train as flow
from flows.jobs.networks import load_inference
from flows.options.flows import Train
from flows.settings import Settings
from flows.stages.training import recipes as stages
from flows.stages.training.labelled_images import load_labelled_images
from flows.train import TrainOutcome, train
from storage.models.classifiers import list_models, load_card, load_out_of_fold
from storage.records import Arrays, arrays_from_bytes, arrays_to_bytes
from storage.store import Store, digest_of
from tasks.detector.witnesses import LEAST_CELLS
from tasks.images.access.files import SourceError
from tasks.network.cutting import LOGITS
from tests.support.fitted import CELLS, PATIENTS, SMALL, copied


@pytest.fixture
def settings(trained: tuple[Settings, TrainOutcome], tmp_path: Path) -> Settings:
    """Settings of a store of one's own, with a trained model in it and nothing else."""
    return copied(trained[0], tmp_path / "store")


def test_a_model_is_split_by_patient_and_describes_itself(
    trained: tuple[Settings, TrainOutcome],
) -> None:
    settings, outcome = trained
    card = load_card(Store(settings.store), "m")
    parts = [set(names) for names in card.split.values()]
    assert card.split_by == "patient"
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == PATIENTS
    assert sum(outcome.images.values()) == PATIENTS * CELLS
    assert set(card.metrics) == {"accuracy", "AUROC", "sensitivity", "specificity"}
    assert card.tap_widths == {tap: card.tap_widths[tap] for tap in card.network["taps"]}
    assert len(card.training["history"]) == 1


def test_a_model_knows_how_cutting_a_cell_out_moves_its_features(settings: Settings) -> None:
    store = Store(settings.store)
    card = load_card(store, "m")
    inference = load_inference(store, card)
    assert inference.cutting is not None
    assert {name: len(shift) for name, shift in inference.cutting.items()} == {
        **card.tap_widths,
        LOGITS: 2,
    }
    assert all(shift.any() for shift in inference.cutting.values())
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    _, logits = inference.compared(noise, np.asarray([True, False]))
    _, plain = inference.run(noise)
    np.testing.assert_allclose(logits - plain, [-inference.cutting[LOGITS], [0, 0]], atol=1e-5)


def test_training_without_labels_says_what_is_missing(images: Path, settings: Settings) -> None:
    with pytest.raises(SourceError, match="Parasitized and Uninfected"):
        train.fn(Train(images=str(images / "night"), model="n"), settings)


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_where_it_was(
    images: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 2 of 3 is cut off in its middle; the same command goes on behind epoch 1."""
    options = {"epochs": 3, "side": 32, "limit": 96}
    smears, store = str(images / "smears"), Store(settings.store)
    train.fn(Train(images=smears, model="undisturbed", **options), settings)
    epochs: list[int] = []
    keep = stages.save_state

    def killed(_store: Store, training: str, epoch: int, arrays: Arrays) -> None:
        if epoch == 2:
            raise KeyboardInterrupt
        keep(_store, training, epoch, arrays)

    monkeypatch.setattr(stages, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        train.fn(Train(images=smears, model="resumed", **options), settings)
    monkeypatch.setattr(stages, "save_state", keep)
    monkeypatch.setattr(stages, "tell", lambda text: epochs.append(int(text.split()[1])))
    doing: list[str] = []
    monkeypatch.setattr(flow, "working", doing.append)
    train.fn(Train(images=smears, model="resumed", **options), settings)
    assert epochs == [2, 3]
    assert doing[-1] == "training the network"
    cards = [load_card(store, name) for name in ("undisturbed", "resumed")]
    assert cards[0].digest == cards[1].digest
    assert cards[0].temperature == cards[1].temperature
    assert len(cards[1].training["history"]) == 3
    kept = {name for each in store.names("trainings") for name in store.names("trainings", each)}
    assert kept == {"lease"}


def test_pixels_beyond_the_limit_lie_in_a_file(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = load_labelled_images(str(images / "smears"), 32, limit=96).pixels
    monkeypatch.setattr("flows.stages.training.labelled_images.MOST_IN_MEMORY", 0)
    in_file = load_labelled_images(str(images / "smears"), 32, limit=96).pixels
    assert isinstance(in_file, np.memmap)
    np.testing.assert_array_equal(in_file, in_memory)


@pytest.mark.slow
def test_a_model_says_from_which_weights_it_began(images: Path, settings: Settings) -> None:
    store = Store(settings.store)
    kept = settings.store + "/models/m/model.safetensors"
    begun = arrays_from_bytes(Path(kept).read_bytes())
    file = Path(settings.store).parent / "weights.safetensors"
    file.write_bytes(
        arrays_to_bytes({name.removeprefix("backbone."): a for name, a in begun.items()})
    )
    begun_from = {"weights": str(file), "licence": "CC0-1.0"}
    small = {"epochs": 1, "side": 32, "limit": 96, **SMALL, **begun_from}
    train.fn(Train(images=str(images / "smears"), model="n", **small), settings)
    training = load_card(store, "n").training
    assert training["licence"] == "CC0-1.0"
    assert training["weights_digest"] == digest_of(file.read_bytes())
    first = next(name for name, each in begun.items() if each.ndim == 4)  # a convolution
    now = arrays_from_bytes(Path(kept.replace("/m/", "/n/")).read_bytes())[first]
    assert np.corrcoef(now.ravel(), begun[first].ravel())[0, 1] > 0.9


@pytest.mark.slow
def test_folds_diagnose_every_image_without_its_patient(
    images: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the second fold costs neither the model nor the first fold."""
    options = {"epochs": 1, "side": 32, "arithmetic": "float32", **SMALL}
    smears, store = str(images / "smears"), Store(settings.store)
    keep, kept = stages.save_state, []

    def killed(_store: Store, training: str, epoch: int, arrays: Arrays) -> None:
        if training.endswith("fold-1-of-2"):
            raise KeyboardInterrupt
        keep(_store, training, epoch, arrays)

    monkeypatch.setattr(stages, "save_state", killed)
    with pytest.raises(KeyboardInterrupt):
        train.fn(Train(images=smears, model="folded", folds=2, **options), settings)
    assert "folded" not in {card.name for card in list_models(store)}
    monkeypatch.setattr(stages, "save_state", lambda *of: (kept.append(of[1][64:]), keep(*of)))
    outcome = train.fn(Train(images=smears, model="folded", folds=2, **options), settings)
    assert kept == ["-fold-1-of-2"]
    card = load_card(store, "folded")
    assert card.digest == load_card(store, "m").digest  # the model is that of without folds
    table = load_out_of_fold(store, card)
    assert table is not None
    assert table.num_rows == PATIENTS * CELLS == len(set(table["uri"].to_pylist()))
    by_patient = pc.count_distinct(
        table.group_by("patient_id").aggregate([("fold", "count_distinct")])["fold_count_distinct"]
    )
    assert by_patient.as_py() == 1
    # Both witnesses speak, the second by statistics of the fold's training patients alone.
    network, statistics, both, chance = (
        table[name].to_numpy() for name in ("network", "statistics", "log_odds", "probability")
    )
    assert np.isfinite(statistics).all()
    np.testing.assert_allclose(chance, 1 / (1 + np.exp(-both)))
    enough = len(both) // 2 >= LEAST_CELLS  # that the other fold calibrates on
    assert ((both == network).all()) == (not enough)
    assert card.cross_validation is not None
    assert outcome.folds == card.cross_validation.metrics
    assert {row["metric"] for row in outcome.folds} >= {"AUROC", "sensitivity at 0.003"}
    assert "folds: AUROC" in outcome.text()
