"""Make the detectors of a laboratory, and keep them."""

from collections.abc import Sequence
from dataclasses import dataclass

from flows.cluster.executor import run_jobs
from flows.jobs import verified
from flows.jobs.scoring.night import SlideRows
from flows.monitoring.console import warn
from flows.smears.commissioning.laboratory import (
    Laboratory,
    least_sharpness,
    other_cells,
    slides_in_parts,
)
from flows.smears.commissioning.nights import known_of_night
from flows.smears.jobs import known_cells, laboratory_slides
from flows.smears.stages.chosen_thresholds import (
    COUNTING,
    FITTED,
    errors_of_detector,
    fitted_rates,
    laboratory_counting,
)
from flows.stages.error_counts import ERRORS
from storage import leases, records
from storage.batches.manifests import Batch
from storage.models import detectors, tunings
from storage.store import digest_of
from tasks.detector import error_counts
from tasks.detector.detector import Detector
from tasks.smears.counting import interpretation
from tasks.smears.laboratories import commissioning, learning
from tasks.smears.laboratories.adaptation import Fitted, Trial, try_adaptation
from tasks.types import nested

CALIBRATING = 200  # slides at most, spread evenly over commissioned nights; each is scored again
SLIDES_A_JOB = 8
SPOILT_SLIDES = 10  # on which some cells are spoilt


@dataclass(frozen=True)
class Version:
    """A version to be kept, with the data for its report."""

    card: detectors.DetectorCard
    content: bytes
    detector: Detector
    judged: list[laboratory_slides.JudgedSlide]
    alarms: list[commissioning.LaboratoryFigure]
    rates: interpretation.KnownRates | None
    trial: Trial | None


def make_version(
    lab: Laboratory,
    nights: Sequence[detectors.LearnedNight],
    operation: str,
    *,
    reported: bool = False,
) -> Version:
    """Make the next version of a laboratory; features of its nights are read again.

    Its card states what its slides, each judged without itself, say of it. If it is ``reported``,
    cells of other batches are tried on its slides, and spoilt cells on some.
    """
    judged, parent = _judged(lab, nights, reported), lab.detector
    first = lab.batch(nights[0])  # whose tuning the laboratory has
    tuning = lab.known.tuning if lab.known else tunings.tuning_of(lab.store, first, lab.model.name)
    evidence = [each.evidence for each in judged]
    statistics = laboratory_slides.laboratory_statistics(lab.store, lab.name, tuple(nights), parent)
    detector = learning.commissioned(
        verified.load_detector(lab.store, parent), statistics, evidence
    )
    assert detector.reference is not None
    alarms = commissioning.false_alarms(lab.own, detector.reference, evidence)
    trial, errors = _adapted(lab, nights)
    if trial and trial.accepted:
        detector = verified.with_discriminant(detector, trial.change.discriminant)
    assert detector.own is not None
    sharpness = least_sharpness(lab, nights)
    rates, counting, unsure = laboratory_counting(lab.store, parent, errors, sharpness)
    fitted = fitted_rates(lab.store, parent)
    content = records.arrays_to_bytes(
        detector.to_arrays()
        | (nested(COUNTING, rates.to_arrays()) if rates else {})
        # New slides and sure parasites need those of the parent.
        | nested(ERRORS, errors_of_detector(lab.store, parent).to_arrays())
        | (nested(FITTED, fitted.to_arrays()) if fitted else {})
    )
    card = parent.model_copy(update={
        "created_at": records.now(),
        "digest": digest_of(content),
        "name": detectors.next_version(lab.store, lab.name),
        "sequence": 1 + max(each.sequence for each in detectors.list_detectors(lab.store, warn)),
        "parent": parent.name,
        "learned": detectors.LearnedCard(
            operation=operation, nights=list(nights),
            false_alarms={
                f"{alarm.level:g}": alarm.found.value
                for alarm in alarms if alarm.name == commissioning.OWN
            },
        ),
        "tuning": tuning,
        "slides": len(detector.own.calibration.slides.scores),
        "warnings": [
            *commissioning.laboratory_warnings(len(evidence)),
            *commissioning.smear_warnings(lab.own, statistics),
            *unsure,
        ],
        "counting": counting,
        "adaptation": trial and _adaptation_card(trial),
    })  # fmt: skip
    return Version(card, content, detector, judged, alarms, rates, trial)


def _adapted(
    lab: Laboratory, nights: Sequence[detectors.LearnedNight]
) -> tuple[Trial | None, error_counts.ErrorCounts]:
    """Try to adapt the diagnosis by labelled cells, and merge or renew all nights' error counts."""
    errors, labelled = laboratory_slides.laboratory_errors(lab.store, lab.name, nights)
    fitted = None
    known = verified.load_detector(lab.store, lab.detector).witnesses
    if labelled.features and known is not None:
        classes = known_cells.fitted_classes(lab.store, lab.detector, known.positive)
        fitted = Fitted(classes, known.scales)
    trial = try_adaptation(labelled, fitted)
    discriminant = trial.change.discriminant if trial and trial.accepted else None
    if discriminant is not None:
        errors = error_counts.ErrorCounts.empty()
        for night in nights:
            screened = lab.screened(lab.batch(night))
            again, _ = known_of_night(lab.client, screened, night.negative, discriminant)
            errors = error_counts.merge_errors(errors, again)
    return trial, errors


def _adaptation_card(trial: Trial) -> detectors.AdaptationCard:
    change = trial.change
    measured = {
        "scale": change.adaptation.scale,
        "bias": change.adaptation.bias,
        "statistics": change.discriminant is not None,
        "gain": trial.gain.value,
        "gain_low": trial.gain.low,
        "gain_high": trial.gain.high,
    }
    same = detectors.AdaptationCard.model_fields.keys() - measured
    return detectors.AdaptationCard(**measured, **{name: getattr(trial, name) for name in same})


def _judged(
    lab: Laboratory, nights: Sequence[detectors.LearnedNight], reported: bool
) -> list[laboratory_slides.JudgedSlide]:
    """Choose the slides that calibrate, spread evenly over the nights, and judge them."""
    slides = [
        (batch, slide)
        for batch in map(lab.batch, nights)
        for some in slides_in_parts(lab.store, batch)
        for slide in some
    ]
    most = min(CALIBRATING, len(slides))
    chosen = [slides[place * len(slides) // most] for place in range(most)]
    every = max(1, most // SPOILT_SLIDES)
    planted = other_cells(lab, nights) if reported else {}
    jobs = []
    for start in range(0, most, SLIDES_A_JOB):
        # By the batch, and by whether spoilt cells are tried.
        of_job: dict[tuple[str, bool], list[tuple[Batch, SlideRows]]] = {}
        for place, (batch, slide) in enumerate(chosen[start : start + SLIDES_A_JOB], start):
            tried = reported and place % every == 0
            of_job.setdefault((batch.key, tried), []).append((batch, slide))
        for (_, tried), pairs in of_job.items():
            jobs.append(laboratory_slides.EvidenceJob(
                lab.screened(pairs[0][0]), name=lab.name, nights=tuple(nights),
                slides=tuple(slide for _, slide in pairs), planted=planted, spoil=tried,
            ))  # fmt: skip
    title = f"laboratory {lab.name}"
    parts = run_jobs(lab.client, laboratory_slides.judge_slides, jobs, title=title)
    return [each for part in parts for each in part]


def save_version(held: leases.Lease, version: Version) -> detectors.DetectorCard:
    """Keep a version, while the run still holds the lease of its laboratory."""
    held.check()
    detectors.save_detector(held.store, version.card, version.content)
    return version.card
