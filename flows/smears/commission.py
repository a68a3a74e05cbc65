"""Run the flow `commission`: nights of a laboratory, with labels or none -> its own detector."""

from contextlib import ExitStack
from dataclasses import replace

from flows.cluster.client import Client, open_client
from flows.jobs.scoring.screened import Screened
from flows.monitoring import console, telemetry
from flows.options.flows import Commission
from flows.outcome import table
from flows.prefect.decorators import flow
from flows.screen import tune
from flows.settings import Settings
from flows.smears.commissioning import report, versions
from flows.smears.commissioning.laboratory import (
    Laboratory,
    LaboratoryError,
    find_laboratory,
    laboratory_lease,
    population,
)
from flows.smears.commissioning.nights import learn_night, negative_of, without_replaced
from flows.smears.night import NightOutcome, prepare, screen_held
from flows.stages.batch import lease_batch
from flows.stages.scoring import extract
from storage.batches.manifests import Batch
from storage.models import detectors
from storage.store import Store, StoreError
from tasks.words import counted


class CommissionOutcome(NightOutcome):
    """A batch as it is screened now, its laboratory, and what calls there still need."""

    learned: report.LaboratoryOutcome
    missing: list[str]

    def _text(self) -> str:
        new = f"{counted(len(self.come_since), 'image')} that came since: choose another --batch"
        rows: list[tuple[str, object]] = [
            *self.learned.rows(),
            ("patients", dict(self.rows())["patients"]),
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
    one of a laboratory that nobody knows. Errors are those of `learn`, and LaboratoryError if a
    laboratory has this name, which nobody has given.
    """
    store, name = Store(settings.store), options.name
    known, parent = known_and_parent(store, options)
    if known and options.laboratory is None and known.night(options.batch) is None:
        raise LaboratoryError(
            f"there is a laboratory {name} already: if batch {options.batch} was made there, say "
            f"--laboratory {name}, else another name"
        )
    with (
        open_client(settings) as client,  # the same workers for all that follows
        lease_batch(store, options.batch, wait=options.wait) as held,
    ):
        if known is None:
            screen_held(held, options.screening(parent.name), settings)
        with ExitStack() as work:
            _, begun = prepare(held.store, options.screening(parent.name), settings, work)
        learned, card = learn(client, begun, known, options)
        best = card.name if card.counting else card.parent
        night = screen_held(held, options.screening(best), settings)
    missing = report.missing_texts(store, options, card, settings.negative_percent / 100)
    return CommissionOutcome(**night.model_dump(), learned=learned, missing=missing)


def known_and_parent(
    store: Store, options: Commission
) -> tuple[detectors.DetectorCard | None, detectors.DetectorCard]:
    """Load the newest detector of a laboratory, if any, and the fitted one that is its parent."""
    known = find_laboratory(store, options.name)
    wanted = options.detector or (known.parent if known else None)
    parent = detectors.load_detector_card(store, wanted, on_damage=console.warn)
    if parent.parent is not None:
        raise LaboratoryError(
            f"detector {parent.name} was commissioned itself: give the fitted one, --detector "
            f"{parent.parent}"
        )
    population(store, parent)
    return known, parent


def learn(
    client: Client, begun: Screened, known: detectors.DetectorCard | None, options: Commission
) -> tuple[report.LaboratoryOutcome, detectors.DetectorCard]:
    """Learn a batch under its lease; one that is in the laboratory already counts once.

    ``begun`` is the batch with the fitted detector, ``known`` the newest of its laboratory.
    LaboratoryError if the night adds nothing, the detector knows of no slides, or the night has no
    such negative ones; StoreError if the laboratory was learned with another model.
    """
    store, batch, parent, name = begun.store, begun.batch, begun.detector, options.name
    if known is not None and known.model_digest != begun.model.digest:
        raise StoreError(
            f"{known.name} was learned with model {known.model}, not with {begun.model.name}: "
            "choose another --laboratory for another model"
        )
    negative = _negative(store, known, batch, options)
    if batch.rows:
        # A new night of a laboratory has its tuning.
        extract(client, tune(client, replace(begun, detector=known or parent)))
    with laboratory_lease(Store(store.url), name) as held:
        lab = Laboratory(client, held, name, find_laboratory(held.store, name), parent)
        known = lab.known
        same = known.night(batch.name) if known and known.parent == parent.name else None
        asked = (batch.attempt, batch.manifest_digest, negative)
        if known and same and (same.attempt, same.manifest_digest, same.negative) == asked:
            changed = f"batch {batch.name} is in laboratory {name} already: it counts once"
            return report.laboratory_outcome(lab.store, known, changed), known
        made, diagnosis = _make(lab, batch, negative, named=bool(options.negative))
    changed = f"batch {batch.name}: learned as a night of laboratory {name}"
    return report.laboratory_outcome(lab.store, made, changed, diagnosis), made


def _negative(
    store: Store, known: detectors.DetectorCard | None, batch: Batch, options: Commission
) -> tuple[str, ...]:
    """Return the given negative slides, or those named when the night was commissioned."""
    if options.negative:
        given = options.negative
        return negative_of(store, batch, [given] if isinstance(given, str) else given)
    night = known.night(batch.name) if known else None
    return negative_of(store, batch, night.negative) if night else ()


def _make(
    lab: Laboratory, batch: Batch, negative: tuple[str, ...], *, named: bool
) -> tuple[detectors.DetectorCard, str]:
    nights = without_replaced(lab, batch, named=named)
    if lab.known and lab.known.parent != lab.detector.name:
        nights = [learn_night(lab, lab.batch(night), night.negative) for night in nights]
    nights.append(learn_night(lab, batch, negative))
    # The report is there before the version counts.
    version = versions.make_version(lab, nights, f"commission {batch.name}", reported=True)
    diagnosis = report.write_report(lab, version)
    return versions.save_version(lab.held, version), diagnosis
