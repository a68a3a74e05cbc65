"""Make and keep versions of a laboratory, and remove a night from one."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from distributed import Client
from numpy.typing import NDArray

from flows.cluster.executor import run_jobs
from flows.commissioning.errors import errors_of_night
from flows.jobs.laboratory_slides import (
    EvidenceJob,
    Judged,
    fitted_classes,
    judge_slides,
    laboratory_errors,
    laboratory_statistics,
)
from flows.jobs.scoring.night import SlideRows
from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.screened import Screened
from flows.jobs.verified import load_fitted_detector
from flows.monitoring.console import tell
from flows.stages.counting.chosen_thresholds import COUNTING, laboratory_counting
from storage.arrays import arrays_to_bytes
from storage.batches.manifests import Batch, load_batch
from storage.leases import Lease, lease
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard, load_detector_card, load_model_of
from storage.models.laboratories import (
    FOLDER,
    AdaptationCard,
    LaboratoryCard,
    LaboratoryNight,
    load_laboratory,
    save_laboratory,
)
from storage.records import now
from storage.store import Store, StoreError, check_name, digest_of
from tasks.counting.error_rates import ErrorCounts, merge_errors
from tasks.counting.interpretation import KnownRates
from tasks.detector.slides.own_normal import OwnNormal
from tasks.laboratories.adaptation import Fitted, Trial, try_adaptation
from tasks.laboratories.commissioning import (
    OWN,
    Figure,
    false_alarms,
    laboratory_warnings,
    smear_warnings,
)
from tasks.laboratories.learning import LaboratoryNormal, laboratory_normal
from tasks.types import nested

CALIBRATING = 200  # slides at most, spread evenly over commissioned nights; each is scored again
SLIDES_A_JOB = 8

Other = tuple[str, dict[str, NDArray[np.float32]], NDArray[np.intp]]  # name, taps, classes


class LaboratoryError(Exception):
    """A laboratory cannot be made from these nights."""


@dataclass(frozen=True)
class Version:
    """A version to be kept, with the data for its report."""

    card: LaboratoryCard
    content: bytes
    normal: LaboratoryNormal
    judged: list[Judged]
    alarms: list[Figure]
    rates: KnownRates | None
    trial: Trial | None


@dataclass(frozen=True)
class Laboratory:
    """A laboratory under its lease, and the detector of its next version.

    ``known`` is its newest version, if there is one.
    """

    client: Client
    held: Lease
    name: str
    known: LaboratoryCard | None
    detector: DetectorCard

    @property
    def store(self) -> Store:
        """Return the store, in which only the holder of the lease can write."""
        return self.held.store

    @cached_property
    def model(self) -> ModelCard:
        """Load the card of the detector's model."""
        return load_model_of(self.store, self.detector)

    @cached_property
    def own(self) -> OwnNormal:
        """Load the normal of fitted slides; LaboratoryError if the detector has none."""
        return population(self.store, self.detector)

    def screened(self, batch: Batch) -> Screened:
        """Return a batch as it is judged without the laboratory."""
        return Screened(self.store, batch, self.model, self.detector)

    def batches(self, nights: Iterable[LaboratoryNight]) -> list[Batch]:
        """Load the batches of nights."""
        return [load_batch(self.store, night.batch, night.attempt) for night in nights]


def laboratory_lease(store: Store, laboratory: str) -> AbstractContextManager[Lease]:
    """Take the lease of a laboratory, after waiting for its present holder."""
    check_name("laboratory", laboratory)
    return lease(store, FOLDER, laboratory, wait=True, on_wait=tell)


def population(store: Store, detector: DetectorCard) -> OwnNormal:
    """Load the normal of fitted slides; LaboratoryError if the detector has none."""
    normals = load_fitted_detector(store, detector).own
    if normals is None:
        raise LaboratoryError(
            f"detector {detector.name} does not know how slides differ, so no laboratory can be "
            "learned with it: fit a batch that names at least 8 patients or slides"
        )
    return normals


def slides_in_parts(store: Store, batch: Batch) -> list[tuple[SlideRows, ...]]:
    """List the slides of a batch in parts, each the work of a job."""
    return [part.slides for part in plan_parts(store, batch, by_slide=True)]


def make_version(
    lab: Laboratory,
    nights: Sequence[LaboratoryNight],
    operation: str,
    *,
    planted: Sequence[Other] = (),
    spoilt_slides: int = 0,
) -> Version:
    """Make the next version of a laboratory; features of its nights are read again.

    Things ``planted`` are tried on its slides, and on ``spoilt_slides`` of them spoilt cells.
    """
    store, laboratory, known, detector = lab.store, lab.name, lab.known, lab.detector
    statistics = laboratory_statistics(store, laboratory, tuple(nights), detector)
    jobs = _evidence_jobs(lab, nights, planted, spoilt_slides)
    parts = run_jobs(lab.client, judge_slides, jobs, title=f"laboratory {laboratory}")
    judged = [each for part in parts for each in part]
    evidence = [each.evidence for each in judged]
    normal = laboratory_normal(lab.own, statistics, evidence)
    alarms = false_alarms(lab.own, normal.reference, evidence)
    errors, labelled = laboratory_errors(store, laboratory, nights)
    trial = try_adaptation(labelled, _fitted(store, detector) if labelled.features else None)
    discriminant = trial.change.discriminant if trial and trial.accepted else None
    if discriminant is not None:
        normal = replace(normal, discriminant=discriminant)
        errors = ErrorCounts.empty()
        for night, batch in zip(nights, lab.batches(nights), strict=True):
            again = errors_of_night(lab.client, lab.screened(batch), night.negative, discriminant)
            errors = merge_errors(errors, again)
    rates, counting, unsure = laboratory_counting(store, detector, errors)
    counted = nested(COUNTING, rates.to_arrays()) if rates else {}
    content = arrays_to_bytes(normal.to_arrays() | counted)
    version = known.version + 1 if known else 1
    card = LaboratoryCard(
        created_at=now(),
        digest=digest_of(content),
        name=laboratory,
        version=version,
        parent=known.version if known else None,
        operation=operation,
        detector=detector.name,
        detector_digest=detector.digest,
        model=lab.model.name,
        model_digest=lab.model.digest,
        statistics_version=detector.statistics_version,
        nights=list(nights),
        slides=sum(night.slides for night in nights),
        cells=sum(night.cells for night in nights),
        calibrating_slides=len(evidence),
        false_alarms={f"{a.level:g}": a.found.value for a in alarms if a.name == OWN},
        warnings=[
            *laboratory_warnings(len(evidence)),
            *smear_warnings(lab.own, statistics),
            *unsure,
        ],
        counting=counting,
        adaptation=trial and adaptation_card(trial),
    )
    return Version(card, content, normal, judged, alarms, rates, trial)


def _fitted(store: Store, detector: DetectorCard) -> Fitted | None:
    known = load_fitted_detector(store, detector).witnesses
    if known is None:
        return None
    return Fitted(fitted_classes(store, detector, known.positive), known.scales)


def adaptation_card(trial: Trial) -> AdaptationCard:
    """Describe an adaptation and its effect on held-back cells."""
    change = trial.change
    measured = {
        "scale": change.adaptation.scale,
        "bias": change.adaptation.bias,
        "statistics": change.discriminant is not None,
        "gain": trial.gain.value,
        "gain_low": trial.gain.low,
        "gain_high": trial.gain.high,
    }
    same = AdaptationCard.model_fields.keys() - measured
    return AdaptationCard(**measured, **{name: getattr(trial, name) for name in same})


def _evidence_jobs(
    lab: Laboratory, nights: Sequence[LaboratoryNight], planted: Sequence[Other], spoilt_slides: int
) -> list[EvidenceJob]:
    """Choose the slides that calibrate, spread evenly over the nights, and make jobs of them."""
    slides = [
        (batch, slide)
        for batch in lab.batches(nights)
        for some in slides_in_parts(lab.store, batch)
        for slide in some
    ]
    most = min(CALIBRATING, len(slides))
    chosen = [slides[place * len(slides) // most] for place in range(most)]
    every = max(1, most // spoilt_slides) if spoilt_slides else 0
    jobs = []
    for start in range(0, most, SLIDES_A_JOB):
        # By the batch, and by whether spoilt cells are tried.
        of_job: dict[tuple[str, bool], list[tuple[Batch, SlideRows]]] = {}
        for place, (batch, slide) in enumerate(chosen[start : start + SLIDES_A_JOB], start):
            tried = bool(every) and place % every == 0
            of_job.setdefault((batch.key, tried), []).append((batch, slide))
        for (_, tried), mine in of_job.items():
            jobs.append(EvidenceJob(
                lab.screened(mine[0][0]), name=lab.name, nights=tuple(nights),
                slides=tuple(slide for _, slide in mine), planted=tuple(planted), spoil=tried,
            ))  # fmt: skip
    return jobs


def save_version(held: Lease, version: Version) -> LaboratoryCard:
    """Keep a version, while the run still holds the lease of its laboratory."""
    held.check()
    save_laboratory(held.store, version.card, version.content)
    return version.card


def retract_night(client: Client, store: Store, laboratory: str, batch: str) -> LaboratoryCard:
    """Remove a night from a laboratory exactly, and calibrate again.

    Raises:
        StoreError: there is no such laboratory.
        LaboratoryError: the night is not in it, or is its only one.
    """
    with laboratory_lease(store, laboratory) as held:
        store = held.store
        known = load_laboratory(store, laboratory)
        left = [night for night in known.nights if night.batch != batch]
        if len(left) == len(known.nights):
            have = ", ".join(night.batch for night in known.nights)
            raise LaboratoryError(f"night {batch} is not in {known.label}; there are: {have}")
        if not left:
            raise LaboratoryError(
                f"{batch} is the only night of laboratory {laboratory}: commission another one "
                "before it is taken out"
            )
        lab = Laboratory(client, held, laboratory, known, load_detector_card(store, known.detector))
        version = make_version(lab, left, f"retract {batch}")
        return save_version(held, version)


def refuse_unknown(laboratory: str, known: LaboratoryCard | None, model: ModelCard) -> None:
    """Raise StoreError if a laboratory's nights were extracted by another model."""
    if known is not None and known.model_digest != model.digest:
        raise StoreError(
            f"laboratory {laboratory} was learned with model {known.model}, not with {model.name}: "
            "choose another --laboratory for another model"
        )


def unchanged(
    known: LaboratoryCard, batch: Batch, detector: DetectorCard, negative: tuple[str, ...]
) -> bool:
    """Return whether a laboratory has already learned this batch in the same way with this
    detector.
    """
    night = known.night(batch.name)
    if night is None or known.detector_digest != detector.digest:
        return False
    kept = night.attempt, night.manifest_digest, night.negative
    return kept == (batch.attempt, batch.manifest_digest, negative)
