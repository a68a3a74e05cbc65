from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from flows.stages.training import recipes
from flows.stages.training.labelled_images import LabelledImages
from flows.stages.training.recipes import TrainingRecipe, graph_in_int8, training_digest
from tasks.network.backbones import DEFAULT_NETWORK
from tasks.network.spec import NetworkSpec
from tasks.network.training import TrainingPlan
from tests.support.networks import classifier, images

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
        distance_taps=(),
        arithmetic="float32",
    ),
    weights="scratch",
    fractions=(0.6, 0.2, 0.2),
    plan=TrainingPlan(epochs=3, peak_rate=0.01, seed=7),
)


def labelled(pixels: NDArray[np.uint8], labels: list[int]) -> LabelledImages:
    keys = [f"p{i}" for i in range(len(labels))]
    rows = pa.table({"uri": keys})
    return LabelledImages(
        pixels, np.asarray(labels), keys, "patient", rows, {}, np.zeros(len(labels), bool)
    )


def test_a_training_is_named_by_all_that_decides_its_outcome() -> None:
    pixels = np.zeros((4, 48, 48, 3), np.uint8)
    other = pixels.copy()
    other[3, 0, 0, 0] = 1
    digests = [
        training_digest(RECIPE, labelled(pixels, [0, 1, 0, 1])),
        training_digest(RECIPE, labelled(other, [0, 1, 0, 1])),
        training_digest(RECIPE, labelled(pixels, [0, 1, 1, 1])),
        training_digest(
            replace(RECIPE, plan=replace(RECIPE.plan, seed=8)), labelled(pixels, [0, 1, 0, 1])
        ),
    ]
    assert len(set(digests)) == 4
    assert digests[0] == training_digest(RECIPE, labelled(pixels.copy(), [0, 1, 0, 1]))


@pytest.mark.slow
@pytest.mark.parametrize(("most_lost", "arithmetic"), [(1.0, "int8"), (-1.1, "float32")])
def test_a_network_that_integers_serve_worse_stays_in_float32(
    most_lost: float, arithmetic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = classifier(DEFAULT_NETWORK)
    monkeypatch.setattr(recipes, "MOST_LOST", most_lost)
    rows = {"train": np.arange(30), "validation": np.arange(30, 40)}
    graph, network = graph_in_int8(made, labelled(images(40), [0, 1] * 20), rows)
    assert made.spec.arithmetic == network.spec.arithmetic == arithmetic
    assert (graph is None) is (arithmetic == "float32")
