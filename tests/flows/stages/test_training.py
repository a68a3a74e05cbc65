import inspect
from datetime import UTC, datetime

import pytest

from flows.stages.training import TrainingRecipe
from flows.train import train
from storage.models.classifiers import ModelCard
from storage.store import StoreError
from tasks.network.classifier import NetworkSpec
from tasks.network.training import TrainingPlan

RECIPE = TrainingRecipe(
    images="s3://smears/*.png",
    limit=None,
    network=NetworkSpec(
        network="timm:resnet18",
        classes=("Parasitized", "Uninfected"),
        taps=("layer1", "layer2"),
        frozen=(),
        side=48,
        mean=(0.5, 0.5, 0.5),
        std=(0.2, 0.2, 0.2),
    ),
    weights="scratch",
    fractions=(0.6, 0.2, 0.2),
    plan=TrainingPlan(epochs=3, peak_rate=0.01, seed=7),
)


def card(**training: object) -> ModelCard:
    made = ModelCard(
        name="m", created_at=datetime(2026, 1, 3, tzinfo=UTC), digest="0" * 64,
        network=RECIPE.network.as_dict(), preprocessing="RGB", tap_widths={}, temperature=1.0,
        split_by="patient", split={}, training=dict(training), metrics={}, versions={},
    )  # fmt: skip
    return ModelCard.model_validate_json(made.model_dump_json())


def test_a_recipe_comes_back_from_the_card_of_its_model() -> None:
    assert TrainingRecipe.from_card(card(**RECIPE.as_dict(), history=[])) == RECIPE


def test_a_card_without_fractions_is_no_recipe() -> None:
    kept = RECIPE.as_dict()
    del kept["fractions"]
    with pytest.raises(StoreError, match=r"model m, made by an older slidewatch.*train it anew"):
        TrainingRecipe.from_card(card(**kept))


def test_a_recipe_with_another_seed_differs_in_nothing_else() -> None:
    options, others = RECIPE.options(), RECIPE.with_seed(8).options()
    assert others == options | {"seed": 8}
    assert RECIPE.with_seed(7) == RECIPE


def test_a_recipe_has_every_option_of_training_but_the_name() -> None:
    names = inspect.signature(train.fn).parameters.keys()
    assert RECIPE.options().keys() == names - {"model", "settings"}
