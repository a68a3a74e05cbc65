"""Compare training recipes by stains that they have not seen: leave one stain out, train, test.

    python -m tests.benchmarks.recipe_trial TO MANIFEST [RECIPE ...]

Patients of cell_images.zip are clustered by the colour of their cells. A recipe is trained without
one cluster and tested on it, and on red cells of fields.zip, every one of which is healthy. No
foreign laboratory with parasites is looked at, so that figures reported on those stay honest.
MANIFEST is that of a segmentation of fields.zip with the defaults. Each training writes a line of
JSON to the file TO, and is not repeated when its line is there.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from flows.jobs.worker import keep_freed_memory
from tasks.evaluation.metrics import auroc
from tasks.images.listing import list_images
from tasks.images.regions import image_refs
from tasks.network.augmentation import Augmentation
from tasks.network.backbones import DEFAULT_NETWORK, build, network_spec
from tasks.network.classifier import Classifier
from tasks.network.extraction import load_images
from tasks.network.split import deal, mean_absorbance, stain_clusters
from tasks.network.training import TrainingPlan, predict, train
from tests.support.networks import MILD
from tests.support.paths import DATA

CLASSES = ("Parasitized", "Uninfected")
SIDE = 64
GREY = 160.0  # of 255
TRAINED, TESTED = 120, 200  # cells of a patient, at most

PLAN = TrainingPlan()
COLOUR = Augmentation(
    stain_scale=0.5, stain_shift=0.2, gamma=0.5, mixing=0.25, gain=0.35, channel_gain=0.25,
    marked=0.0,
)  # fmt: skip


Pixels = NDArray[np.uint8]


class _Unmoved(nn.BatchNorm2d):
    """Normalise by the statistics that it started with, in training too."""

    def train(self, mode: bool = True) -> "_Unmoved":
        return super().train(False)


def statistics_kept(classifier: Classifier) -> None:
    """Let every batch norm learn its scale and shift, and keep ImageNet's mean and variance."""
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = type("", (_Unmoved, type(module)), {})


def grey_world(pixels: Pixels) -> Pixels:
    """Give each image's mean lit colour the same grey (Buchsbaum 1980)."""
    made = np.empty_like(pixels)
    for start in range(0, len(pixels), 256):
        some = pixels[start : start + 256].astype(np.float32)
        lit = some.max(axis=3, keepdims=True) > 0
        mean = some.sum(axis=(1, 2), keepdims=True) / lit.sum(axis=(1, 2), keepdims=True).clip(1)
        made[start : start + 256] = (some * GREY / mean.clip(1.0)).clip(0, 255).round()
    return made


@dataclass(frozen=True)
class Recipe:
    """Hold the change of one of the trials.

    ``frozen`` are the stages that stay frozen, ``prepared`` changes images before they are seen,
    and ``rebuilt`` the network before it is trained.
    """

    plan: TrainingPlan = PLAN
    frozen: tuple[str, ...] | None = None
    side: int = SIDE
    prepared: Callable[[Pixels], Pixels] = lambda pixels: pixels
    rebuilt: Callable[[Classifier], None] = lambda classifier: None


DEFAULT = "strong, weights averaged, marks"
BEFORE = "0.2: gains .1 / .05, 4 epochs"
UNMARKED = replace(PLAN, augmentation=replace(PLAN.augmentation, marked=0.0))
STRONG = replace(UNMARKED, averaging=0.0)
RECIPES = {
    BEFORE: Recipe(replace(STRONG, epochs=4, augmentation=MILD)),
    "0.2, side 96": Recipe(replace(STRONG, epochs=4, augmentation=MILD), side=96),
    "0.2, 8 epochs": Recipe(replace(STRONG, augmentation=MILD)),
    "strong": Recipe(STRONG),
    "strong, weights averaged": Recipe(UNMARKED),
    DEFAULT: Recipe(),
    "the same, half the marks": Recipe(
        replace(PLAN, augmentation=replace(PLAN.augmentation, marked=0.15))
    ),
    "the same, twice the marks": Recipe(
        replace(PLAN, augmentation=replace(PLAN.augmentation, marked=0.6))
    ),
    "the same, labels smoothed by .1": Recipe(replace(PLAN, label_smoothing=0.1)),
    "the same, two images mixed (mixup, .2)": Recipe(replace(PLAN, mixup=0.2)),
    "the same, nothing frozen": Recipe(frozen=()),
    "the same, statistics of batch norm kept": Recipe(rebuilt=statistics_kept),
    "the same, grey-world colours": Recipe(prepared=grey_world),
    "the same, 16 epochs": Recipe(replace(PLAN, epochs=16)),
    "the same, side 96": Recipe(side=96),
    "the same, side 128": Recipe(side=128),
    "strong, no degraded images": Recipe(
        replace(STRONG, augmentation=replace(STRONG.augmentation, degraded=0.0))
    ),
    "colours varied twice as far": Recipe(replace(STRONG, augmentation=COLOUR)),
}


@dataclass(frozen=True)
class Cells:
    """Cells as a network sees them, and what is known of them."""

    pixels: Pixels
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    stains: NDArray[np.intp]


@cache
def cells(side: int = SIDE) -> Cells:
    """Read the malaria cells at a side."""
    table = list_images(str(DATA / "cell_images.zip"), classes=CLASSES)
    pixels = np.stack([each.pixels for each in load_images(image_refs(table), side, threads=2)])
    patients = np.asarray(table["patient_id"].to_pylist())
    return Cells(
        pixels,
        np.asarray([CLASSES.index(label) for label in table["label"].to_pylist()]),
        patients,
        stain_clusters(mean_absorbance(pixels), patients.tolist()),
    )


@cache
def healthy(manifest: Path, side: int = SIDE) -> Pixels:
    """Read the red cells of a segmentation's manifest, which are of another laboratory."""
    table = pq.read_table(manifest)
    red = table.filter(pc.equal(table["kind"], "red"))
    loaded = load_images(image_refs(red), side, threads=2)
    return np.stack([each.pixels for each in loaded if each.pixels is not None])


def few(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
    """Choose at most so many rows of each patient."""
    rng, found = np.random.default_rng(0), []
    shuffled = rng.permutation(rows)
    patients = cells().patients[shuffled]
    for patient in np.unique(patients):
        found.append(shuffled[patients == patient][:most])
    return np.concatenate(found)


def one_trial(recipe: Recipe, stain: int, manifest: Path) -> dict[str, float]:
    """Train without a stain, and test on it."""
    data = cells()
    pixels = recipe.prepared(cells(recipe.side).pixels)
    seen = few(np.flatnonzero(data.stains != stain), TRAINED)
    unseen = few(np.flatnonzero(data.stains == stain), TESTED)
    parts = deal(
        data.patients[seen].tolist(), data.labels[seen], {"train": 0.88, "validation": 0.12}, seed=0
    )
    rows = {name: seen[np.isin(data.patients[seen], keys)] for name, keys in parts.items()}
    keep_freed_memory()
    torch.manual_seed(0)
    spec = network_spec(DEFAULT_NETWORK, CLASSES, recipe.side, frozen=recipe.frozen)
    classifier = build(spec, "imagenet")
    recipe.rebuilt(classifier)
    started = time.process_time()
    train(
        classifier, pixels, data.labels, rows["train"], rows["validation"], recipe.plan,
        lambda epoch: print(epoch, file=sys.stderr, flush=True),
    )  # fmt: skip
    seconds = time.process_time() - started
    logits = predict(classifier, pixels, unseen)
    odds, truth = logits[:, 0] - logits[:, 1], data.labels[unseen]
    foreign = np.subtract(*predict(classifier, recipe.prepared(healthy(manifest, recipe.side))).T)
    return {
        "AUROC": auroc(truth == 0, odds),
        "accuracy": float(np.mean((odds < 0) == (truth == 1))),
        "healthy": float(np.mean(foreign > 0)),
        "healthy_at_95": float(np.mean(foreign > np.quantile(odds[truth == 0], 0.05))),
        "seconds": seconds,
    }


def trials(to: Path, manifest: Path, names: list[str]) -> list[dict[str, object]]:
    """Make the trials whose lines are not in the file yet, and read all lines."""
    done = {(d["recipe"], d["stain"]) for d in _lines(to)}
    for name in names:
        for stain in range(int(cells().stains.max()) + 1):
            if (name, stain) not in done:
                found = one_trial(RECIPES[name], stain, manifest)
                with to.open("a") as file:
                    file.write(json.dumps({"recipe": name, "stain": stain, **found}) + "\n")
    return _lines(to)


def _lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


if __name__ == "__main__":
    trials(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(RECIPES))
