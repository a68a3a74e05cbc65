"""Run the flow `train`: labelled images -> a model."""

import logging
from pathlib import Path
from typing import Any

from flows.jobs import networks, worker
from flows.monitoring import logs, telemetry
from flows.monitoring.console import tell, warn, working
from flows.options.flows import Train
from flows.outcome import Outcome, table
from flows.prefect.decorators import flow
from flows.settings import Settings
from flows.stages.training import recipes
from flows.stages.training.folds import cross_validate, diagnosed, fold_rows, remove_fold_states
from flows.stages.training.labelled_images import CLASSES, load_labelled_images
from storage.leases import lease
from storage.models import classifiers
from storage.store import Store, StoreError
from tasks.images.listing import as_given, refuse_missing
from tasks.metrics.cross_validation import metrics_by_stain
from tasks.metrics.metrics import POSITIVE
from tasks.network.backbones import build, network_spec
from tasks.network.classifier import tap_widths
from tasks.network.inference import fastest_arithmetic, refuse_other_arithmetic
from tasks.network.training import TrainingPlan
from tasks.words import counted


class TrainOutcome(Outcome):
    """A trained model, and its metrics on patients that it has never seen."""

    model: str
    images: dict[str, int]
    unreadable: int
    seconds: float
    metrics: dict[str, Any]
    split_by: str
    groups: dict[str, int]
    folds: list[dict[str, Any]]

    def _text(self) -> str:
        rows = [
            (part, f"{counted(count, 'image')} of {counted(self.groups[part], self.split_by)}")
            for part, count in self.images.items()
        ]
        rows += [(name, _interval(metric)) for name, metric in self.metrics.items()]
        for row in self.folds:
            stain = "" if row["stain"] is None else f", stain {row['stain']}"
            of = f"{row['images']:,} images of {row['patients']} {self.split_by}s"
            rows.append((f"folds: {row['metric']}{stain}", _interval(row, f"; {of}")))
        if self.unreadable:
            rows.append(("left out", f"{counted(self.unreadable, 'image')} that cannot be read"))
        return f"model {self.model}, trained in {self.seconds:.0f} s\n{table(rows)}"


def _interval(metric: dict[str, Any], of: str = "") -> str:
    known = [metric[bound] for bound in ("value", "low", "high")]
    value, low, high = ("-" if each is None else f"{each:.3f}" for each in known)
    return f"{value}  (95% interval {low} to {high}{of})"


@flow()
@telemetry.observed()
def train(options: Train, settings: Settings) -> TrainOutcome:
    """Train a model, or resume after the last complete epoch."""
    networks.refuse_foreign_network(options.network)
    if options.model is not None:
        classifiers.refuse_existing(Store(settings.store), options.model)
    refuse_missing(options.images)
    if options.weights not in {"imagenet", "scratch"} and not Path(options.weights).is_file():
        raise StoreError(
            f"--weights {options.weights}: give imagenet, scratch, or a file of weights"
        )
    frozen = options.frozen
    if frozen is None and options.weights == "scratch":
        frozen = []  # fresh weights have nothing general to keep
    spec = network_spec(
        options.network,
        CLASSES,
        options.side,
        taps=tuple(options.taps) if options.taps else None,
        frozen=frozen if frozen is None else tuple(frozen),
        arithmetic=fastest_arithmetic() if options.arithmetic == "auto" else options.arithmetic,
    )
    refuse_other_arithmetic(spec)
    recipe = recipes.TrainingRecipe(
        images=as_given(options.images),
        limit=options.limit,
        network=spec,
        weights=options.weights,
        fractions=recipes.FRACTIONS,
        plan=TrainingPlan(epochs=options.epochs, seed=options.seed),
        licence=options.licence,
    )
    return train_by(recipe, options.model, settings, options.folds)


def train_by(
    recipe: recipes.TrainingRecipe, model: str | None, settings: Settings, folds: int | None = None
) -> TrainOutcome:
    """Train by a recipe, and keep the model once its folds are there; a second run resumes."""
    store = Store(settings.store)
    worker.keep_freed_memory()
    tap_widths(build(recipe.network, recipe.start))  # told before images are read, if there is none
    working("reading the images")
    data = load_labelled_images(recipe.images, recipe.network.side, limit=recipe.limit)
    warnings = [f"left out {uri}: {failure}" for uri, failure in data.unreadable.items()][:20]
    if data.by != "patient":
        warnings.append(f"some images have no patient: split by {data.by}, which flatters metrics")
    for warning in warnings:
        logs.log(logging.WARNING, warning)
    parts = fold_rows(recipe, data, folds) if folds else []
    training = recipes.training_digest(recipe, data)
    working("training the network")
    with lease(store, classifiers.TRAININGS, training, wait=True, on_wait=tell) as held:
        card, content = recipes.train_model(held.store, training, recipe, data, model)
        record = None
        if parts:
            tested = cross_validate(held.store, training, recipe, data, parts)
            metrics = metrics_by_stain(diagnosed(tested, data.keys, data.labels == POSITIVE))
            digest = classifiers.save_out_of_fold(store, card.name, tested)
            record = classifiers.CrossValidation(digest=digest, folds=len(parts), metrics=metrics)
        others = [other.sequence for other in classifiers.list_models(store, on_damage=warn)]
        sequence = 1 + max(others, default=0)
        card = card.model_copy(update={"sequence": sequence, "cross_validation": record})
        classifiers.save_model(store, card, content)
        classifiers.remove_states(held.store, training)
        remove_fold_states(held.store, training, len(parts))
    keys = {part: set(names) for part, names in card.split.items()}
    return TrainOutcome(
        model=card.name,
        images={part: sum(key in names for key in data.keys) for part, names in keys.items()},
        unreadable=len(data.unreadable),
        seconds=sum(epoch["seconds"] for epoch in card.training["history"]),
        metrics=card.metrics,
        split_by=data.by,
        groups={part: len(names) for part, names in keys.items()},
        folds=card.cross_validation.metrics if card.cross_validation else [],
    )
