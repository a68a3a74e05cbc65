"""Do units of work on a laboratory's slides: learn from them, and judge them without themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flows.jobs import verified, worker
from flows.jobs.scoring.feature_rows import HeldFeatures
from flows.jobs.scoring.night import SlideRows, night_rows
from flows.jobs.scoring.screened import Screened
from storage.batches.manifests import Batch, rows_at
from storage.models.detectors import DetectorCard, LearnedNight
from storage.smears.learned import load_night
from storage.store import Store
from tasks import bundles
from tasks.detector.error_counts import ErrorCounts, merge_errors
from tasks.detector.slides import groups, own_normal
from tasks.detector.slides.groups import reference_rows
from tasks.detector.slides.normal import slide_normal
from tasks.images import decoding, regions
from tasks.images.access.files import SourceError
from tasks.reports.image_columns import is_white_cell
from tasks.smears.laboratories import adaptation, learning
from tasks.types import Counts, Pixels, Single

# A slide's own cells are planted, spoilt so much that nobody would accept them.
SPOILT = {"debris": 4, "noise": 4, "defocus": 5}
SPOILT_A_SLIDE = 20  # spoilt cells per slide
NO_ERRORS = ErrorCounts.empty()
WHITE = "white cells of the slides, by their nucleus"


@dataclass(frozen=True)
class SlidesJob:
    """Slides of a batch whose cells are to be learned; ``night`` is the reference of small ones."""

    screened: Screened
    slides: tuple[SlideRows, ...]
    night: learning.NightNormal | None


def slides_statistics(job: SlidesJob) -> groups.GroupStatistics:
    """Compute what slides add to their laboratory: statistics of the cells in their references."""
    worker.settle_worker()
    population = _population(job.screened.store, job.screened.detector)
    features = HeldFeatures(job.screened.store, job.screened.batch, job.screened.model)
    total = learning.merged([], population)
    for slide in job.slides:
        cells, _ = _cells(features, job.screened.batch, slide, sorted(population.priors))
        total = groups.merge_groups(
            total, learning.kept_statistics(population, cells, total.classes, job.night)
        )
    return total


def learned_night(screened: Screened) -> learning.NightNormal:
    """Make one normal, perhaps from few cells, of a night that a person vouches for."""
    detector = verified.load_detector(screened.store, screened.detector)
    assert detector.own is not None
    rows = night_rows(screened.batch)
    features = HeldFeatures(screened.store, screened.batch, screened.model)
    cells = features.take(rows, detector.taps)
    least = learning.LEAST_CELLS
    normal = slide_normal(detector.own.priors, cells.taps, cells.classes, least)
    return learning.NightNormal(normal, rows[normal.kept])


@dataclass(frozen=True)
class EvidenceJob:
    """Slides of a night of the laboratory ``name``, each to be judged by the laboratory without it.

    ``planted`` are other things by name, taps (m, d) and classes (m,), to judge as if they were
    cells of the slides; with ``spoil``, so are spoilt copies of the slides' own cells.
    """

    screened: Screened
    name: str
    nights: tuple[LearnedNight, ...]
    slides: tuple[SlideRows, ...]
    planted: learning.Planted
    spoil: bool


@dataclass(frozen=True)
class JudgedSlide:
    """The evidence on a slide, and the number (C, C) of labelled cells by label and diagnosis."""

    evidence: learning.SlideEvidence
    confusion: Counts


def judge_slides(job: EvidenceJob) -> list[JudgedSlide]:
    """Judge slides by their laboratory without them; slides that cannot be judged are left out."""
    worker.settle_worker()
    screened, store, batch = job.screened, job.screened.store, job.screened.batch
    detector = verified.load_detector(store, screened.detector)
    population = _population(store, screened.detector)
    statistics = laboratory_statistics(store, job.name, job.nights, screened.detector)
    (learned,) = (each for each in job.nights if each.batch == batch.name)
    night = Added.from_arrays(load_night(store, job.name, learned)).normal
    features = HeldFeatures(store, batch, screened.model)
    judged = []
    for slide in job.slides:
        cells, labels = _cells(features, batch, slide, sorted(population.priors))
        planted = dict(job.planted)
        white = ~cells.ordinary & (cells.predicted >= 0)
        if white.any():
            taps = {tap: values[white] for tap, values in cells.taps.items()}
            planted[WHITE] = taps, cells.predicted[white]
        if job.spoil:
            planted |= _spoilt(job, cells)
        evidence = learning.slide_evidence(detector, statistics, cells, night, planted)
        if evidence is not None:
            known = (labels >= 0) & (cells.predicted >= 0)
            confusion = np.zeros((len(screened.model.classes),) * 2, np.int64)
            np.add.at(confusion, (labels[known].astype(np.intp), cells.predicted[known]), 1)
            judged.append(JudgedSlide(evidence, confusion))
    return judged


@dataclass(frozen=True)
class Added(bundles.Bundle):
    """A night's contribution to its laboratory: statistics of slides, known errors, labelled cells.

    ``normal`` is the reference that small slides used; None if no slide was small.
    """

    statistics: groups.GroupStatistics
    normal: learning.NightNormal | None = None
    errors: ErrorCounts = NO_ERRORS
    labelled: adaptation.Labelled = adaptation.NO_LABELS


@lru_cache(maxsize=2)
def laboratory_statistics(
    store: Store, laboratory: str, nights: tuple[LearnedNight, ...], detector: DetectorCard
) -> groups.GroupStatistics:
    """Merge the contributions of nights to a laboratory in their order, once per process."""
    parts = [Added.from_arrays(load_night(store, laboratory, night)).statistics for night in nights]
    return learning.merged(parts, _population(store, detector))


def laboratory_errors(
    store: Store, laboratory: str, nights: Sequence[LearnedNight]
) -> tuple[ErrorCounts, adaptation.Labelled]:
    """Merge the known errors of a laboratory's nights, and their labelled cells."""
    added = [Added.from_arrays(load_night(store, laboratory, night)) for night in nights]
    errors = reduce(merge_errors, (each.errors for each in added), NO_ERRORS)
    return errors, adaptation.joined(each.labelled for each in added)


def _population(store: Store, detector: DetectorCard) -> own_normal.OwnNormal:
    normals = verified.load_detector(store, detector).own
    assert normals is not None
    return normals


def _cells(
    features: HeldFeatures, batch: Batch, slide: SlideRows, taps: list[str]
) -> tuple[learning.SlideCells, NDArray[np.int8]]:
    rows = slide.start + reference_rows(slide.stop - slide.start)
    values: dict[str, list[Single]] = {tap: [] for tap in taps}
    classes, ordinary, labels = [], [], []
    for held, places in features.holding(rows):
        for tap in taps:
            values[tap].append(held.block.taps[tap][places])
        classes.append(held.classes[places])
        ordinary.append(~is_white_cell(held.manifest)[places])
        labels.append(held.block.label[places])
    cells = learning.SlideCells(
        groups.GroupKey(batch.key, slide.patient or "", slide.slide or ""),
        rows,
        {tap: np.concatenate(parts) for tap, parts in values.items()},
        np.concatenate(classes),
        np.concatenate(ordinary),
    )
    return cells, np.concatenate(labels)


def _spoilt(job: EvidenceJob, cells: learning.SlideCells) -> learning.Planted:
    """Spoil some of a slide's own cells, and run the network on them."""
    # Only workers run this, and PyTorch takes seconds to import.
    from tasks.smears.evaluation.treatments import corrupt

    judged = np.flatnonzero(cells.ordinary & (cells.predicted >= 0))
    chosen = cells.rows[judged[reference_rows(len(judged), SPOILT_A_SLIDE)]]
    inference = worker.network_of(job.screened.store, job.screened.model)
    pixels: dict[str, list[Pixels]] = {name: [] for name in SPOILT}
    cut: list[bool] = []
    manifest = rows_at(job.screened.store, job.screened.batch, chosen.tolist())
    for ref in regions.image_refs(manifest) if len(chosen) else ():
        try:
            image = np.asarray(regions.find(ref).image())
        except (decoding.BadImageError, OSError, SourceError):
            continue  # moved since it was extracted: the others are enough
        cut.append(ref.outline is not None)
        for name, level in SPOILT.items():
            spoilt = Image.fromarray(corrupt(image, name, level))
            pixels[name].append(decoding.resize(spoilt, inference.spec.side))
    features: learning.Planted = {}
    for name, some in pixels.items():
        if some:
            taps, logits = inference.compared(np.stack(some), np.asarray(cut))
            features[f"{name} on own cells"] = taps, logits.argmax(axis=1).astype(np.intp)
    return features
