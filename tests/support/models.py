"""A network of half a million weights, and stores that hold it as an untrained model."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from storage.store import Store, digest_of
from tests.support.kept import kept

if TYPE_CHECKING:
    from tasks.network.spec import NetworkSpec

CLASSES = ("Parasitized", "Uninfected")
HELD_OUT = "C104P4"
WHEN = datetime(2026, 1, 3, 8, tzinfo=UTC)


@pytest.fixture(scope="session")
def spec() -> "NetworkSpec":
    """A network of half a million weights."""
    from tasks.network.backbones import network_spec

    return network_spec(
        "timm:test_resnet",
        CLASSES,
        32,
        taps=("layer1", "layer2"),
        frozen=("conv1", "bn1", "layer1"),
    )


def store_with_tiny(root: Path, spec: "NetworkSpec") -> Store:
    """Make a store that holds an untrained network as the model ``tiny``."""
    import torch

    from flows.stages.training.recipes import weights_to_bytes
    from storage.models.classifiers import ModelCard, save_model
    from tasks.network.backbones import build
    from tasks.network.classifier import tap_widths

    torch.manual_seed(0)
    classifier = build(spec)
    torch.nn.init.normal_(classifier.backbone.get_submodule("fc").weight)
    weights = weights_to_bytes(classifier)
    card = ModelCard(
        name="tiny",
        created_at=WHEN,
        digest=digest_of(weights),
        network=spec.as_dict(),
        preprocessing="RGB",
        tap_widths=tap_widths(classifier),
        temperature=1.5,
        split_by="patient",
        split={"train": ["C101P1", "C102P2"], "validation": [], "test": [HELD_OUT]},
        training={},
        metrics={},
        versions={},
        sequence=0,
    )
    made = Store(str(root))
    save_model(made, card, weights)
    return made


@pytest.fixture(scope="session")
def _store_with_model(spec: "NetworkSpec") -> Store:
    folder = kept("tiny", lambda folder: store_with_tiny(folder / "store", spec))
    return Store(str(folder / "store"))


@pytest.fixture
def store_with_model(tmp_path: Path, _store_with_model: Store) -> Store:
    """A store of one's own that holds the untrained model ``tiny``."""
    shutil.copytree(_store_with_model.root, tmp_path / "store")
    return Store(str(tmp_path / "store"))
