"""Training end to end, on rendered cells."""

from pathlib import Path

import pytest

from flows.settings import Settings
from flows.train import TrainOutcome, train
from storage.models.classifiers import load_card
from storage.store import Store, StoreError
from tasks.images.files import SourceError
from tests.support.fitted import CELLS, PATIENTS, copied

pytestmark = pytest.mark.usefixtures("prefect_api")


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


def test_a_model_is_never_overwritten(images: Path, settings: Settings) -> None:
    before = (Path(settings.store) / "models" / "m" / "card.json").read_bytes()
    with pytest.raises(StoreError, match="never overwritten"):
        train(str(images / "smears"), model="m", epochs=1, side=32, settings=settings)
    assert (Path(settings.store) / "models" / "m" / "card.json").read_bytes() == before


def test_training_without_labels_says_what_is_missing(images: Path, settings: Settings) -> None:
    with pytest.raises(SourceError, match="Parasitized and Uninfected"):
        train(str(images / "night"), model="n", settings=settings)
