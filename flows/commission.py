"""Run the flow `commission`: nights of a laboratory, with labels or none -> its own normal."""

from contextlib import ExitStack

import numpy as np
from pydantic import Field

from flows.cluster.client import open_client
from flows.commissioning import report, versions
from flows.commissioning.laboratory import Laboratory, laboratory_lease, population
from flows.commissioning.nights import learn_night, negative_of, without_replaced
from flows.jobs.laboratory_slides import laboratory_errors
from flows.jobs.scoring.screened import Screened
from flows.monitoring import console, telemetry
from flows.options.flows import Commission
from flows.screen import extract, prepare, screen_sources, tune
from flows.settings import Settings
from flows.stages.batch import lease_batch, warn_of_model
from flows.stages.counting.chosen_thresholds import errors_of_detector
from storage.batches import ledger
from storage.batches.manifests import Batch, load_batch
from storage.models import detectors
from storage.models.laboratories import (
    LaboratoryCard,
    LaboratoryNight,
    detector_at,
    find_laboratory,
)
from storage.models.tunings import note_laboratory, tuning_of
from storage.parquet import read_table
from storage.reports.tables import PATIENTS, report_path
from storage.store import Store, StoreError, check_name
from tasks.counting.call import needs_text
from tasks.laboratories.missing import still_missing

LISTED = 5  # patients that a message names


class CommissionOutcome(report.LaboratoryOutcome):
    """A version of a laboratory, its batch screened there, and what calls still need."""

    patients: dict[str, int] = Field(default_factory=dict)
    light: str
    page: str
    missing: list[str]

    def rows(self) -> list[tuple[str, object]]:
        """List the figures of the laboratory and of its batch as names and texts."""
        calls = needs_text(self.patients) or "none"
        mine = [("patients", calls), ("light", self.light), ("page", self.page)]
        return [*super().rows(), *mine, ("missing", self.missing)]


@telemetry.observed(run_name="commission {batch}")
def commission(options: Commission, settings: Settings) -> CommissionOutcome:
    """Screen a batch, learn it, screen it again at its laboratory, and say what is still missing.

    The first screening, whose page shows which slides look negative, is that of a laboratory that
    nobody knows; later batches need none.

    Raises:
        LaboratoryError: see `learn`.
        StoreError: see `learn`.
    """
    store, name = Store(settings.store), options.name
    if find_laboratory(store, name) is None:
        screen_sources(options.screening(None), settings)
    learned = learn(options, settings)
    _reopen(store, options, learned.laboratory)
    night = screen_sources(options.screening(name), settings)
    return CommissionOutcome(
        **learned.model_dump(),
        patients=night.patients,
        light=night.light,
        page=night.page,
        missing=_missing(store, options, settings.negative_percent / 100),
    )


def learn(options: Commission, settings: Settings) -> report.LaboratoryOutcome:
    """Learn a batch; one that is in the laboratory already counts once.

    Raises:
        LaboratoryError: the night adds nothing, the detector knows of no slides, or the night has
            no such negative ones.
        StoreError: the laboratory was learned with another model.
    """
    store, name = Store(settings.store), options.name
    check_name("laboratory", name)
    known = find_laboratory(store, name)
    wanted = options.detector or (known.detector if known else None)
    detector = detectors.load_detector_card(store, wanted, on_damage=console.warn)
    card = detectors.load_model_of(store, detector)
    warn_of_model(card)
    population(store, detector)
    with lease_batch(store, options.batch, wait=options.wait) as working, ExitStack() as work:
        of = options.screening(name)
        _, frozen = prepare(working.store, of, settings, card.classes, work)
        given = [options.negative] if isinstance(options.negative, str) else options.negative
        negative = _negative(store, known, frozen, given)
        client = work.enter_context(open_client(settings))
        if frozen.rows:
            night = Screened(working.store, frozen, card, detector, laboratory=known)
            extract(client, tune(client, night))
        with laboratory_lease(store, name) as held:
            lab = Laboratory(client, held, name, find_laboratory(held.store, name), detector)
            _refuse_other_model(lab)
            if lab.known is not None and _has_learned(lab.known, frozen, detector, negative):
                changed = f"batch {frozen.name} is in laboratory {name} already: it counts once"
                return report.laboratory_outcome(lab.store, lab.known, changed)
            made, diagnosis = _make(lab, frozen, _nights(lab, frozen, negative))
    changed = f"batch {frozen.name}: learned as a night of laboratory {name}"
    return report.laboratory_outcome(lab.store, made, changed, diagnosis)


def _reopen(store: Store, options: Commission, laboratory: str) -> None:
    """Let the screening of a batch begin again if it used another version of its laboratory."""
    detector, _ = detector_at(store, options.detector, options.name)
    key = ledger.screening_key(detector.name, options.name)
    with lease_batch(store, options.batch, wait=options.wait) as held:
        batch = load_batch(held.store, options.batch)
        seal = ledger.read_seal(held.store, batch, key)
        if seal is not None and seal.laboratory != laboratory:
            ledger.reopen(held.store, batch, key)


def _missing(store: Store, options: Commission, wanted: float) -> list[str]:
    """Say which calls are possible at a laboratory, and what others need."""
    detector, card = detector_at(store, options.detector, options.name)
    assert card is not None
    batch = load_batch(store, options.batch)
    patients = read_table(store, *report_path(batch.name, batch.batch_date, PATIENTS)).to_pylist()
    if card.counting is None:
        names = [
            str(row["patient_id"] or row["slide_id"] or "one without a name") for row in patients
        ]
        listed = ", ".join([*names[:LISTED], *["..."] * (len(names) > LISTED)])
        return [
            "slides known to be negative, without which nobody is called: repeat the command with "
            f"--negative NAME for each that a microscopist found negative; there are {listed}"
        ]
    known, _ = laboratory_errors(store, card.name, card.nights)
    cells = int(np.median([row["cells_read"] for row in patients]))
    threshold = card.counting.counting.log_odds
    return still_missing(errors_of_detector(store, detector), known, threshold, cells, wanted)


def _negative(
    store: Store, known: LaboratoryCard | None, batch: Batch, given: list[str]
) -> tuple[str, ...]:
    """Return the given negative slides, or those named when the night was commissioned."""
    if given:
        return negative_of(store, batch, given)
    night = known.night(batch.name) if known else None
    same = night is not None and night.manifest_digest == batch.manifest_digest
    return night.negative if night is not None and same else ()


def _refuse_other_model(lab: Laboratory) -> None:
    """Raise StoreError if the nights of a laboratory were extracted by another model."""
    if lab.known is not None and lab.known.model_digest != lab.model.digest:
        raise StoreError(
            f"laboratory {lab.name} was learned with model {lab.known.model}, not with "
            f"{lab.model.name}: choose another --laboratory for another model"
        )


def _has_learned(
    known: LaboratoryCard, batch: Batch, detector: detectors.DetectorCard, negative: tuple[str, ...]
) -> bool:
    """Return whether a laboratory has learned this batch in the same way with this detector."""
    night = known.night(batch.name)
    if night is None or known.detector_digest != detector.digest:
        return False
    kept = night.attempt, night.manifest_digest, night.negative
    return kept == (batch.attempt, batch.manifest_digest, negative)


def _nights(lab: Laboratory, batch: Batch, negative: tuple[str, ...]) -> list[LaboratoryNight]:
    """Learn a batch, and relearn earlier nights that were learned with another detector."""
    nights = without_replaced(lab, batch)
    if lab.known is not None and lab.known.detector_digest != lab.detector.digest:
        earlier = zip(lab.batches(nights), nights, strict=True)
        nights = [learn_night(lab, each, night.negative) for each, night in earlier]
    return [*nights, learn_night(lab, batch, negative)]


def _make(
    lab: Laboratory, batch: Batch, nights: list[LaboratoryNight]
) -> tuple[LaboratoryCard, str]:
    """Make a version and its report, which is there before the version counts."""
    version = versions.make_version(
        lab,
        nights,
        f"commission {batch.name}",
        planted=report.other_cells(lab, nights),
        spoilt_slides=report.SPOILT_SLIDES,
    )
    if lab.known is None and (tuning := tuning_of(lab.store, batch, lab.model.name)):
        note_laboratory(lab.store, lab.name, tuning)
    diagnosis = report.write_report(lab, version)
    return versions.save_version(lab.held, version), diagnosis
