"""Compute the features of an evaluation's images under a treatment, shard by shard.

Files are written complete or not at all, so any worker can repeat an interrupted shard.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flows.jobs.networks import load_classifier
from flows.jobs.verified import load_fitted_detector
from flows.jobs.worker import settle_worker
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.models.laboratories import LaboratoryCard
from storage.parquet import read_table
from storage.reports.evaluations import (
    attacked_path,
    images_path,
    read_arrays,
    shard_path,
    write_arrays,
)
from storage.store import Store
from tasks.bundles import join, take
from tasks.detector.calibration import threshold
from tasks.detector.detector import Detector
from tasks.evaluation.evidence import gather_evidence, to_images, to_numpy
from tasks.evaluation.treated import (
    COMPUTED,
    FILE,
    NOISE,
    Evidence,
    Norms,
    TreatedImages,
    Treatment,
)
from tasks.evaluation.treatments.attacks import (
    Target,
    attack,
    l2_norm,
    linf_norm,
    matched_noise,
    round_to_8_bits,
)
from tasks.evaluation.treatments.corruptions import corrupt
from tasks.images.access.files import SourceError
from tasks.images.decoding import BadImageError, resize
from tasks.images.listing import class_numbers
from tasks.images.regions import find, image_refs
from tasks.network.backbones import every_stage
from tasks.network.classifier import Classifier, to_pixels, with_taps
from tasks.network.conversion import folded
from tasks.network.cutting import LOGITS, without_shift
from tasks.network.extraction import cut_out_by_us


@dataclass(frozen=True)
class Run:
    """An evaluation of one detector, with the data that its units of work share.

    ``model`` is the detector's; slides are also judged at ``laboratory``, if there is one.
    """

    store: Store
    evaluation: str
    detector: DetectorCard
    model: ModelCard
    save_attacks: bool = False
    laboratory: LaboratoryCard | None = None

    def images(self, name: str) -> pa.Table:
        """Read the list of a set of images."""
        return read_table(self.store, *images_path(self.evaluation, self.detector.name, name))

    def groups(self, name: str) -> NDArray[np.str_]:
        """Read the patient, slide or image that each image of a set belongs to."""
        return np.asarray(self.images(name)["group"].to_pylist())


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of a set of images, under a treatment."""

    run: Run
    images: str
    treatment: Treatment
    number: int
    start: int
    stop: int

    @property
    def path(self) -> tuple[str, ...]:
        """Locate the shard's features, relative to the store."""
        run = self.run
        return shard_path(
            run.evaluation, run.detector.name, self.images, self.treatment.key, self.number
        )


def shards(run: Run, images: str, treatment: Treatment, rows: int, size: int) -> list[Shard]:
    """Split a set of images into shards of ``size`` rows each."""
    return [
        Shard(run, images, treatment, number, start, min(start + size, rows))
        for number, start in enumerate(range(0, rows, size))
    ]


def treat(shard: Shard) -> None:
    """Write a shard's features, unless they exist."""
    run, treatment = shard.run, shard.treatment
    if run.store.exists(*shard.path):
        return
    settle_worker()
    target = load_target(run.store, run.detector, run.model)
    classifier = target.classifier
    table = run.images(shard.images).slice(shard.start, shard.stop - shard.start)
    rows, image_ids, pixels = _load(table, treatment, classifier, shard.start)
    table = table.take(rows - shard.start)
    images = TreatedImages(rows, image_ids, class_numbers(table, classifier.spec.classes))
    if len(rows):
        start = to_pixels(pixels).to(classifier.mean.device)
        if treatment.kind == "attack":
            images = _attack(shard, target, start, images, table)
        else:
            evidence = gather_evidence(start, target, odin=treatment.kind == "none")
            images = replace(images, forms={FILE: evidence})
        cut = cut_out_by_us(image_refs(table))
        forms = {form: _shifted(each, classifier, cut) for form, each in images.forms.items()}
        images = replace(images, forms=forms)
    write_arrays(run.store, images.to_arrays(), *shard.path)


def _shifted(evidence: Evidence, classifier: Classifier, cut: NDArray[np.bool_]) -> Evidence:
    """Subtract the cutting shift from the outputs for cells that slidewatch cut out (n,)."""
    taps = without_shift(evidence.taps, classifier.cutting, cut)
    logits, odin = (
        None if each is None else without_shift({LOGITS: each}, classifier.cutting, cut)[LOGITS]
        for each in (evidence.logits, evidence.odin)
    )
    assert logits is not None
    return replace(evidence, taps=taps, logits=logits, odin=odin)


def read_treated(shard: Shard) -> TreatedImages:
    """Read the images that `treat` has written."""
    return TreatedImages.from_arrays(read_arrays(shard.run.store, *shard.path))


def _load(
    table: pa.Table, treatment: Treatment, classifier: Classifier, start: int
) -> tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.uint8]]:
    """Load row numbers, digests and pixels (n, side, side, 3) of the images that can be read."""
    rows, image_ids, pixels, side = [], [], [], classifier.spec.side
    for row, ref in enumerate(image_refs(table), start):
        try:
            found = find(ref)
            image = found.image()
        except (BadImageError, OSError, SourceError):
            continue  # a set's size and the rows of its shards show how many are missing
        if treatment.kind == "corruption":
            level = int(treatment.strength or 0)
            image = Image.fromarray(corrupt(np.asarray(image), treatment.name, level, seed=row))
        rows.append(row)
        image_ids.append(np.frombuffer(found.image_id, np.uint8))
        pixels.append(resize(image, side))
    return (
        np.asarray(rows, np.int64),
        np.asarray(image_ids, np.uint8).reshape(-1, 32),
        np.asarray(pixels, np.uint8).reshape(-1, side, side, 3),
    )


def _attack(
    shard: Shard, target: Target, pixels: Tensor, images: TreatedImages, table: pa.Table
) -> TreatedImages:
    """Attack the images of a shard, and keep them as files if requested."""
    treatment, seed = shard.treatment, shard.number
    truth = torch.as_tensor(images.label.astype(np.int64), device=pixels.device)
    computed = attack(treatment.name, target, pixels, truth, treatment.strength, seed)
    file = round_to_8_bits(computed)
    noise = round_to_8_bits(matched_noise(pixels, computed, treatment.strength, seed))
    if shard.run.save_attacks:
        _save_attacked(shard, to_images(file), table)
    forms = {FILE: file, NOISE: noise, COMPUTED: computed}
    return replace(
        images,
        forms={form: gather_evidence(each, target, odin=True) for form, each in forms.items()},
        norms={form: _norms(forms[form] - pixels) for form in (FILE, COMPUTED)},
    )


def _norms(difference: Tensor) -> Norms:
    return Norms(to_numpy(l2_norm(difference)), to_numpy(linf_norm(difference)))


def _save_attacked(shard: Shard, images: NDArray[np.uint8], table: pa.Table) -> None:
    """Write every attacked image (n, S, S, 3) as a PNG, in a folder named after its label."""
    run = shard.run
    for number, (image, row) in enumerate(zip(images, table.to_pylist(), strict=True), shard.start):
        stem = row["uri"].split("::")[0].rsplit("/", 1)[-1].rsplit(".", 1)[0]
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        folder = (run.evaluation, run.detector.name, shard.treatment.key, row["label"])
        run.store.write_bytes(buffer.getvalue(), *attacked_path(*folder, f"{stem}-{number}.png"))


@dataclass(frozen=True)
class ImageRows:
    """Rows of a set of images as files: taps (n, d), logits (n, C), and their identity.

    ``image_ids`` (n, 32) are digests, ``group`` (n,) patients or slides.
    """

    taps: dict[str, NDArray[np.float32]]
    logits: NDArray[np.float32]
    image_ids: NDArray[np.uint8]
    group: NDArray[np.str_]


def read_rows(
    shards: Sequence[Shard], taps: list[str], wanted: NDArray[np.int64] | None = None
) -> ImageRows:
    """Read some taps of the shards of one set, for all their rows or the wanted ones."""
    group = shards[0].run.groups(shards[0].images)
    found = []
    for images in map(read_treated, shards):
        every = np.ones(len(images.rows), bool)
        chosen = np.flatnonzero(every if wanted is None else np.isin(images.rows, wanted))
        if len(chosen):
            evidence = images.forms[FILE]
            some = {tap: evidence.taps[tap] for tap in taps}
            rows = ImageRows(some, evidence.logits, images.image_ids, group[images.rows])
            found.append(take(rows, chosen))
    return join(found)


def load_detector(run: Run) -> Detector:
    """Load the detector of a run."""
    return load_fitted_detector(run.store, run.detector)


@lru_cache(maxsize=4)
def load_target(store: Store, card: DetectorCard, model: ModelCard) -> Target:
    """Load a detector with its classifier, tapped at every stage, to be attacked."""
    detector = load_fitted_detector(store, card)
    classifier = folded(load_classifier(store, model))
    return Target(
        with_taps(classifier, every_stage(classifier.spec)),
        detector,
        threshold(detector.calibration, card.alpha),
        model.temperature,
    )
