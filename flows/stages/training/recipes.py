"""Train by a recipe, resume an interrupted training, and describe the model."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from flows.jobs import libraries
from flows.jobs.networks import CUTTING, GRAPH, HOME
from flows.monitoring.console import tell, warn
from flows.stages.training.labelled_images import LabelledImages
from storage.models.classifiers import ModelCard, load_state, save_state
from storage.records import arrays_to_bytes, now
from storage.store import Store, digest_of
from tasks.detector.calibration import group_weights
from tasks.detector.probabilities import log_odds
from tasks.images.decoding import RESIZE
from tasks.metrics.metrics import POSITIVE, diagnosis_metrics
from tasks.network import backbones
from tasks.network.classifier import Classifier, tap_widths
from tasks.network.conversion import graph_arrays, in_int8, inference
from tasks.network.cutting import MEASURED, cutting_shift
from tasks.network.inference import Inference, outputs_of
from tasks.network.processor import Graph
from tasks.network.spec import NetworkSpec
from tasks.network.split import split
from tasks.network.training import Epoch, TrainingData, TrainingPlan, fit_temperature, train
from tasks.network.tuning import home_of
from tasks.types import Counts, Float, Index, Numbers, Pixels, Single, laboratory_of, nested

FRACTIONS = (0.75, 0.10, 0.15)  # shares of patients for training, validation and test
EXAMPLES, MOST_LOST = 320, 0.003  # training cells that set the steps of int8; AUROC it may cost
LEAST_HEALTHY = 10  # unseen cells by which a laboratory's log-odds are read


@dataclass(frozen=True)
class TrainingRecipe:
    """The recipe that makes a model; ``weights`` are imagenet, scratch, or a file."""

    images: str | list[str]
    limit: int | None
    network: NetworkSpec
    weights: str
    fractions: tuple[float, float, float]
    plan: TrainingPlan
    licence: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data for a model's card, which has the network elsewhere."""
        others = ("images", "limit", "fractions", "weights", "licence")
        return asdict(self.plan) | {name: getattr(self, name) for name in others}

    @property
    def start(self) -> str | None:
        """Return published weights or a file to start from; None for fresh weights."""
        return None if self.weights == "scratch" else self.weights

    @cached_property
    def weights_digest(self) -> str | None:
        """Compute the digest of a file of weights; None if training does not start from a file."""
        if self.weights in ("imagenet", "scratch"):
            return None
        return digest_of(Path(self.weights).read_bytes())


def training_digest(recipe: TrainingRecipe, data: LabelledImages) -> str:
    """Compute the digest of everything that decides the result of a training, including images."""
    pixels = sha256()
    for start in range(0, len(data.pixels), 1024):
        pixels.update(data.pixels[start : start + 1024].tobytes())
    decided = {
        **recipe.as_dict(),
        "weights_digest": recipe.weights_digest,
        "network": recipe.network.as_dict(),
        "pixels": pixels.hexdigest(),
        "labels": data.labels.tolist(),
        "keys": data.keys,
        "cut_out": data.cut_out.tolist(),
        "versions": libraries.exact(libraries.OF_A_MODEL),
    }
    return digest_of(json.dumps(decided, sort_keys=True).encode())


def balanced(labels: Counts, keys: Sequence[str], rows: Index) -> Float:
    """Weigh images (n,): classes, and laboratories of one, equally; the mean at ``rows`` is 1."""
    weights = np.ones(len(labels))
    owners = np.asarray([laboratory_of(key) for key in keys], object).astype(str)
    if len(set(owners)) == 1:
        return weights
    for label in np.unique(labels[rows]).tolist():
        of_class = rows[labels[rows] == label]
        weights[of_class] = group_weights(owners[of_class]) * len(rows)
    return np.asarray(weights / weights[rows].mean())


@dataclass(frozen=True)
class Trained:
    """A trained classifier, ready for passes, too, and its logits (n, C) of rows of test.

    ``graph`` is its network in int8, None in any other arithmetic.
    """

    classifier: Classifier
    graph: Graph | None
    network: Inference
    history: list[Epoch]
    temperature: float
    test_logits: Single


def train_rows(
    store: Store,
    training: str,
    recipe: TrainingRecipe,
    data: LabelledImages,
    rows: Mapping[str, Index],
    title: str = "",
) -> Trained:
    """Train on some rows and test on others, resuming from the states of the ``training``.

    ``rows`` are those of train, validation and test; ``title`` precedes the message on each epoch.
    DivergedError if a loss is not finite.
    """
    torch.manual_seed(recipe.plan.seed)
    classifier = backbones.build(recipe.network, recipe.start)
    start = load_state(store, training, on_damage=warn)
    weights, epochs = balanced(data.labels, data.keys, rows["train"]), recipe.plan.epochs
    history = train(
        classifier.to("cuda" if torch.cuda.is_available() else "cpu"),
        TrainingData(data.pixels, data.labels, rows["train"], rows["validation"], weights),
        recipe.plan,
        on_epoch=lambda epoch: tell(f"{title}epoch {epoch.number} of {epochs}: {epoch}"),
        keep=lambda number, state: save_state(store, training, number, state),
        start=start,
    )
    graph, network = (
        graph_in_int8(classifier, data, rows)
        if recipe.network.arithmetic == "int8"
        else (None, inference(classifier))
    )
    (_, known), (_, test) = (
        outputs_of(network, data.pixels, rows[part]) for part in ("validation", "test")
    )
    temperature = fit_temperature(known, data.labels[rows["validation"]])
    return Trained(classifier, graph, network, history, temperature, test)


def graph_in_int8(
    classifier: Classifier, data: LabelledImages, rows: Mapping[str, Index]
) -> tuple[Graph | None, Inference]:
    """Convert a network to int8, and prepare it; to float32, without a graph, if that is better.

    It is if unseen cells are diagnosed less well in int8.
    """
    classifier.spec = replace(classifier.spec, arithmetic="float32")
    some, unseen = _some(rows["train"], EXAMPLES), rows["validation"]

    def auroc(network: Inference) -> float:
        odds = log_odds(outputs_of(network, data.pixels, unseen)[1], 1.0, POSITIVE)
        return float(roc_auc_score(data.labels[unseen] == POSITIVE, odds))

    plain = inference(classifier)
    before = auroc(plain)
    try:
        graph = in_int8(classifier, data.pixels[some])
    except Exception as error:  # any error of the converters
        warn(f"{classifier.spec.network} stays in float32, because NNCF does not take it: {error}")
        return None, plain
    classifier.spec = replace(classifier.spec, arithmetic="int8")
    network = inference(classifier, graph)
    if (after := auroc(network)) >= before - MOST_LOST:
        return graph, network
    warn(f"the network stays in float32: its AUROC is {before:.4f}, and {after:.4f} in int8")
    classifier.spec = replace(classifier.spec, arithmetic="float32")
    return None, plain


def _some(rows: Index, most: int) -> Index:
    """Choose rows (k,), evenly spread over all (n,)."""
    return rows[np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.intp)]


def weights_to_bytes(
    classifier: Classifier,
    healthy: Pixels | None = None,
    log_odds: Numbers | None = None,
    graph: Graph | None = None,
) -> bytes:
    """Serialise weights, graph, arithmetic, the shift by cutting and what tunes the network.

    That is by ``healthy`` training cells (n, side, side, 3), n >= 1, and by the ``log_odds`` (k,)
    of unseen patients' healthy cells, k >= 2. In int8 it has a ``graph``.
    """
    weights = {name: value.cpu().numpy() for name, value in classifier.state_dict().items()}
    arrays = graph_arrays(classifier, graph)
    if arrays and healthy is not None and log_odds is not None:
        known = Graph.from_arrays(arrays)
        if home := home_of(known, classifier.spec, weights, healthy, log_odds):
            weights |= nested(HOME, home.to_arrays())
    weights |= nested(CUTTING, classifier.cutting) | nested(GRAPH, arrays)
    return arrays_to_bytes(weights, arithmetic=classifier.spec.arithmetic)


def of_home(
    made: Trained, data: LabelledImages, rows: Mapping[str, Index]
) -> tuple[Pixels | None, Numbers | None]:
    """Choose healthy training cells, and compute the log-odds of those of unseen patients."""
    healthy = {part: each[data.labels[each] != POSITIVE] for part, each in rows.items()}
    training = healthy["train"]
    _, logits = outputs_of(made.network, data.pixels, healthy["validation"])
    odds = log_odds(logits, 1.0, POSITIVE)
    looking = odds[odds < 0]
    if len(looking) < LEAST_HEALTHY or not len(training):
        return None, None
    return data.pixels[_some(training, MEASURED)], looking


def train_model(
    store: Store, training: str, recipe: TrainingRecipe, data: LabelledImages, name: str | None
) -> tuple[ModelCard, bytes]:
    """Train a classifier; return its card, by default named after its digest, and its weights.

    DivergedError if a loss is not finite; SplitError if there are too few images for three parts.
    """
    seed = recipe.plan.seed
    parts = split(data.keys, data.labels, by=data.by, fractions=recipe.fractions, seed=seed)
    rows = {part: np.flatnonzero(np.isin(data.keys, keys)) for part, keys in parts.items()}
    made = train_rows(store, training, recipe, data, rows)
    given = rows["train"][~data.cut_out[rows["train"]]]
    made.classifier.cutting = cutting_shift(partial(outputs_of, made.network), data.pixels, given)
    content = weights_to_bytes(made.classifier, *of_home(made, data, rows), made.graph)
    digest, spec = digest_of(content), made.classifier.spec
    card = ModelCard(
        name=name or f"{spec.network.replace(':', '-')}-{digest[:8]}",
        created_at=now(),
        digest=digest,
        network=spec.as_dict(),
        preprocessing=(
            f"RGB, {spec.side} x {spec.side} pixels, Pillow's {RESIZE.name.lower()} resize"
        ),
        tap_widths=tap_widths(made.classifier),
        temperature=made.temperature,
        split_by=data.by,
        split=parts,
        training=recipe.as_dict()
        | {"weights_digest": recipe.weights_digest}
        | {"history": [asdict(epoch) for epoch in made.history]},
        metrics=diagnosis_metrics(
            made.test_logits, data.labels[rows["test"]], [data.keys[row] for row in rows["test"]]
        ),
        versions=libraries.exact(libraries.OF_A_MODEL) | {"python": platform.python_version()},
        sequence=0,  # until the model is kept
    )
    return card, content
