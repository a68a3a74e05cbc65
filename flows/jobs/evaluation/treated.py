"""Do an evaluation's units of work: features of images under a treatment, fits, scores.

Files are written complete or not at all, so any worker can repeat an interrupted unit.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

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
    part_path,
    read_arrays,
    write_arrays,
)
from storage.store import Store
from tasks.bundles import join, take
from tasks.detector.calibration import threshold
from tasks.detector.detector import Detector
from tasks.evaluation.evidence import gather_evidence, to_images, to_numpy
from tasks.evaluation.false_alarms import Images, Realised, realised
from tasks.evaluation.parts import (
    COMPUTED,
    FILE,
    NOISE,
    Norms,
    Pictures,
    Transfer,
    TreatedPart,
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

PICTURES = 2  # images of each part that are kept for display


@dataclass(frozen=True)
class Run:
    """An evaluation of one detector, with the data that its units of work share.

    ``model`` is the detector's, and ``other`` a model for the transfer of attacks; slides are also
    judged at ``laboratory``, if there is one.
    """

    store: Store
    evaluation: str
    detector: DetectorCard
    model: ModelCard
    magnitudes: tuple[float, ...]
    other: ModelCard | None = None
    save_attacks: bool = False
    laboratory: LaboratoryCard | None = None


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
        """Locate the part's features, relative to the store."""
        run = self.run
        return part_path(
            run.evaluation, run.detector.name, self.images, self.treatment.key, self.number
        )


def parts(run: Run, images: str, treatment: Treatment, rows: int, size: int) -> list[PartJob]:
    """Split a set of images into jobs of ``size`` rows each."""
    return [
        PartJob(run, images, treatment, number, start, min(start + size, rows))
        for number, start in enumerate(range(0, rows, size))
    ]


def make_part(job: PartJob) -> None:
    """Write a part's features, unless they exist."""
    run = job.run
    if run.store.exists(*job.path):
        return
    settle_worker()
    target = load_target(run.store, run.detector, run.model)
    table = read_table(run.store, *images_path(run.evaluation, run.detector.name, job.images))
    table = table.slice(job.start, job.stop - job.start)
    rows, image_ids, pixels = _load(table, job.treatment, target.classifier, job.start)
    table = table.take(rows - job.start)
    part = TreatedPart(rows, image_ids, class_numbers(table, target.classifier.spec.classes))
    if len(rows):
        start = to_pixels(pixels).to(target.classifier.mean.device)
        if job.treatment.kind == "attack":
            part = _attack(job, target, start, part, table)
        else:
            magnitudes = run.magnitudes if job.treatment.kind == "none" else ()
            evidence = gather_evidence(start, target, magnitudes)
            part = replace(part, forms={FILE: evidence}, pictures=Pictures(pixels[:PICTURES]))
        part = _compared(part, target.classifier, cut_out_by_us(image_refs(table)))
    write_arrays(run.store, part.to_arrays(), *job.path)


def _compared(part: TreatedPart, classifier: Classifier, cut: NDArray[np.bool_]) -> TreatedPart:
    """Take from the outputs of cells that slidewatch cut out (n,) what the cutting adds to them."""
    forms = {}
    for form, each in part.forms.items():
        moved = partial(without_shift, shift=classifier.cutting, cut=cut)
        forms[form] = replace(
            each,
            taps=moved(each.taps),
            logits=moved({LOGITS: each.logits})[LOGITS],
            odin={m: moved({LOGITS: logits})[LOGITS] for m, logits in each.odin.items()},
            moved={m: moved(taps) for m, taps in each.moved.items()},
        )
    return replace(part, forms=forms)


def read_part(job: PartJob) -> TreatedPart:
    """Read a part that `make_part` has written."""
    return TreatedPart.from_arrays(read_arrays(job.run.store, *job.path))


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
            continue  # a set's size and the rows of its parts show how many are missing
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
    job: PartJob, target: Target, pixels: Tensor, part: TreatedPart, table: pa.Table
) -> TreatedPart:
    """Attack the images of a part, and keep them as files if requested."""
    run, treatment, seed = job.run, job.treatment, job.number
    truth = torch.as_tensor(part.label.astype(np.int64), device=pixels.device)
    computed = attack(treatment.name, target, pixels, truth, treatment.strength, seed)
    file = round_to_8_bits(computed)
    noise = round_to_8_bits(matched_noise(pixels, computed, treatment.strength, seed))
    transfer = None
    if run.other is not None:
        other = tapped_classifier(run.store, run.other)
        with torch.inference_mode():
            transfer = Transfer(to_numpy(other(pixels)), to_numpy(other(file)))
    images = to_images(file)
    if run.save_attacks:
        _save_attacked(job, images, table)
    return replace(
        part,
        forms={
            FILE: gather_evidence(file, target, run.magnitudes),
            NOISE: gather_evidence(noise, target, run.magnitudes),
            # Images that no file can store are scored for the record, without pre-processing.
            COMPUTED: gather_evidence(computed, target, ()),
        },
        norms={FILE: _norms(file - pixels), COMPUTED: _norms(computed - pixels)},
        transfer=transfer,
        pictures=Pictures(images[:PICTURES], to_images(pixels)[:PICTURES]),
    )


def _norms(difference: Tensor) -> Norms:
    return Norms(to_numpy(l2_norm(difference)), to_numpy(linf_norm(difference)))


def _save_attacked(job: PartJob, images: NDArray[np.uint8], table: pa.Table) -> None:
    """Write every attacked image (n, S, S, 3) as a PNG, in a folder named after its label."""
    run = job.run
    for number, (image, row) in enumerate(zip(images, table.to_pylist(), strict=True), job.start):
        stem = row["uri"].split("::")[0].rsplit("/", 1)[-1].rsplit(".", 1)[0]
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        folder = (run.evaluation, run.detector.name, job.treatment.key, row["label"])
        run.store.write_bytes(buffer.getvalue(), *attacked_path(*folder, f"{stem}-{number}.png"))


@dataclass(frozen=True)
class FalseAlarmJob:
    """Ordinary images of unseen patients against calibrations by ``patients`` fitted ones.

    ``rows`` are the rows of the unseen set that count.
    """

    run: Run
    patients: int
    rows: NDArray[np.int64]
    fitted: tuple[PartJob, ...]
    unseen: tuple[PartJob, ...]
    alphas: tuple[float, ...]


def false_alarms(job: FalseAlarmJob) -> list[Realised]:
    """Compute the realised false-alarm rates of both ways of calibrating."""
    taps = load_detector(job.run).taps
    unseen = _images(job.unseen, taps, job.rows)
    return realised(_images(job.fitted, taps), unseen, job.patients, job.alphas)


def _images(
    jobs: tuple[PartJob, ...], taps: list[str], wanted: NDArray[np.int64] | None = None
) -> Images:
    found = read_rows(jobs, taps, wanted)
    return Images([found.taps[tap] for tap in taps], found.label, found.group)


@dataclass(frozen=True)
class PartRows:
    """Rows of a set of images as files: taps (n, d), logits (n, C), and their identity.

    ``image_ids`` (n, 32) are digests, ``label`` (n,) classes, ``group`` (n,) patients or slides.
    """

    taps: dict[str, NDArray[np.float32]]
    logits: NDArray[np.float32]
    label: NDArray[np.int8]
    image_ids: NDArray[np.uint8]
    group: NDArray[np.str_]


def read_rows(
    jobs: Sequence[PartJob], taps: list[str], wanted: NDArray[np.int64] | None = None
) -> PartRows:
    """Read some taps of the parts of one set, for all their rows or the wanted ones."""
    run = jobs[0].run
    table = read_table(run.store, *images_path(run.evaluation, run.detector.name, jobs[0].images))
    group = np.asarray(table["group"].to_pylist())
    found = []
    for part in map(read_part, jobs):
        every = np.ones(len(part.rows), bool)
        chosen = np.flatnonzero(every if wanted is None else np.isin(part.rows, wanted))
        if len(chosen):
            evidence = part.forms[FILE]
            some = {tap: evidence.taps[tap] for tap in taps}
            rows = PartRows(some, evidence.logits, part.label, part.image_ids, group[part.rows])
            found.append(take(rows, chosen))
    return join(found)


def load_detector(run: Run) -> Detector:
    """Load the detector of a run."""
    return load_fitted_detector(run.store, run.detector)


@lru_cache(maxsize=4)
def tapped_classifier(store: Store, model: ModelCard) -> Classifier:
    """Load a classifier, tapped at every stage, without gradients of its weights."""
    classifier = folded(load_classifier(store, model))
    return with_taps(classifier, every_stage(classifier.spec))


@lru_cache(maxsize=4)
def load_target(store: Store, card: DetectorCard, model: ModelCard) -> Target:
    """Load a detector with its classifier, to be attacked."""
    detector = load_fitted_detector(store, card)
    alarm = threshold(detector.calibration, card.alpha)
    return Target(tapped_classifier(store, model), detector, alarm, model.temperature)
