"""Units of work of an evaluation: features of images under a treatment, fits, scores.

What is written is complete or absent, so a unit that was cut off is done again by anybody.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flows.jobs.detectors import load_fitted_detector
from flows.jobs.networks import load_classifier
from flows.jobs.worker import settle_worker
from storage.arrays import Arrays
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.parquet import read_table
from storage.reports.evaluations import (
    attacked_path,
    fitted_path,
    images_path,
    part_path,
    read_arrays,
    write_arrays,
)
from storage.store import Store
from tasks.detector.calibration import threshold
from tasks.detector.detector import Detector
from tasks.detector.mahalanobis import TiedGaussian, tied_gaussian
from tasks.detector.moments import Moments, partial_fit
from tasks.evaluation.attacks import (
    Target,
    attack,
    l2_norm,
    linf_norm,
    matched_noise,
    round_to_8_bits,
)
from tasks.evaluation.baselines import (
    Fitted,
    Residual,
    residual_directions,
    residual_norm,
    unit,
    whole_gaussian,
)
from tasks.evaluation.corruptions import corrupt
from tasks.evaluation.evidence import (
    evidence_of_forms,
    scored_form,
    to_images,
    to_numpy,
)
from tasks.evaluation.false_alarms import Images, Realised, realised
from tasks.evaluation.results import COMPUTED, FILE, NOISE, ScoredPart, Treatment
from tasks.images.decoding import BadImageError, resize
from tasks.images.files import SourceError
from tasks.images.regions import find, image_refs
from tasks.network.backbones import every_stage
from tasks.network.classifier import PENULTIMATE, Classifier, last_layer, to_pixels, with_taps
from tasks.network.folding import folded
from tasks.types import below, nested

BANK = 5000  # images that nearest neighbours are looked for among
PICTURES = 2  # images of each part that are kept to be shown


@dataclass(frozen=True)
class Run:
    """An evaluation of one detector; all that its units of work have in common.

    ``model`` is the detector's, and ``other`` a model that the attacks' transfer is tried on.
    """

    store: Store
    evaluation: str
    detector: DetectorCard
    model: ModelCard
    magnitudes: tuple[float, ...]
    other: ModelCard | None = None
    save_attacks: bool = False


@dataclass(frozen=True)
class PartJob:
    """Rows ``start`` to ``stop`` of a set of images, under a treatment."""

    run: Run
    images: str
    treatment: Treatment
    number: int
    start: int
    stop: int

    @property
    def path(self) -> tuple[str, ...]:
        """Where its features lie."""
        run = self.run
        return part_path(
            run.evaluation, run.detector.name, self.images, self.treatment.key, self.number
        )


def parts(run: Run, images: str, treatment: Treatment, rows: int, size: int) -> list[PartJob]:
    """The jobs of a set of images, ``size`` rows each."""
    return [
        PartJob(run, images, treatment, number, start, min(start + size, rows))
        for number, start in enumerate(range(0, rows, size))
    ]


def make_part(job: PartJob) -> None:
    """Write a part's features, unless they are there."""
    run = job.run
    if run.store.exists(*job.path):
        return
    settle_worker()
    target = _target(run.store, run.detector, run.model)
    table = read_table(run.store, *images_path(run.evaluation, run.detector.name, job.images))
    table = table.slice(job.start, job.stop - job.start)
    rows, image_ids, pixels = _load(table, job.treatment, target.classifier.spec.side, job.start)
    table = table.take(rows - job.start)
    classes = list(target.classifier.spec.classes)
    arrays: Arrays = {
        "rows": rows,
        "image_id": image_ids,
        "label": np.asarray(
            [classes.index(x) if x in classes else -1 for x in table["label"].to_pylist()], np.int8
        ),
    }
    if len(rows):
        device = target.classifier.mean.device
        start = to_pixels(pixels).to(device)
        if job.treatment.kind == "attack":
            arrays |= _attack(job, target, start, arrays["label"], table)
        else:
            magnitudes = run.magnitudes if job.treatment.kind == "none" else ()
            arrays |= evidence_of_forms({FILE: start}, target, magnitudes)
            arrays["pictures/changed"] = pixels[:PICTURES]
    write_arrays(run.store, arrays, *job.path)


def _load(
    table: pa.Table, treatment: Treatment, side: int, start: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]:
    """Row numbers, digests and pixels (n, side, side, 3) of the images that can be read."""
    rows, image_ids, pixels = [], [], []
    for row, ref in enumerate(image_refs(table), start):
        try:
            found = find(ref)
            image = found.image()
        except (BadImageError, OSError, SourceError):
            continue  # a set's size and the rows of its parts tell how many are missing
        if treatment.kind == "corruption":
            changed = corrupt(
                np.asarray(image), treatment.name, int(treatment.strength or 0), seed=row
            )
            image = Image.fromarray(changed)
        rows.append(row)
        image_ids.append(np.frombuffer(found.image_id, np.uint8))
        pixels.append(resize(image, side))
    return (
        np.asarray(rows, np.int64),
        np.asarray(image_ids, np.uint8).reshape(-1, 32),
        np.asarray(pixels, np.uint8).reshape(-1, side, side, 3),
    )


def _attack(
    job: PartJob, target: Target, pixels: Tensor, labels: NDArray[np.int8], table: pa.Table
) -> Arrays:
    treatment, seed = job.treatment, job.number
    truth = torch.as_tensor(labels.astype(np.int64), device=pixels.device)
    computed = attack(treatment.name, target, pixels, truth, treatment.strength, seed)
    file = round_to_8_bits(computed)
    noise = round_to_8_bits(matched_noise(pixels, computed, treatment.strength, seed))
    arrays = evidence_of_forms({FILE: file, NOISE: noise}, target, job.run.magnitudes)
    # What no file can hold is scored for the record; pre-processing it is not worth its time.
    arrays |= evidence_of_forms({COMPUTED: computed}, target, ())
    for form, images in ((FILE, file), (COMPUTED, computed)):
        arrays[f"{form}/l2"] = to_numpy(l2_norm(images - pixels))
        arrays[f"{form}/linf"] = to_numpy(linf_norm(images - pixels))
    if job.run.other is not None:
        other = _classifier(job.run.store, job.run.other)
        with torch.inference_mode():
            arrays["other/clean"] = to_numpy(other(pixels))
            arrays["other/file"] = to_numpy(other(file))
    as_bytes = to_images(file)
    arrays["pictures/clean"] = to_images(pixels)[:PICTURES]
    arrays["pictures/changed"] = as_bytes[:PICTURES]
    if job.run.save_attacks:
        for number, (image, row) in enumerate(
            zip(as_bytes, table.to_pylist(), strict=True), job.start
        ):
            stem = row["uri"].split("::")[0].rsplit("/", 1)[-1].rsplit(".", 1)[0]
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            path = attacked_path(
                job.run.evaluation,
                job.run.detector.name,
                treatment.key,
                row["label"],
                f"{stem}-{number}.png",
            )
            job.run.store.write_bytes(buffer.getvalue(), *path)
    return arrays


@dataclass(frozen=True)
class FitJob:
    """The compared detectors at one tap, fitted on a set of images."""

    run: Run
    tap: str
    parts: tuple[PartJob, ...]


def fit_tap(job: FitJob) -> None:
    """Write what is fitted at a tap, unless it is there: at the last one all that scores need."""
    run = job.run
    path = fitted_path(run.evaluation, run.detector.name, job.tap)
    if run.store.exists(*path):
        return
    settle_worker()
    classifier = _classifier(run.store, run.model)
    last = job.tap == PENULTIMATE
    raw = on_sphere = None
    for features, _, labels in _fitted_features(job):
        raw = raw or Moments.empty(len(classifier.spec.classes), features.shape[1])
        raw = partial_fit(raw, features, labels)
        if last:
            on_sphere = on_sphere or Moments.empty(raw.classes, raw.width)
            on_sphere = partial_fit(on_sphere, unit(features), labels)
    assert raw is not None
    arrays = nested("layer", tied_gaussian(raw).to_arrays())
    if last:
        assert on_sphere is not None
        arrays |= nested("unit", tied_gaussian(on_sphere).to_arrays())
        arrays |= nested("whole", whole_gaussian(raw).to_arrays())
        arrays |= _residual_arrays(job, classifier, raw)
    write_arrays(run.store, arrays, *path)


def _fitted_features(
    job: FitJob,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]]:
    """Features (n, d), logits (n, C) and labels (n,) of the fitted images, part by part."""
    for part in job.parts:
        arrays = read_arrays(job.run.store, *part.path)
        if len(arrays["rows"]):
            yield arrays[f"{FILE}/tap/{job.tap}"], arrays[f"{FILE}/logits"], arrays["label"]


def _residual_arrays(job: FitJob, classifier: Classifier, raw: Moments) -> Arrays:
    """ViM's residual, whose scale needs a second pass, and the bank of nearest neighbours."""
    weight, bias = (np.asarray(to_numpy(values), np.float64) for values in last_layer(classifier))
    origin, directions = residual_directions(raw, weight, bias)
    norms, largest, bank = 0.0, 0.0, []
    every = max(1, round(raw.n.sum() / BANK))
    for features, logits, _ in _fitted_features(job):
        norms += float(residual_norm(Residual(origin, directions, 1.0), features).sum())
        largest += float(logits.max(axis=1).sum())
        bank.append(unit(features[::every]))
    return {
        "residual/origin": origin,
        "residual/directions": directions,
        "residual/scale": np.asarray([largest / norms]),
        "bank": np.concatenate(bank),
    }


def score_part(job: PartJob) -> ScoredPart:
    """Score a part's images in every form that it has."""
    run = job.run
    settle_worker()
    arrays = read_arrays(run.store, *job.path)
    names = [form for form in (FILE, COMPUTED, NOISE) if f"{form}/logits" in arrays]
    fitted = _fitted(run)
    return ScoredPart(
        {form: scored_form(arrays, form, fitted, run.model.temperature) for form in names},
        arrays["image_id"],
        {
            name: values
            for name, values in arrays.items()
            if name.startswith("other/") or name.endswith(("/l2", "/linf"))
        },
        {name: values for name, values in arrays.items() if name.startswith("pictures/")},
    )


@dataclass(frozen=True)
class FalseAlarmJob:
    """Ordinary images of unseen patients against calibrations by ``patients`` fitted ones.

    ``rows`` are those of the unseen set that count.
    """

    run: Run
    patients: int
    rows: NDArray[np.int64]
    fitted: tuple[PartJob, ...]
    unseen: tuple[PartJob, ...]
    alphas: tuple[float, ...]


def false_alarms(job: FalseAlarmJob) -> list[Realised]:
    """The realised false-alarm rates of both ways of calibrating."""
    taps = load_detector(job.run).taps
    unseen = _images(job.unseen, taps, job.rows)
    return realised(_images(job.fitted, taps), unseen, job.patients, job.alphas)


def _images(
    jobs: tuple[PartJob, ...], taps: list[str], wanted: NDArray[np.int64] | None = None
) -> Images:
    run, features, labels, rows = jobs[0].run, [], [], []
    for part in jobs:
        arrays = read_arrays(run.store, *part.path)
        if not len(arrays["rows"]):
            continue
        here = arrays["rows"]
        chosen = np.isin(here, wanted) if wanted is not None else np.ones(len(here), bool)
        features.append([arrays[f"{FILE}/tap/{tap}"][chosen] for tap in taps])
        labels.append(arrays["label"][chosen])
        rows.append(here[chosen])
    table = read_table(run.store, *images_path(run.evaluation, run.detector.name, jobs[0].images))
    keys = np.asarray(table["group"].to_pylist())[np.concatenate(rows)]
    return Images(
        [np.concatenate(columns) for columns in zip(*features, strict=True)],
        np.concatenate(labels),
        keys,
    )


def load_detector(run: Run) -> Detector:
    """The detector of a run."""
    return load_fitted_detector(run.store, run.detector)


@lru_cache(maxsize=4)
def _classifier(store: Store, model: ModelCard) -> Classifier:
    """Load a classifier, tapped at every stage, with no gradients of its weights."""
    classifier = folded(load_classifier(store, model))
    return with_taps(classifier, every_stage(classifier.spec)).requires_grad_(False)


@lru_cache(maxsize=4)
def _target(store: Store, card: DetectorCard, model: ModelCard) -> Target:
    """Load a detector with its classifier, to be attacked."""
    detector = load_fitted_detector(store, card)
    alarm = threshold(detector.calibration, card.alpha)
    return Target(_classifier(store, model), detector, alarm)


@lru_cache(maxsize=2)
def _fitted(run: Run) -> Fitted:
    target = _target(run.store, run.detector, run.model)
    arrays = {
        tap: read_arrays(run.store, *fitted_path(run.evaluation, run.detector.name, tap))
        for tap in target.classifier.spec.taps
    }
    last = arrays[PENULTIMATE]
    return Fitted(
        detector=target.detector,
        last=PENULTIMATE,
        layers={
            tap: TiedGaussian.from_arrays(below("layer", values)) for tap, values in arrays.items()
        },
        unit_last=TiedGaussian.from_arrays(below("unit", last)),
        whole=TiedGaussian.from_arrays(below("whole", last)),
        residual=Residual(
            last["residual/origin"], last["residual/directions"], float(last["residual/scale"][0])
        ),
        bank=last["bank"],
    )
