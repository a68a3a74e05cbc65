"""Run the flow `commission`: nights of a laboratory, with labels or none -> its own normal."""

from contextlib import ExitStack
from dataclasses import replace

from flows.cluster.client import open_client
from flows.commissioning.counting import labelled_of_night, negative_of, refuse_positive
from flows.commissioning.description import LaboratoryOutcome, laboratory_outcome
from flows.commissioning.errors import errors_of_night
from flows.commissioning.nights import keep_night, learn_slides, without_replaced
from flows.commissioning.report import SPOILT_SLIDES, other_cells, write_report
from flows.commissioning.versions import (
    Laboratory,
    laboratory_lease,
    make_version,
    population,
    refuse_unknown,
    save_version,
    unchanged,
)
from flows.jobs.scoring.screened import Screened
from flows.monitoring.console import warn
from flows.monitoring.telemetry import observed
from flows.options.flows import Commission
from flows.screen import extract
from flows.settings import Settings
from flows.stages.batch import lease_batch, start_or_resume, warn_of_model
from storage.batches.manifests import Batch, load_batch
from storage.models.detectors import DetectorCard, load_detector_card, load_model_of
from storage.models.laboratories import LaboratoryCard, LaboratoryNight, find_laboratory
from storage.store import Store, check_name, digest_of
from tasks.images.listing import as_given


@observed(run_name="commission {laboratory}")
def commission(options: Commission, settings: Settings) -> LaboratoryOutcome:
    """Learn a batch; one that is in the laboratory already counts once.

    Raises:
        LaboratoryError: the night adds nothing, the detector knows of no slides, or the night has
        no such
            negative ones.
        StoreError: the laboratory was learned with another model.
    """
    store = Store(settings.store)
    check_name("laboratory", options.laboratory)
    known = find_laboratory(store, options.laboratory)
    detector_card = _detector(store, options.detector, known)
    card = load_model_of(store, detector_card)
    warn_of_model(card)
    population(store, detector_card)
    name = (
        options.batch
        or f"{options.laboratory}-{digest_of(repr(as_given(options.images)).encode())[:8]}"
    )
    with lease_batch(store, name, wait=options.wait) as working, ExitStack() as work:
        frozen = start_or_resume(
            working.store, settings, name, options.images, card.classes, limit=options.limit
        )
        said = _negative(
            store,
            known,
            frozen,
            [options.negative] if isinstance(options.negative, str) else options.negative,
        )
        client = work.enter_context(open_client(settings))
        if frozen.rows:
            extract(client, Screened(working.store, frozen, card, detector_card))
        with laboratory_lease(store, options.laboratory) as held:
            store = held.store
            known = find_laboratory(store, options.laboratory)
            refuse_unknown(options.laboratory, known, card)
            if known is not None and unchanged(known, frozen, detector_card, said):
                changed = (
                    f"batch {name} is in laboratory {options.laboratory} already: it counts once"
                )
                return laboratory_outcome(store, known, changed)
            lab = Laboratory(client, held, options.laboratory, known, detector_card)
            made, diagnosis = _make(lab, frozen, _nights(lab, frozen, said))
    for warning in made.warnings:
        warn(warning)
    changed = f"batch {name}: learned as a night of laboratory {options.laboratory}"
    return laboratory_outcome(store, made, changed, diagnosis)


def _detector(store: Store, name: str | None, known: LaboratoryCard | None) -> DetectorCard:
    """Load the detector that is asked for, by default the laboratory's, or the newest for a new
    laboratory.
    """
    return load_detector_card(store, name or (known.detector if known else None), on_damage=warn)


def _negative(
    store: Store, known: LaboratoryCard | None, batch: Batch, given: list[str]
) -> tuple[str, ...]:
    """Return the given negative slides, or those named when the night was commissioned."""
    if given:
        return negative_of(store, batch, given)
    night = known.night(batch.name) if known else None
    same = night is not None and night.manifest_digest == batch.manifest_digest
    return night.negative if night is not None and same else ()


def _nights(lab: Laboratory, batch: Batch, negative: tuple[str, ...]) -> list[LaboratoryNight]:
    """Learn a batch, and relearn earlier nights that were learned with another detector."""
    store, known = lab.store, lab.known

    def learned_anew(night: Batch, negative: tuple[str, ...]) -> LaboratoryNight:
        of = lab.screened(night)
        added = learn_slides(lab.client, of)
        errors = errors_of_night(lab.client, of, negative)
        refuse_positive(store, night, lab.detector, errors, negative)
        added = replace(added, errors=errors, labelled=labelled_of_night(lab.client, of))
        return keep_night(lab, night, added, negative)

    found = []
    for night in without_replaced(store, lab.model, known, batch):
        if known is not None and known.detector_digest != lab.detector.digest:
            earlier = load_batch(store, night.batch, night.attempt)
            night = learned_anew(earlier, night.negative)
        found.append(night)
    return [*found, learned_anew(batch, negative)]


def _make(
    lab: Laboratory, batch: Batch, nights: list[LaboratoryNight]
) -> tuple[LaboratoryCard, str]:
    """Make a version and its report, which is there before the version counts."""
    version = make_version(
        lab,
        nights,
        f"commission {batch.name}",
        planted=other_cells(lab, nights),
        spoilt_slides=SPOILT_SLIDES,
    )
    diagnosis = write_report(lab, version)
    return save_version(lab.held, version), diagnosis
