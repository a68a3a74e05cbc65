"""Compute the features of an evaluation's images under a treatment, shard by shard.

Files are written complete or not at all, so any worker can repeat an interrupted shard.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flows.jobs import networks, verified, worker
from storage.models import classifiers, detectors
from storage.parquet import read_table
from storage.smears import evaluations
from storage.store import Store
from tasks import bundles
from tasks.detector.detector import Detector
from tasks.images import decoding, regions
from tasks.images.access.files import SourceError
from tasks.images.listing import class_numbers
from tasks.network import extraction, gpu
from tasks.network.classifier import Classifier, to_pixels, with_taps
from tasks.network.cutting import LOGITS, without_shift
from tasks.network.spec import PENULTIMATE, NetworkSpec
from tasks.smears.evaluation import compositions, scored, treatments
from tasks.smears.evaluation.rivals import gather_evidence
from tasks.types import Counts, Mask, Pixels, Single, Texts

ROWS, ATTACKED_ROWS = 512, 64  # images per shard


@dataclass(frozen=True)
class Run:
    """An evaluation of one detector and its model, which units of work share."""

    store: Store
    evaluation: str
    detector: detectors.DetectorCard
    model: classifiers.ModelCard

    def images(self, name: str) -> pa.Table:
        """Read the list of a set of images."""
        return read_table(
            self.store, *evaluations.images_path(self.evaluation, self.detector.name, name)
        )

    def groups(self, name: str) -> Texts:
        """Read the patient, slide or image that each image of a set belongs to."""
        return np.asarray(self.images(name)["group"].to_pylist())


@dataclass(frozen=True)
class SetShard:
    """Rows ``start`` to ``stop`` of a set of images, under a treatment."""

    run: Run
    images: str
    treatment: scored.Treatment
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


def shards(run: Run, images: str, treatment: scored.Treatment) -> list[SetShard]:
    """Split a set of images into shards."""
    rows = run.images(images).num_rows
    size = ATTACKED_ROWS if treatment.kind == "attack" else ROWS
    return [
        SetShard(run, images, treatment, number, start, min(start + size, rows))
        for number, start in enumerate(range(0, rows, size))
    ]


def treat(shard: SetShard) -> None:
    """Write a shard's features, unless they exist."""
    run = shard.run
    if run.store.exists(*shard.path):
        return
    worker.settle_worker()
    spec = NetworkSpec.from_dict(run.model.network)
    table = run.images(shard.images).slice(shard.start, shard.stop - shard.start)
    rows, image_ids, pixels = _load(table, shard.treatment, spec.side, shard.start)
    table = table.take(rows - shard.start)
    labels, forms = class_numbers(table, spec.classes), {}
    if len(rows):
        cut = extraction.cut_out_by_us(regions.image_refs(table))
        forms = _evidence(shard, pixels, labels, cut)
    images = scored.TreatedImages(rows, image_ids, labels, forms)
    evaluations.write_arrays(run.store, images.to_arrays(), *shard.path)


def _evidence(
    shard: SetShard, pixels: Pixels, labels: NDArray[np.int8], cut: Mask
) -> dict[str, scored.ImageEvidence]:
    """Gather the evidence on images (n, side, side, 3) in each form; ``cut`` (n,) as `_shifted`."""
    run, treatment = shard.run, shard.treatment
    if detectors.is_shipped(run.detector):  # it has no weights for PyTorch, so no gradients
        inference = networks.load_inference(run.store, run.model)
        return {scored.FILE: scored.ImageEvidence(*inference.compared(pixels, cut))}
    classifier = load_tapped(run.store, run.model)
    pictures = {scored.FILE: to_pixels(pixels).to(classifier.mean.device)}
    if treatment.kind == "attack":
        pictures = _attacked(shard, classifier, pictures[scored.FILE], labels)
    odin = treatment.kind != "corruption"
    return {
        form: _shifted(gather_evidence(each, classifier, odin=odin), classifier, cut)
        for form, each in pictures.items()
    }


def _load(
    table: pa.Table, treatment: scored.Treatment, side: int, start: int
) -> tuple[Counts, Pixels, Pixels]:
    """Load row numbers, digests and pixels (n, side, side, 3) of the images that can be read."""
    rows, image_ids, pixels = [], [], []
    for row, ref in enumerate(regions.image_refs(table), start):
        try:
            picture = regions.find(ref)
            image = picture.image()
        except (decoding.BadImageError, OSError, SourceError):
            continue  # a set's size and the rows of its shards show how many are missing
        if treatment.kind == "corruption":
            level = int(treatment.strength or 0)
            image = Image.fromarray(
                treatments.corrupt(np.asarray(image), treatment.name, level, seed=row)
            )
        rows.append(row)
        image_ids.append(np.frombuffer(picture.image_id, np.uint8))
        pixels.append(decoding.resize(image, side))
    return (
        np.asarray(rows, np.int64),
        np.asarray(image_ids, np.uint8).reshape(-1, 32),
        np.asarray(pixels, np.uint8).reshape(-1, side, side, 3),
    )


def _attacked(
    shard: SetShard, classifier: Classifier, pixels: Tensor, labels: NDArray[np.int8]
) -> dict[str, Tensor]:
    """Attack the images of a shard, and add noise as large to others; both as files keep them."""
    name, strength, seed = shard.treatment.name, shard.treatment.strength, shard.number
    assert strength is not None
    truth = torch.as_tensor(labels.astype(np.int64), device=pixels.device)
    forms = {
        scored.FILE: treatments.attack(name, classifier, pixels, truth, strength, seed),
        scored.NOISE: treatments.matched_noise(pixels, strength, seed),
    }
    return {form: treatments.round_to_8_bits(each) for form, each in forms.items()}


def _shifted(
    evidence: scored.ImageEvidence, classifier: Classifier, cut: Mask
) -> scored.ImageEvidence:
    """Subtract the cutting shift from the outputs for cells that slidewatch cut out (n,)."""

    def shifted(outputs: dict[str, Single]) -> dict[str, Single]:
        return without_shift(outputs, classifier.cutting, cut)

    odin = evidence.odin
    return replace(
        evidence,
        taps=shifted(dict(evidence.taps)),
        logits=shifted({LOGITS: evidence.logits})[LOGITS],
        odin=None if odin is None else shifted({LOGITS: odin})[LOGITS],
    )


def read_treated(shard: SetShard) -> scored.TreatedImages:
    """Read the images that `treat` has written."""
    return scored.TreatedImages.from_arrays(evaluations.read_arrays(shard.run.store, *shard.path))


def read_cells(
    shards: Sequence[SetShard], taps: list[str], wanted: Counts | None = None
) -> compositions.CellSet:
    """Read some taps of the shards of one set, for all their rows or the wanted ones."""
    group = shards[0].run.groups(shards[0].images)
    parts = []
    for images in map(read_treated, shards):
        every = np.ones(len(images.rows), bool)
        chosen = np.flatnonzero(every if wanted is None else np.isin(images.rows, wanted))
        if len(chosen):
            evidence = images.forms[scored.FILE]
            cells = compositions.CellSet(
                {tap: evidence.taps[tap] for tap in taps},
                evidence.logits.argmax(axis=1),
                group[images.rows],
                np.asarray([row.tobytes().hex() for row in images.image_ids]),
                images.label,
            )
            parts.append(bundles.take(cells, chosen))
    return bundles.join(parts)


def load_detector(run: Run) -> Detector:
    """Load the detector of a run."""
    return verified.load_detector(run.store, run.detector)


@lru_cache(maxsize=4)
def load_tapped(store: Store, model: classifiers.ModelCard) -> Classifier:
    """Load a classifier that rivals can score by, too: with the penultimate tap."""
    classifier = gpu.folded(networks.load_classifier(store, model))
    return with_taps(classifier, tuple(dict.fromkeys((*classifier.spec.taps, PENULTIMATE))))
