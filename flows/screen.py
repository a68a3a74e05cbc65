"""Run the flow `screen`: images -> a report with a diagnosis and a score for each."""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace

from flows.cluster.client import Client, open_client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring.screened import Screened
from flows.jobs.tuning import TuningJob, measure_tuning
from flows.monitoring import console, telemetry
from flows.monitoring.logs import log
from flows.options.flows import Screen
from flows.outcome import Outcome, numbered, table
from flows.prefect.decorators import flow
from flows.settings import Settings
from flows.stages import scoring
from flows.stages.batch import GivenImages, lease_batch, start_or_resume, warn_of_model
from flows.stages.publish import publish, valid_seal
from storage.batches import ledger
from storage.batches.manifests import Batch, find_batch, load_batch
from storage.leases import Lease, LeaseLostError
from storage.models import classifiers, detectors, tunings
from storage.reports import tables
from storage.store import Store, StoreError
from tasks.words import counted


class ScreenOutcome(Outcome):
    """The figures and the address of a published report on images."""

    batch: str
    report: str
    model: str
    detector: str
    images: int
    scored: int
    failures: dict[str, int]
    diagnoses: dict[str, int]
    abnormal: int
    review: int
    seconds: float
    repeated: bool

    @property
    def problem(self) -> str:
        """Say if all images or some of them are missing; empty otherwise."""
        if not self.images:
            return f"there are no images for batch {self.batch}: run it again once they have come"
        if self.scored < self.images:
            return (
                f"{self.lost()} of batch {self.batch} failed ({numbered(self.failures)}); the "
                f"report has a row for each: {self.report}"
            )
        return super().problem  # of a night, whether its page is missing

    def lost(self) -> str:
        """Write the number of failed images, and of all."""
        return f"{self.images - self.scored:,} of {counted(self.images, 'image')}"

    def done(self) -> str:
        """Say in a line whether the batch was screened now or before, and how fast."""
        if self.repeated:
            return f"batch {self.batch} was published before; nothing to do"
        rate = self.images / self.seconds
        return f"batch {self.batch}: {self.seconds:.1f} s, {rate:,.0f} images/s"

    def rows(self) -> list[tuple[str, object]]:
        """List the figures of the images, by name."""
        share = 100 * self.abnormal / self.scored if self.scored else 0.0
        images = f"{self.images:,}: {self.scored:,} scored, {self.images - self.scored} failed"
        return [
            ("images", images),
            *([("failed", numbered(self.failures))] if self.failures else []),
            ("diagnoses", numbered(self.diagnoses) or "none"),
            ("abnormal", f"{self.abnormal:,} ({share:.1f}% of the scored)"),
            ("for review", counted(self.review, "image")),
            ("detector", self.detector),
            ("report", self.report),
        ]

    def _text(self) -> str:
        return f"{self.done()}\n{table(self.rows())}"


@flow(flow_run_name="{options.batch}")
@telemetry.observed(night=True)
def screen(options: Screen, settings: Settings) -> ScreenOutcome:
    """Screen a batch, and publish its report on images; the outcome says what failed."""
    started = time.monotonic()
    with lease_batch(Store(settings.store), options.batch, wait=options.wait) as held:
        refuse_another(held.store, options)
        images, detector = GivenImages(options.images, options.limit), chosen(held.store, options)
        card = detectors.load_model_of(held.store, detector)
        screened = begin(held.store, options, settings, detector, card, images)
        known = valid_seal(held.store, screened.batch, screened.key)
        seal = screen_batch(held, settings, screened, known)
    return outcome_of(screened, seal, known is not None, time.monotonic() - started)


def outcome_of(
    screened: Screened, seal: ledger.Seal, repeated: bool, seconds: float
) -> ScreenOutcome:
    """Return the figures of a published report on images."""
    same = ScreenOutcome.model_fields.keys() & ledger.Seal.model_fields.keys()
    return ScreenOutcome(
        **seal.model_dump(include=same - {"report"}),
        report=screened.store.address(*seal.report.split("/")),
        images=seal.rows,
        seconds=seconds,
        repeated=repeated,
    )


def begin(
    store: Store,
    options: Screen,
    settings: Settings,
    detector: detectors.DetectorCard,
    card: classifiers.ModelCard,
    images: GivenImages,
) -> Screened:
    """Freeze the images of a batch that a detector judges, with the model it was made from."""
    warn_of_model(card)
    day, force = options.date, options.force
    with telemetry.stage("freeze"):
        batch = start_or_resume(
            store, settings, options.batch, images, card.classes, batch_date=day, force=force
        )
    return Screened(store, batch, card, detector)


def chosen(store: Store, options: Screen) -> detectors.DetectorCard:
    """Load the detector that is given; a batch keeps the one that made its report, or began to.

    A name without a version stands for the newest one, unless the batch has an older one.
    """
    kept = () if options.force and options.detector else _screened_by(store, options.batch)
    wanted = options.detector
    of_batch = (each for each in kept if wanted in (None, each, detectors.name_of(each)))
    found = detectors.load_detector_card(store, name := next(of_batch, wanted), console.warn)
    if name is None and not found.parent:
        every = detectors.list_detectors(store, on_damage=console.warn)
        if labs := sorted({detectors.name_of(each.name) for each in every if each.parent}):
            known = f"name it ({', '.join(labs)}) as --detector"
            console.warn(f"{found.name} judges: if the laboratory is commissioned, {known}")
    return found


def refuse_another(store: Store, options: Screen) -> None:
    """Raise StoreError if another detector has made the report, which only force replaces."""
    if options.force or (batch := find_batch(store, options.batch)) is None:
        return
    digest = tables.report_digest(store, tables.report_path(batch.name, batch.batch_date))
    seals = ledger.list_seals(store, batch, console.warn)
    by = [seal.detector for seal in seals if seal.report_digest == digest]
    if by and (name := chosen(store, options).name) not in by:
        raise StoreError(
            f"the report of batch {options.batch} was made by {by[0]}: --force replaces it by one "
            f"of {name}, or give another --batch"
        )


def _screened_by(store: Store, name: str) -> Iterator[str]:
    """List the detectors that have screened a batch, or begun to, the last attempt's first."""
    batch = find_batch(store, name)
    while batch is not None:
        yield from ledger.screened_by(store, batch, console.warn)
        batch = load_batch(store, name, batch.attempt - 1) if batch.attempt > 1 else None


def screen_batch(
    held: Lease, settings: Settings, screened: Screened, known: ledger.Seal | None
) -> ledger.Seal:
    """Publish the report on images and return its seal, unless a valid one is ``known``."""
    store, batch = screened.store, screened.batch
    if known is not None:
        ledger.discard_scores(store, batch, screened.key)  # a run may die right after its seal
        return known
    with open_client(settings) as client:
        screened = tune(client, screened)
        with telemetry.stage("extract"):
            scoring.extract(client, screened)
        with telemetry.stage("score"):
            scored = scoring.score(client, screened)
        held.check()
        with telemetry.stage("publish"):
            seal = publish(client, screened, scored)
    refuse_other_attempt(held, batch, tables.IMAGES)
    return seal


def refuse_other_attempt(held: Lease, batch: Batch, kind: str) -> None:
    """Raise LeaseLostError where a report is of a later attempt: this run stalled meanwhile."""
    stated = tables.stated_attempt(
        held.store, tables.report_path(batch.name, batch.batch_date, kind)
    )
    if stated > batch.attempt:
        successor = held.successor()
        raise LeaseLostError(
            f"attempt {stated} at batch {batch.name} was published since"
            f"{f', after the lease was taken over by {successor}' if successor else ''}: its "
            f"report replaces that of attempt {batch.attempt}, which this run made, and nothing "
            "is left to do"
        )


def tune(client: Client, of: Screened) -> Screened:
    """Return a batch with its tuned model: as it was begun, by its detector, or measured."""
    store, batch, model = of.store, of.batch, of.model
    if not batch.rows:
        return of
    known = tunings.tuning_of(store, batch, model.name)
    if known is None:
        known = of.detector.tuning
        if known is None:
            jobs = [TuningJob(of)]
            (known,) = run_jobs(client, measure_tuning, jobs, title=f"tune to {batch.name}")
        known = tunings.begin_with(store, batch, model.name, known)
    does = "is" if known.tuning else "is not"
    log(logging.INFO, f"the network {does} tuned to batch {batch.name}: {known.why}")
    return replace(of, model=model.tuned(known.tuning))
