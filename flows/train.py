"""The flow `train`: labelled images -> a model."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from prefect import flow
from prefect.logging import get_run_logger
from pydantic import Field

from flows.jobs.worker import keep_freed_memory
from flows.monitoring.console import tell
from flows.monitoring.telemetry import observed
from flows.outcome import Outcome, table
from flows.settings import Settings
from storage.arrays import arrays_to_bytes
from storage.models.classifiers import ModelCard, refuse_existing, save_model
from storage.records import now
from storage.store import Store, digest_of
from tasks.evaluation.metrics import diagnosis_metrics
from tasks.images.decoding import RESIZE
from tasks.images.files import SourceError
from tasks.images.listing import class_numbers, list_images
from tasks.images.regions import image_refs
from tasks.network.backbones import DEFAULT_NETWORK, build, network_spec
from tasks.network.classifier import tap_widths
from tasks.network.features import load_images
from tasks.network.split import SplitBy, split, split_by
from tasks.network.training import TrainingPlan, fit_temperature, predict
from tasks.network.training import train as train_network

CLASSES = ("Parasitized", "Uninfected")
PACKAGES = ("slidewatch", "torch", "timm", "torchvision", "numpy", "pillow")


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
    keep_freed_memory()
    torch.manual_seed(seed)
    classifier = build(spec, None if weights == "scratch" else weights)
    widths = tap_widths(classifier)
    data = _load(images, limit, side)
    for uri, failure in list(data.unreadable.items())[:20]:
        log.warning("left out %s: %s", uri, failure)
    if data.by != "patient":
        log.warning("some images have no patient: split by %s, which flatters metrics", data.by)
    parts = split(data.keys, data.labels, by=data.by, fractions=fractions, seed=seed)
    rows = {part: parts.rows(part, data.keys) for part in parts.keys}
    plan = TrainingPlan(epochs=epochs, peak_rate=rate, seed=seed)
    history = train_network(
        classifier.to("cuda" if torch.cuda.is_available() else "cpu"),
        data.pixels,
        data.labels,
        rows["train"],
        rows["validation"],
        plan,
        lambda epoch: tell(f"epoch {epoch.number} of {epochs}: {epoch}"),
    )
    validation, test = (predict(classifier, data.pixels[rows[p]]) for p in ("validation", "test"))
    content = arrays_to_bytes({k: v.cpu().numpy() for k, v in classifier.state_dict().items()})
    digest = digest_of(content)
    card = ModelCard(
        name=model or f"{network.replace(':', '-')}-{digest[:8]}",
        created_at=now(),
        digest=digest,
        network=spec.as_dict(),
        preprocessing=f"RGB, {side} x {side} pixels, Pillow's {RESIZE.name.lower()} resize",
        tap_widths=widths,
        temperature=fit_temperature(validation, data.labels[rows["validation"]]),
        split_by=data.by,
        split=parts.keys,
        training=plan.as_dict()
        | {
            "images": images,
            "limit": limit,
            "fractions": fractions,
            "weights": weights,
            "history": [asdict(epoch) for epoch in history],
        },
        metrics=diagnosis_metrics(
            test, data.labels[rows["test"]], [data.keys[row] for row in rows["test"]]
        ),
        versions={name: version(name) for name in PACKAGES} | {"python": platform.python_version()},
    )
    save_model(store, card, content)
    return TrainOutcome(
        model=card.name,
        images={part: len(rows[part]) for part in rows},
        unreadable=len(data.unreadable),
        seconds=sum(epoch.seconds for epoch in history),
        metrics=card.metrics,
        split_by=data.by,
        groups={part: len(names) for part, names in parts.keys.items()},
    )


@dataclass(frozen=True)
class _Data:
    """Decoded images: pixels (n, side, side, 3), labels (n,), and the key that each splits by."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    keys: list[str]
    by: SplitBy
    unreadable: dict[str, str]


def _load(images: str, limit: int | None, side: int) -> _Data:
    manifest = list_images(images, classes=CLASSES, limit=limit)
    found = set(manifest["label"].drop_null().to_pylist())
    if found != set(CLASSES):
        raise SourceError(
            f"{images} has the labels {', '.join(sorted(found)) or '(none)'} but training needs "
            f"{' and '.join(CLASSES)}: as folder names, or in the manifest's column 'label'"
        )
    manifest = manifest.filter(pc.is_valid(manifest["label"]))
    uris = manifest["uri"].to_pylist()
    pixels, image_ids, good, unreadable = [], [], [], {}
    loading = load_images(image_refs(manifest), side, threads=torch.get_num_threads())
    for row, image in enumerate(loading):
        if image.pixels is None or image.image_id is None:
            unreadable[uris[row]] = str(image.failure)
            continue
        good.append(row)
        pixels.append(image.pixels)
        image_ids.append(image.image_id.hex())
    if not good:
        raise SourceError(f"none of the {len(uris)} images of {images} can be read")
    manifest = manifest.take(good)
    by = split_by(manifest["patient_id"].to_pylist(), manifest["slide_id"].to_pylist())
    return _Data(
        pixels=np.stack(pixels),
        labels=class_numbers(manifest, CLASSES).astype(np.int64),
        keys=image_ids if by == "image" else manifest[f"{by}_id"].to_pylist(),
        by=by,
        unreadable=unreadable,
    )
