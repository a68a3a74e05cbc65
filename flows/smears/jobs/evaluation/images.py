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
from PIL import Image
from torch import Tensor

from flows.jobs import networks, verified, worker
from storage.models import classifiers, detectors
from storage.parquet import read_table
from storage.smears import evaluations
from storage.store import Store
from tasks import bundles
from tasks.detector.calibration import threshold
from tasks.detector.detector import Detector
from tasks.images import decoding, regions
from tasks.images.access.files import SourceError
from tasks.images.listing import class_numbers
from tasks.network import backbones, extraction, gpu
from tasks.network.classifier import Classifier, to_pixels, with_taps
from tasks.network.cutting import LOGITS, without_shift
from tasks.smears.evaluation import treated
from tasks.smears.evaluation.evidence import gather_evidence, to_images, to_numpy
from tasks.smears.evaluation.treatments import attacks
from tasks.smears.evaluation.treatments.corruptions import corrupt
from tasks.types import Counts, Mask, Pixels, Single, Texts


@dataclass(frozen=True)
class Run:
    """An evaluation of one detector, with the data that its units of work share.

    ``model`` is the detector's; slides are also judged by ``commissioned``, if there is one: a
    detector that it is the parent of.
    """

    store: Store
    evaluation: str
    detector: detectors.DetectorCard
    model: classifiers.ModelCard
    save_attacks: bool = False
    commissioned: detectors.DetectorCard | None = None

    def images(self, name: str) -> pa.Table:
        """Read the list of a set of images."""
        return read_table(
            self.store, *evaluations.images_path(self.evaluation, self.detector.name, name)
        )

    def groups(self, name: str) -> Texts:
        """Read the patient, slide or image that each image of a set belongs to."""
        return np.asarray(self.images(name)["group"].to_pylist())


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of a set of images, under a treatment."""

    run: Run
    images: str
    treatment: treated.Treatment
    number: int
    start: int
    stop: int

    @property
    def path(self) -> tuple[str, ...]:
        """Locate the shard's features, relative to the store."""
        run = self.run
        return evaluations.shard_path(
            run.evaluation, run.detector.name, self.images, self.treatment.key, self.number
        )


def shards(
    run: Run, images: str, treatment: treated.Treatment, rows: int, size: int
) -> list[Shard]:
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
    worker.settle_worker()
    target = load_target(run.store, run.detector, run.model)
    classifier = target.classifier
    table = run.images(shard.images).slice(shard.start, shard.stop - shard.start)
    rows, image_ids, pixels = _load(table, treatment, classifier, shard.start)
    table = table.take(rows - shard.start)
    images = treated.TreatedImages(rows, image_ids, class_numbers(table, classifier.spec.classes))
    if len(rows):
        start = to_pixels(pixels).to(classifier.mean.device)
        if treatment.kind == "attack":
            images = _attack(shard, target, start, images, table)
        else:
            evidence = gather_evidence(start, target, odin=treatment.kind == "none")
            images = replace(images, forms={treated.FILE: evidence})
        cut = extraction.cut_out_by_us(regions.image_refs(table))
        forms = {form: _shifted(each, classifier, cut) for form, each in images.forms.items()}
        images = replace(images, forms=forms)
    evaluations.write_arrays(run.store, images.to_arrays(), *shard.path)


def _shifted(evidence: treated.Evidence, classifier: Classifier, cut: Mask) -> treated.Evidence:
    """Subtract the cutting shift from the outputs for cells that slidewatch cut out (n,)."""
    taps = without_shift(evidence.taps, classifier.cutting, cut)
    logits, odin = (
        None if each is None else without_shift({LOGITS: each}, classifier.cutting, cut)[LOGITS]
        for each in (evidence.logits, evidence.odin)
    )
    assert logits is not None
    return replace(evidence, taps=taps, logits=logits, odin=odin)


def read_treated(shard: Shard) -> treated.TreatedImages:
    """Read the images that `treat` has written."""
    return treated.TreatedImages.from_arrays(evaluations.read_arrays(shard.run.store, *shard.path))


def _load(
    table: pa.Table, treatment: treated.Treatment, classifier: Classifier, start: int
) -> tuple[Counts, Pixels, Pixels]:
    """Load row numbers, digests and pixels (n, side, side, 3) of the images that can be read."""
    rows, image_ids, pixels, side = [], [], [], classifier.spec.side
    for row, ref in enumerate(regions.image_refs(table), start):
        try:
            picture = regions.find(ref)
            image = picture.image()
        except (decoding.BadImageError, OSError, SourceError):
            continue  # a set's size and the rows of its shards show how many are missing
        if treatment.kind == "corruption":
            level = int(treatment.strength or 0)
            image = Image.fromarray(corrupt(np.asarray(image), treatment.name, level, seed=row))
        rows.append(row)
        image_ids.append(np.frombuffer(picture.image_id, np.uint8))
        pixels.append(decoding.resize(image, side))
    return (
        np.asarray(rows, np.int64),
        np.asarray(image_ids, np.uint8).reshape(-1, 32),
        np.asarray(pixels, np.uint8).reshape(-1, side, side, 3),
    )


def _attack(
    shard: Shard,
    target: attacks.Target,
    pixels: Tensor,
    images: treated.TreatedImages,
    table: pa.Table,
) -> treated.TreatedImages:
    """Attack the images of a shard, and keep them as files if requested."""
    treatment, seed = shard.treatment, shard.number
    truth = torch.as_tensor(images.label.astype(np.int64), device=pixels.device)
    computed = attacks.attack(treatment.name, target, pixels, truth, treatment.strength, seed)
    file = attacks.round_to_8_bits(computed)
    noise = attacks.round_to_8_bits(
        attacks.matched_noise(pixels, computed, treatment.strength, seed)
    )
    if shard.run.save_attacks:
        _save_attacked(shard, to_images(file), table)
    forms = {treated.FILE: file, treated.NOISE: noise, treated.COMPUTED: computed}
    return replace(
        images,
        forms={form: gather_evidence(each, target, odin=True) for form, each in forms.items()},
        norms={form: _norms(forms[form] - pixels) for form in (treated.FILE, treated.COMPUTED)},
    )


def _norms(difference: Tensor) -> treated.Norms:
    return treated.Norms(
        to_numpy(attacks.l2_norm(difference)), to_numpy(attacks.linf_norm(difference))
    )


def _save_attacked(shard: Shard, images: Pixels, table: pa.Table) -> None:
    """Write every attacked image (n, S, S, 3) as a PNG, in a folder named after its label."""
    run = shard.run
    for number, (image, row) in enumerate(zip(images, table.to_pylist(), strict=True), shard.start):
        stem = row["uri"].split("::")[0].rsplit("/", 1)[-1].rsplit(".", 1)[0]
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        folder = (run.evaluation, run.detector.name, shard.treatment.key, row["label"])
        run.store.write_bytes(
            buffer.getvalue(), *evaluations.attacked_path(*folder, f"{stem}-{number}.png")
        )


@dataclass(frozen=True)
class ImageRows:
    """Rows of a set of images as files: taps (n, d), logits (n, C), and their identity.

    ``image_ids`` (n, 32) are digests, ``group`` (n,) patients or slides.
    """

    taps: dict[str, Single]
    logits: Single
    image_ids: Pixels
    group: Texts


def read_rows(shards: Sequence[Shard], taps: list[str], wanted: Counts | None = None) -> ImageRows:
    """Read some taps of the shards of one set, for all their rows or the wanted ones."""
    group = shards[0].run.groups(shards[0].images)
    parts = []
    for images in map(read_treated, shards):
        every = np.ones(len(images.rows), bool)
        chosen = np.flatnonzero(every if wanted is None else np.isin(images.rows, wanted))
        if len(chosen):
            evidence = images.forms[treated.FILE]
            some = {tap: evidence.taps[tap] for tap in taps}
            rows = ImageRows(some, evidence.logits, images.image_ids, group[images.rows])
            parts.append(bundles.take(rows, chosen))
    return bundles.join(parts)


def load_detector(run: Run) -> Detector:
    """Load the detector of a run."""
    return verified.load_detector(run.store, run.detector)


@lru_cache(maxsize=4)
def load_target(
    store: Store, card: detectors.DetectorCard, model: classifiers.ModelCard
) -> attacks.Target:
    """Load a detector with its classifier, tapped at every stage, to be attacked."""
    detector = verified.load_detector(store, card)
    classifier = gpu.folded(networks.load_classifier(store, model))
    return attacks.Target(
        with_taps(classifier, backbones.every_stage(classifier.spec)),
        detector,
        threshold(detector.calibration, card.alpha),
        model.temperature,
    )
