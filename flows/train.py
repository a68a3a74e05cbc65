"""The flow `train`: labelled images -> a model."""

from typing import Annotated, Any

import torch
from prefect import flow
from prefect.logging import get_run_logger
from pydantic import Field

from flows.jobs.worker import keep_freed_memory
from flows.monitoring.telemetry import observed
from flows.outcome import Outcome, table
from flows.settings import Settings
from flows.stages.training import CLASSES, TrainingRecipe, load_labelled_images, train_model
from storage.models.classifiers import refuse_existing, save_model
from storage.store import Store
from tasks.network.backbones import DEFAULT_NETWORK, build, network_spec
from tasks.network.classifier import tap_widths
from tasks.network.training import TrainingPlan


class TrainOutcome(Outcome):
    """A trained model and how well it does on patients it has never seen."""

    model: str
    images: dict[str, int]
    unreadable: int
    seconds: float
    metrics: dict[str, Any]
    split_by: str
    groups: dict[str, int]

    def text(self) -> str:
        """The outcome as a person reads it in a terminal."""
        rows: list[tuple[str, object]] = [
            (part, f"{self.images[part]:,} images of {self.groups[part]} {self.split_by}s")
            for part in self.images
        ]
        rows += [
            (name, f"{m['value']:.3f}  (95% interval {m['low']:.3f} to {m['high']:.3f})")
            for name, m in self.metrics.items()
        ]
        if self.unreadable:
            rows.append(("left out", f"{self.unreadable} images that cannot be read"))
        return f"model {self.model}, trained in {self.seconds:.0f} s\n{table(rows)}"


@flow
@observed()
def train(
    images: Annotated[str, Field(description="labelled images: folder, glob, archive, manifest")],
    model: Annotated[str | None, Field(description="name of the new model")] = None,
    network: Annotated[
        str, Field(description="efficientnet_lite0, timm:<name> or torchvision:<name>")
    ] = DEFAULT_NETWORK,
    weights: Annotated[
        str, Field(description="where training starts: imagenet, scratch, or a weights file")
    ] = "imagenet",
    taps: Annotated[
        list[str] | None, Field(description="modules to tap, if not the network's usual ones")
    ] = None,
    frozen: Annotated[
        list[str] | None, Field(description="modules to freeze, if not the usual ones")
    ] = None,
    side: Annotated[int, Field(ge=16, le=1024, description="input size in pixels")] = 96,
    epochs: Annotated[int, Field(ge=1)] = TrainingPlan.epochs,
    rate: Annotated[float, Field(gt=0, description="peak learning rate")] = TrainingPlan.peak_rate,
    fractions: Annotated[
        tuple[float, float, float],
        Field(description="shares of patients for training, validation and test"),
    ] = (0.75, 0.10, 0.15),
    seed: Annotated[int, Field(ge=0)] = 0,
    limit: Annotated[int | None, Field(ge=1, description="take only so many images")] = None,
    settings: Settings | None = None,
) -> TrainOutcome:
    """Train a classifier on labelled images, splitting them by patient."""
    settings = settings or Settings()
    log = get_run_logger()
    store = Store(settings.store)
    if model is not None:
        refuse_existing(store, model)
    spec = network_spec(
        network,
        CLASSES,
        side,
        taps=tuple(taps) if taps else None,
        # Fresh weights have nothing general to keep, so nothing is frozen unless asked for.
        frozen=tuple(frozen) if frozen is not None else (() if weights == "scratch" else None),
    )
    recipe = TrainingRecipe(
        images=images,
        limit=limit,
        network=spec,
        weights=weights,
        fractions=fractions,
        plan=TrainingPlan(epochs=epochs, peak_rate=rate, seed=seed),
    )
    keep_freed_memory()
    torch.manual_seed(seed)
    classifier = build(spec, None if weights == "scratch" else weights)
    tap_widths(classifier)  # a tap that gives no features is told of before images are read
    data = load_labelled_images(recipe)
    for uri, failure in list(data.unreadable.items())[:20]:
        log.warning("left out %s: %s", uri, failure)
    if data.by != "patient":
        log.warning("some images have no patient: split by %s, which flatters metrics", data.by)
    card, content = train_model(classifier, recipe, data, model)
    save_model(store, card, content)
    keys = {part: set(names) for part, names in card.split.items()}
    return TrainOutcome(
        model=card.name,
        images={part: sum(key in own for key in data.keys) for part, own in keys.items()},
        unreadable=len(data.unreadable),
        seconds=sum(epoch["seconds"] for epoch in card.training["history"]),
        metrics=card.metrics,
        split_by=data.by,
        groups={part: len(own) for part, own in keys.items()},
    )
