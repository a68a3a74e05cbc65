"""Run the flow `commission`: nights of a laboratory, with labels or none -> its own normal."""

from contextlib import ExitStack

from flows.cluster.client import open_client
from flows.commissioning import report, versions
from flows.commissioning.laboratory import Laboratory, laboratory_lease, population
from flows.commissioning.nights import learn_night, negative_of, without_replaced
from flows.jobs.scoring.screened import Screened
from flows.monitoring import console, telemetry
from flows.options.flows import Commission
from flows.screen import extract, tune
from flows.settings import Settings
from flows.stages.batch import lease_batch, start_or_resume, warn_of_model
from storage.batches.manifests import Batch
from storage.models import detectors
from storage.models.laboratories import LaboratoryCard, LaboratoryNight, find_laboratory
from storage.models.tunings import note_laboratory, tuning_of
from storage.store import Store, StoreError, check_name, digest_of
from tasks.images.listing import as_given


@telemetry.observed(run_name="commission {laboratory}")
def commission(options: Commission, settings: Settings) -> report.LaboratoryOutcome:
    """Learn a batch; one that is in the laboratory already counts once.

    Raises:
        LaboratoryError: the night adds nothing, the detector knows of no slides, or the night has
            no such negative ones.
        StoreError: the laboratory was learned with another model.
    """
    store, name = Store(settings.store), options.laboratory
    check_name("laboratory", name)
    known = find_laboratory(store, name)
    wanted = options.detector or (known.detector if known else None)
    detector = detectors.load_detector_card(store, wanted, on_damage=console.warn)
    card = detectors.load_model_of(store, detector)
    warn_of_model(card)
    population(store, detector)
    batch = options.batch or f"{name}-{digest_of(repr(as_given(options.images)).encode())[:8]}"
    with lease_batch(store, batch, wait=options.wait) as working, ExitStack() as work:
        frozen = start_or_resume(
            working.store, settings, batch, options.images, card.classes, limit=options.limit
        )
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
                changed = f"batch {batch} is in laboratory {name} already: it counts once"
                return report.laboratory_outcome(lab.store, lab.known, changed)
            made, diagnosis = _make(lab, frozen, _nights(lab, frozen, negative))
    for warning in made.warnings:
        console.warn(warning)
    changed = f"batch {batch}: learned as a night of laboratory {name}"
    return report.laboratory_outcome(lab.store, made, changed, diagnosis)


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
