"""Make and keep versions of a laboratory, and remove a night from one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.commissioning.laboratory import (
    Laboratory,
    LaboratoryError,
    laboratory_lease,
    slides_in_parts,
)
from flows.commissioning.nights import errors_of_night
from flows.jobs import known_cells, laboratory_slides, verified
from flows.jobs.scoring.night import SlideRows
from flows.stages.counting.chosen_thresholds import COUNTING, laboratory_counting
from storage import leases, records
from storage.batches import segmentations
from storage.batches.manifests import Batch
from storage.models import laboratories
from storage.models.detectors import load_detector_card
from storage.store import Store, digest_of
from tasks.counting import error_rates, interpretation
from tasks.detector.slides.cell_score import Taps
from tasks.laboratories import commissioning, learning
from tasks.laboratories.adaptation import Fitted, Trial, try_adaptation
from tasks.types import Index, nested

CALIBRATING = 200  # slides at most, spread evenly over commissioned nights; each is scored again
SLIDES_A_JOB = 8

Other = tuple[str, Taps, Index]  # name, features, classes


@dataclass(frozen=True)
class Version:
    """A version to be kept, with the data for its report."""

    card: laboratories.LaboratoryCard
    content: bytes
    normal: learning.LaboratoryNormal
    judged: list[laboratory_slides.Judged]
    alarms: list[commissioning.Figure]
    rates: interpretation.KnownRates | None
    trial: Trial | None


def make_version(
    lab: Laboratory,
    nights: Sequence[laboratories.LaboratoryNight],
    operation: str,
    *,
    planted: Sequence[Other] = (),
    spoilt_slides: int = 0,
) -> Version:
    """Make the next version of a laboratory; features of its nights are read again.

    Things ``planted`` are tried on its slides, and on ``spoilt_slides`` of them spoilt cells.
    """
    jobs = _evidence_jobs(lab, nights, planted, spoilt_slides)
    parts = run_jobs(
        lab.client, laboratory_slides.judge_slides, jobs, title=f"laboratory {lab.name}"
    )
    return _stated(lab, nights, operation, [each for part in parts for each in part])


def _stated(
    lab: Laboratory,
    nights: Sequence[laboratories.LaboratoryNight],
    operation: str,
    judged: list[laboratory_slides.Judged],
) -> Version:
    """State on a version's card what the slides, each judged without itself, say of it."""
    known, detector = lab.known, lab.detector
    evidence = [each.evidence for each in judged]
    statistics = laboratory_slides.laboratory_statistics(
        lab.store, lab.name, tuple(nights), detector
    )
    normal = learning.laboratory_normal(lab.own, statistics, evidence)
    alarms = commissioning.false_alarms(lab.own, normal.reference, evidence)
    trial, errors = _adapted(lab, nights)
    if trial and trial.accepted:
        normal = replace(normal, discriminant=trial.change.discriminant)
    rates, counting, unsure = laboratory_counting(
        lab.store, detector, errors, least_sharpness(lab, nights)
    )
    counted = nested(COUNTING, rates.to_arrays()) if rates else {}
    content = records.arrays_to_bytes(normal.to_arrays() | counted)
    card = laboratories.LaboratoryCard(
        created_at=records.now(),
        digest=digest_of(content),
        name=lab.name,
        version=known.version + 1 if known else 1,
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
        false_alarms={f"{a.level:g}": a.found.value for a in alarms if a.name == commissioning.OWN},
        warnings=[
            *commissioning.laboratory_warnings(len(evidence)),
            *commissioning.smear_warnings(lab.own, statistics),
            *unsure,
        ],
        counting=counting,
        adaptation=trial and _adaptation_card(trial),
    )  # fmt: skip
    return Version(card, content, normal, judged, alarms, rates, trial)


def _adapted(
    lab: Laboratory, nights: Sequence[laboratories.LaboratoryNight]
) -> tuple[Trial | None, error_rates.ErrorCounts]:
    """Try to adapt the diagnosis by labelled cells, and merge the error counts of all nights.

    Nights are counted again where the laboratory gets its own discriminant.
    """
    errors, labelled = laboratory_slides.laboratory_errors(lab.store, lab.name, nights)
    fitted = None
    known = verified.load_fitted_detector(lab.store, lab.detector).witnesses
    if labelled.features and known is not None:
        classes = known_cells.fitted_classes(lab.store, lab.detector, known.positive)
        fitted = Fitted(classes, known.scales)
    trial = try_adaptation(labelled, fitted)
    discriminant = trial.change.discriminant if trial and trial.accepted else None
    if discriminant is not None:
        errors = error_rates.ErrorCounts.empty()
        for night, batch in zip(nights, lab.batches(nights), strict=True):
            again = errors_of_night(lab.client, lab.screened(batch), night.negative, discriminant)
            errors = error_rates.merge_errors(errors, again)
    return trial, errors


def least_sharpness(
    lab: Laboratory, nights: Sequence[laboratories.LaboratoryNight]
) -> float | None:
    """Return the lowest mean sharpness of a negative slide; None without photographs of any."""
    known: list[float] = []
    for night, batch in zip(nights, lab.batches(nights), strict=True):
        cut = segmentations.segmentation_of(lab.store, batch.images)
        if cut is None:
            continue
        fields = segmentations.read_fields(lab.store, cut)
        fields = fields.filter(pa.array(known_cells.is_negative(fields, night.negative)))
        by_slide = fields.group_by("slide_id").aggregate([("sharpness", "mean")])
        known += [each for each in by_slide["sharpness_mean"].to_pylist() if each is not None]
    return min(known, default=None)


def _adaptation_card(trial: Trial) -> laboratories.AdaptationCard:
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
    same = laboratories.AdaptationCard.model_fields.keys() - measured
    return laboratories.AdaptationCard(**measured, **{name: getattr(trial, name) for name in same})


def _evidence_jobs(
    lab: Laboratory,
    nights: Sequence[laboratories.LaboratoryNight],
    planted: Sequence[Other],
    spoilt_slides: int,
) -> list[laboratory_slides.EvidenceJob]:
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
        for (_, tried), pairs in of_job.items():
            jobs.append(laboratory_slides.EvidenceJob(
                lab.screened(pairs[0][0]), name=lab.name, nights=tuple(nights),
                slides=tuple(slide for _, slide in pairs), planted=tuple(planted), spoil=tried,
            ))  # fmt: skip
    return jobs


def save_version(held: leases.Lease, version: Version) -> laboratories.LaboratoryCard:
    """Keep a version, while the run still holds the lease of its laboratory."""
    held.check()
    laboratories.save_laboratory(held.store, version.card, version.content)
    return version.card


def retract_night(
    client: Client, store: Store, laboratory: str, batch: str
) -> laboratories.LaboratoryCard:
    """Remove a night from a laboratory exactly, and calibrate again.

    Raises:
        StoreError: there is no such laboratory.
        LaboratoryError: the night is not in it, or is its only one.
    """
    with laboratory_lease(store, laboratory) as held:
        store = held.store
        known = laboratories.load_laboratory(store, laboratory)
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
