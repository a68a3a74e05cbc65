"""Calibrate a detector: leave out each fitted patient once, and score them with the others."""

import math
from collections.abc import Hashable, Mapping

import numpy as np

from flows.cluster.executor import run_jobs
from flows.extensions import extension
from flows.jobs.fitting import fitted_rows
from flows.monitoring.console import warn
from flows.settings import Settings
from flows.stages import class_statistics, error_counts, second_witness, smear_limits
from storage.models import classifiers, detectors
from storage.models.contributions import Rows, contributed, grouped
from storage.models.statistics import Lineage, load_moments, version_name
from storage.records import arrays_to_bytes, now
from storage.store import Store, digest_of
from tasks.detector import mahalanobis
from tasks.detector.calibration import calibrate
from tasks.detector.detector import Detector, fit_gaussians
from tasks.detector.moments import ClassStatistics
from tasks.detector.slides import normal, own_normal
from tasks.detector.slides.groups import by_patient, coarser
from tasks.network.split import SplitBy, split_by
from tasks.types import Float, laboratory_of, nested

ENOUGH_GROUPS = 20
LEAST_SLIDES = 8  # fewer do not show how slides differ in all directions that matter
WITHOUT_OWN = "cells are compared with the population alone, not with their own slide"


class CalibrationError(Exception):
    """A detector cannot be calibrated on the statistics."""


def calibrate_detector(to: class_statistics.Fitting, lineage: Lineage) -> detectors.DetectorCard:
    """Make or find the detector of a version; CalibrationError if a class has no images."""
    settings, store, card = to.settings, to.store, to.model
    others = detectors.list_detectors(store, on_damage=warn)
    made = [d for d in others if _same(d, settings, card, lineage)]
    if made:
        return made[-1]
    statistics, gaussians = _fitted(store, card, lineage)
    by, groups = _groups(store, card, lineage)
    jobs = [
        fitted_rows.GroupJob(store, card, lineage.version, tuple(parts))
        for parts in groups.values()
    ]
    distances = list(run_jobs(to.client, fitted_rows.group_log_distances, jobs, title="calibrate"))
    number = np.repeat(np.arange(len(distances)), [len(part) for part in distances])
    patients = [[name for part in parts for name in part.patients] for parts in groups.values()]
    owners = [laboratory_of(next(filter(None, names), "")) for names in patients]
    normals, without = _own_normal(to, lineage, statistics, by, groups, owners)
    (witnesses, errors, witness_card), alone = second_witness.fitted_witnesses(to, lineage, by)
    detector = Detector(
        gaussians,
        calibrate(np.concatenate(distances), number, np.asarray(owners)[number]),
        normals,
        witnesses,
    )
    errors = errors or error_counts.errors_of_version(store, lineage)
    choose = extension("counting")
    counted, counting, unknown = (
        choose(card, errors, settings.counting_cells) if choose else ({}, None, [])
    )
    counted |= nested(error_counts.ERRORS, errors.to_arrays())
    content = arrays_to_bytes(detector.to_arrays() | counted)
    detector_card = detectors.DetectorCard(
        name=_free_name(store, f"{card.name}-{version_name(lineage.version)}"),
        created_at=now(),
        digest=digest_of(content),
        model=card.name,
        model_digest=card.digest,
        statistics_version=lineage.version,
        taps=_tap_cards(detector, statistics),
        images=lineage.images,
        calibrated_by=by,
        calibrating_groups=len(groups),
        calibrating_images=len(number),
        alpha=settings.alpha,
        uncertain_below=settings.uncertain_below,
        slides=len(normals.calibration.slides.scores) if normals else None,
        floor=_floor_card(normals),
        witnesses=witness_card,
        warnings=[*_warnings(by, len(groups), settings.alpha), *without, *alone, *unknown],
        sequence=1 + max((made.sequence for made in others), default=0),
        counting=counting,
    )
    detectors.save_detector(store, detector_card, content)
    return detector_card


def _fitted(
    store: Store, card: classifiers.ModelCard, lineage: Lineage
) -> tuple[ClassStatistics, dict[str, mahalanobis.TiedGaussian]]:
    """Load the statistics at the taps that count, and fit Gaussians to them."""
    missing = [name for name, count in lineage.images.items() if not count]
    if missing:
        raise CalibrationError(
            f"no {' and no '.join(missing)} image is in statistics "
            f"{version_name(lineage.version)}: fit a batch that has some"
        )
    everything = ClassStatistics.from_arrays(load_moments(store, lineage))
    statistics = everything.of_taps(card.distance_taps)
    try:
        return statistics, fit_gaussians(statistics)
    except ValueError as error:
        raise CalibrationError(str(error)) from None


def _own_normal(
    to: class_statistics.Fitting,
    lineage: Lineage,
    statistics: ClassStatistics,
    by: SplitBy,
    groups: Mapping[Hashable, list[Rows]],
    owners: list[str],
) -> tuple[own_normal.OwnNormal | None, list[str]]:
    """Calibrate scores against a cell's own slide, or say why this is impossible.

    Every fitted patient, or slide, is compared as one slide with all others: first to learn the
    spread of log distances, then with this spread.
    """
    if by == "image":
        return None, [f"{WITHOUT_OWN}: the fitted images name neither patient nor slide"]
    if len(groups) < LEAST_SLIDES:
        return None, [f"{WITHOUT_OWN}: {len(groups)} {by}s are fewer than {LEAST_SLIDES}"]
    parts = [tuple(part) for part in groups.values()]

    def fitted(spread: tuple[Float, Float] | None) -> list[own_normal.FittedSlide]:
        jobs = [
            fitted_rows.GroupJob(to.store, to.model, lineage.version, part, spread)
            for part in parts
        ]
        return list(run_jobs(to.client, fitted_rows.fitted_group, jobs, title="calibrate by slide"))

    try:
        priors = normal.priors_of(coarser(statistics.slides, by_patient))
        spread = own_normal.slides_spread(fitted(None), owners)
    except ValueError as error:
        return None, [f"{WITHOUT_OWN}: {error}"]
    calibration = own_normal.own_calibration(fitted(spread), owners)
    floor, without = smear_limits.fitted_floor(to, priors, groups)
    return own_normal.OwnNormal(
        own_normal.with_spread(priors, *spread), calibration, floor
    ), without


def _floor_card(normals: own_normal.OwnNormal | None) -> detectors.FloorCard | None:
    if normals is None or normals.floor is None:
        return None
    figures = {name: getattr(normals.floor, name) for name in ("shift", "spread", "reach")}
    return detectors.FloorCard(**figures, slides=smear_limits.SLIDES)


def _same(
    made: detectors.DetectorCard, settings: Settings, card: classifiers.ModelCard, lineage: Lineage
) -> bool:
    # The detector that comes along has a version of its maker's statistics, with other images.
    wanted = {"parent": None, "model_digest": card.digest, "statistics_version": lineage.version}
    wanted |= settings.model_dump(include={"alpha", "uncertain_below"}) | {"images": lineage.images}
    same = made.model_dump(include=set(wanted)) == wanted
    return same and (made.counting is None or made.counting.cells == settings.counting_cells)


def _groups(
    store: Store, card: classifiers.ModelCard, lineage: Lineage
) -> tuple[SplitBy, dict[Hashable, list[Rows]]]:
    """List the rows of every group to leave out: patients, else slides, else runs of images."""
    parts = [contributed(store, card, contribution) for contribution in lineage.contributions]
    by = split_by(
        [patient for part in parts for patient in part.patients],
        [slide for part in parts for slide in part.slides],
    )
    groups: dict[Hashable, list[Rows]] = {}
    if by != "image":
        groups.update(grouped(parts, by))
    else:
        for part in parts:
            folds = np.array_split(np.arange(len(part)), fitted_rows.IMAGE_FOLDS)
            for fold, rows in enumerate(folds):
                if len(rows):
                    groups[part.batch, fold] = [part.take(rows)]
    if len(groups) < 2:
        raise CalibrationError("one image is not enough: leaving it out leaves nothing")
    return by, groups


def _tap_cards(detector: Detector, statistics: ClassStatistics) -> dict[str, detectors.TapCard]:
    cards = {}
    for tap, gaussian in detector.gaussians.items():
        spread = statistics.taps[tap].scatter.sum(axis=0).diagonal()
        cards[tap] = detectors.TapCard(
            width=len(spread),
            shrinkage=gaussian.shrinkage,
            condition_number=mahalanobis.condition_number(gaussian),
            dead_units=int(np.sum(spread == 0)),
        )
    return cards


def _warnings(by: SplitBy, groups: int, alpha: float) -> list[str]:
    warnings = []
    if by != "patient":
        warnings.append(
            f"some fitted images have no patient, so {by}s were left out instead: cells of one "
            "patient resemble each other, and the false-alarm level is too optimistic"
        )
    # With fewer groups, a single patient exceeds the level.
    enough = max(ENOUGH_GROUPS, math.ceil(1 / alpha))
    if by != "image" and groups < enough:
        warnings.append(
            f"only {groups} {by}s calibrate this detector: below {enough} a false-alarm level of "
            f"{alpha:g} is a guess"
        )
    return warnings


def _free_name(store: Store, wanted: str) -> str:
    taken = set(detectors.detector_names(store))
    names = (wanted if i == 1 else f"{wanted}-{i}" for i in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)
