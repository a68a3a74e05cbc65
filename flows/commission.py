"""Run the flow `commission`: nights of a laboratory, with labels or none -> its own normal."""

from contextlib import ExitStack

import numpy as np

from flows.cluster.client import open_client
from flows.commissioning import report, versions
from flows.commissioning.laboratory import (
    Laboratory,
    LaboratoryError,
    laboratory_lease,
    population,
)
from flows.commissioning.nights import learn_night, negative_of, without_replaced
from flows.jobs.laboratory_slides import laboratory_errors
from flows.jobs.scoring.screened import Screened
from flows.monitoring import console, telemetry
from flows.options.flows import Commission
from flows.outcome import shell_command, table
from flows.prefect.decorators import flow
from flows.screen import ScreenOutcome, prepare, screen_sources, tune
from flows.settings import Settings
from flows.stages.batch import lease_batch, warn_of_model
from flows.stages.counting.chosen_thresholds import errors_of_detector, load_laboratory_rates
from flows.stages.scoring import extract
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
from storage.store import Store, StoreError
from tasks.counting.call import needs_text
from tasks.images.listing import each_source
from tasks.laboratories.missing import negative_texts, positive_text
from tasks.words import counted

LISTED = 5  # patients that a message names


class CommissionOutcome(ScreenOutcome):
    """A batch as it is screened now, its laboratory, and what calls there still need."""

    learned: report.LaboratoryOutcome
    missing: list[str]

    def _text(self) -> str:
        new = f"{counted(len(self.come_since), 'image')} that came since: choose another --batch"
        rows: list[tuple[str, object]] = [
            *self.learned.rows(),
            ("patients", needs_text(self.patients) or "none"),
            ("light", [self.light, *self.reasons]),
            ("page", self.page),
            *([("not in it", new)] if self.come_since else []),
            ("missing", self.missing),
        ]
        return f"{self.learned.changed}\n{table(rows)}"


@flow(flow_run_name="commission {options.batch}")
@telemetry.observed()
def commission(options: Commission, settings: Settings) -> CommissionOutcome:
    """Screen a batch, learn it, screen it again at its laboratory, and say what is still missing.

    Without slides known to be negative a laboratory calls nobody, so then the batch is screened as
    one of a laboratory that nobody knows.

    Raises:
        LaboratoryError: see `learn`; or a laboratory has this name, which nobody has given.
        StoreError: see `learn`.
    """
    store, name = Store(settings.store), options.name
    known = find_laboratory(store, name)
    if known is None:
        population(store, detectors.load_detector_card(store, options.detector))
    elif options.laboratory is None and known.night(options.batch) is None:
        raise LaboratoryError(
            f"there is a laboratory {name} already: if batch {options.batch} was made there, say "
            f"--laboratory {name}, else another name"
        )
    with open_client(settings):  # the same workers for all that follows
        if known is None:
            screen_sources(options.screening(None), settings)
        learned = learn(options, settings)
        detector, card = detector_at(store, options.detector, name)
        assert card is not None
        if card.counting is not None:
            _reopen(store, options, detector, card)
        night = screen_sources(options.screening(name if card.counting else None), settings)
    missing = _missing(store, options, detector, card, settings.negative_percent / 100)
    return CommissionOutcome(**night.model_dump(), learned=learned, missing=missing)


def learn(options: Commission, settings: Settings) -> report.LaboratoryOutcome:
    """Learn a batch; one that is in the laboratory already counts once.

    Raises:
        LaboratoryError: the night adds nothing, the detector knows of no slides, or the night has
            no such negative ones.
        StoreError: the laboratory was learned with another model.
    """
    store, name = Store(settings.store), options.name
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


def _reopen(
    store: Store, options: Commission, detector: detectors.DetectorCard, card: LaboratoryCard
) -> None:
    """Let the screening of a batch begin again if it used another version of its laboratory."""
    key = ledger.screening_key(detector.name, card.name)
    with lease_batch(store, options.batch, wait=options.wait) as held:
        batch = load_batch(held.store, options.batch)
        ledger.reopen_older(held.store, batch, key, card.version)


def _missing(
    store: Store,
    options: Commission,
    detector: detectors.DetectorCard,
    card: LaboratoryCard,
    wanted: float,
) -> list[str]:
    """Say which calls are possible at a laboratory, and what others need."""
    batch = load_batch(store, options.batch)
    patients = read_table(store, *report_path(batch.name, batch.batch_date, PATIENTS)).to_pylist()
    rates = load_laboratory_rates(store, card)
    if rates is None and any(night.negative for night in card.nights):
        return card.warnings[-1:]
    if rates is None:
        names = [str(row["patient_id"] or row["slide_id"] or "no name") for row in patients]
        listed = ", ".join([*names[:LISTED], *["..."] * (len(names) > LISTED)])
        again = shell_command(
            *(
                "commission",
                *each_source(options.images),
                "--batch",
                batch.name,
                "--laboratory",
                card.name,
            ),
            *("--negative", "NAME"),
        )
        return [
            f"slides that a microscopist found negative, without which nobody is called: {again}; "
            f"there are {listed}"
        ]
    read = [row["cells_read"] for row in patients if row["cells_read"]]
    possible = positive_text(rates.counting, int(np.median(read)) if read else 0)
    if card.adaptation and card.adaptation.accepted and card.adaptation.statistics:
        return [possible]  # the errors of its nights were counted again, and not kept
    known, _ = laboratory_errors(store, card.name, card.nights)
    return [
        possible,
        *negative_texts(errors_of_detector(store, detector), known, rates.counting, wanted),
    ]


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
    if not known.counts_abnormal:
        return False
    kept = night.attempt, night.manifest_digest, night.negative
    return kept == (batch.attempt, batch.manifest_digest, negative)


def _nights(lab: Laboratory, batch: Batch, negative: tuple[str, ...]) -> list[LaboratoryNight]:
    """Learn a batch, and relearn earlier nights of another detector, or of slidewatch 0.7."""
    nights = without_replaced(lab, batch)
    known = lab.known
    if known and (known.detector_digest != lab.detector.digest or not known.counts_abnormal):
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
