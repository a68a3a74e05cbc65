"""Train in steps: read a recipe, load its labelled images, train, and write the model's card."""

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from flows.jobs.versions import OF_A_MODEL, exact
from flows.monitoring.console import tell
from storage.arrays import arrays_to_bytes
from storage.models.classifiers import ModelCard
from storage.records import now
from storage.store import StoreError, digest_of
from tasks.evaluation.metrics import diagnosis_metrics
from tasks.images.decoding import RESIZE
from tasks.images.files import SourceError
from tasks.images.listing import class_numbers, list_images, named
from tasks.images.regions import image_refs
from tasks.network.classifier import Classifier, NetworkSpec, tap_widths
from tasks.network.features import load_images
from tasks.network.split import Split, SplitBy, split, split_by
from tasks.network.training import Epoch, TrainingPlan, fit_temperature, predict, train

CLASSES = ("Parasitized", "Uninfected")


@dataclass(frozen=True)
class TrainingRecipe:
    """The recipe of a model: the same recipe makes the same model.

    ``weights`` is where training starts: imagenet, scratch, or a file; ``fractions`` are shares of
    patients for training, validation and test.
    """

    images: str | list[str]
    limit: int | None
    network: NetworkSpec
    weights: str
    fractions: tuple[float, float, float]
    plan: TrainingPlan

    def as_dict(self) -> dict[str, Any]:
        """Write the recipe as plain data for a model's card, which has the network elsewhere."""
        return self.plan.as_dict() | {
            "images": self.images,
            "limit": self.limit,
            "fractions": self.fractions,
            "weights": self.weights,
        }

    @classmethod
    def from_card(cls, card: ModelCard) -> "TrainingRecipe":
        """Read the recipe of a model; StoreError where its card is too old to have one."""
        kept = card.training
        if "fractions" not in kept:
            raise StoreError(
                f"the card of model {card.name}, made by an older slidewatch, does not say how it "
                "was split: train it anew to repeat it with other seeds"
            )
        return cls(
            images=kept["images"],
            limit=kept["limit"],
            network=NetworkSpec.from_dict(card.network),
            weights=kept["weights"],
            fractions=tuple(kept["fractions"]),
            plan=TrainingPlan(
                epochs=kept["epochs"], peak_rate=kept["peak_rate"], seed=kept["seed"]
            ),
        )

    def with_seed(self, seed: int) -> "TrainingRecipe":
        """Copy the recipe with another seed."""
        return replace(self, plan=replace(self.plan, seed=seed))

    def options(self) -> dict[str, Any]:
        """List the options of the flow `train` that follow the recipe, ``images`` among them."""
        return {
            "images": self.images,
            "limit": self.limit,
            "network": self.network.network,
            "taps": list(self.network.taps),
            "frozen": list(self.network.frozen),
            "side": self.network.side,
            "weights": self.weights,
            "fractions": self.fractions,
            "epochs": self.plan.epochs,
            "rate": self.plan.peak_rate,
            "seed": self.plan.seed,
        }


@dataclass(frozen=True)
class LabelledImages:
    """Decoded images: pixels (n, side, side, 3), labels (n,), and the key that each splits by.

    ``unreadable`` says by address why images are left out.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    keys: list[str]
    by: SplitBy
    unreadable: dict[str, str]

    def split(self, recipe: TrainingRecipe) -> Split:
        """Split the images by their keys; SplitError where there are too few."""
        return split(
            self.keys, self.labels, by=self.by, fractions=recipe.fractions, seed=recipe.plan.seed
        )


def load_labelled_images(recipe: TrainingRecipe) -> LabelledImages:
    """Read and decode the images of a recipe.

    Raises:
        SourceError: a class has no image, or none can be read.
    """
    images = recipe.images
    manifest = list_images(images, classes=CLASSES, limit=recipe.limit)
    found = set(manifest["label"].drop_null().to_pylist())
    if found != set(CLASSES):
        raise SourceError(
            f"{named(images)} has the labels {', '.join(sorted(found)) or '(none)'} but training "
            f"needs {' and '.join(CLASSES)}: as folder names, or in the manifest's column 'label'"
        )
    manifest = manifest.filter(pc.is_valid(manifest["label"]))
    uris = manifest["uri"].to_pylist()
    pixels, image_ids, good, unreadable = [], [], [], {}
    refs, side = image_refs(manifest), recipe.network.side
    for row, image in enumerate(load_images(refs, side, threads=torch.get_num_threads())):
        if image.pixels is None or image.image_id is None:
            unreadable[uris[row]] = str(image.failure)
            continue
        good.append(row)
        pixels.append(image.pixels)
        image_ids.append(image.image_id.hex())
    if not good:
        raise SourceError(f"none of the {len(uris)} images of {named(images)} can be read")
    manifest = manifest.take(good)
    by = split_by(manifest["patient_id"].to_pylist(), manifest["slide_id"].to_pylist())
    return LabelledImages(
        pixels=np.stack(pixels),
        labels=class_numbers(manifest, CLASSES).astype(np.int64),
        keys=image_ids if by == "image" else manifest[f"{by}_id"].to_pylist(),
        by=by,
        unreadable=unreadable,
    )


def train_model(
    classifier: Classifier, recipe: TrainingRecipe, data: LabelledImages, name: str | None
) -> tuple[ModelCard, bytes]:
    """Train a classifier in place; return its card, by default named after its digest, and weights.

    Raises:
        DivergedError: a loss is not finite.
        SplitError: there are too few images for three parts.
    """
    widths = tap_widths(classifier)
    parts = data.split(recipe)
    rows = {part: parts.rows(part, data.keys) for part in parts.keys}
    history = train(
        classifier.to("cuda" if torch.cuda.is_available() else "cpu"),
        data.pixels,
        data.labels,
        rows["train"],
        rows["validation"],
        recipe.plan,
        _told(recipe.plan.epochs),
    )
    validation, test = (predict(classifier, data.pixels[rows[p]]) for p in ("validation", "test"))
    content = arrays_to_bytes({k: v.cpu().numpy() for k, v in classifier.state_dict().items()})
    digest, spec = digest_of(content), recipe.network
    card = ModelCard(
        name=name or f"{spec.network.replace(':', '-')}-{digest[:8]}",
        created_at=now(),
        digest=digest,
        network=spec.as_dict(),
        preprocessing=(
            f"RGB, {spec.side} x {spec.side} pixels, Pillow's {RESIZE.name.lower()} resize"
        ),
        tap_widths=widths,
        temperature=fit_temperature(validation, data.labels[rows["validation"]]),
        split_by=data.by,
        split=parts.keys,
        training=recipe.as_dict() | {"history": [asdict(epoch) for epoch in history]},
        metrics=diagnosis_metrics(
            test, data.labels[rows["test"]], [data.keys[row] for row in rows["test"]]
        ),
        versions=exact(OF_A_MODEL) | {"python": platform.python_version()},
    )
    return card, content


def _told(epochs: int) -> Callable[[Epoch], None]:
    return lambda epoch: tell(f"epoch {epoch.number} of {epochs}: {epoch}")
