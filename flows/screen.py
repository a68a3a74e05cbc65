"""Run the flow `screen`: images -> a report with a diagnosis and a score for each."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

from pydantic import Field

from flows.cluster.client import Client, open_client
from flows.cluster.executor import run_jobs
from flows.cluster.here import Here
from flows.jobs.scoring.screened import Screened
from flows.jobs.tuning import TuningJob, measure_tuning
from flows.monitoring import console, telemetry
from flows.monitoring.logs import log
from flows.options.flows import Screen
from flows.outcome import Outcome, table
from flows.prefect.artifacts import announce
from flows.prefect.decorators import flow
from flows.settings import Settings
from flows.stages import scoring, written_pages
from flows.stages.batch import lease_batch, start_or_resume, warn_of_model
from flows.stages.publish import batch_report, counting_at, publish, valid_seal
from flows.stages.sources.sorting import Taken, Wanted, come_since, counted_sorts, take
from storage.batches import ledger
from storage.batches.manifests import Batch, find_batch, load_batch
from storage.leases import Lease, LeaseLostError
from storage.models import detectors, tunings
from storage.reports import pages, tables
from storage.store import Store, StoreError
from tasks.reports.called_cells import Patient
from tasks.reports.night.counts import Row
from tasks.words import counted

NAMED = 3  # files that a message names


class ScreenOutcome(Outcome):
    """The figures and addresses of a published report."""

    batch: str
    report: str
    page: str
    model: str
    detector: str
    taken_for: dict[str, int] = Field(default_factory=dict)
    images: int
    scored: int
    failures: dict[str, int]
    diagnoses: dict[str, int]
    patients: dict[str, int] = Field(default_factory=dict)
    abnormal: int
    review: int
    slides_for_review: int
    light: str
    reasons: list[str]
    seconds: float
    repeated: bool
    page_failure: str | None = None
    come_since: list[str] = Field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Return whether images could not be scored, there are none, or there is no page."""
        return bool(self.problem)

    @property
    def problem(self) -> str:
        """Say if all images, some images or the page are missing."""
        if not self.images:
            return f"there are no images for batch {self.batch}: run it again once they have come"
        if self.scored < self.images:
            failures = ", ".join(f"{n} {reason}" for reason, n in self.failures.items())
            images = counted(self.images, "image")
            return (
                f"{self.images - self.scored:,} of {images} of batch {self.batch} failed "
                f"({failures}); the report has a row for each: {self.report}"
            )
        if self.page_failure is not None:
            return (
                f"the report of batch {self.batch} is published, but its page could not be made "
                f"({self.page_failure}): run the same command again, and only the page is made"
            )
        return ""

    def _text(self) -> str:
        diagnoses = ", ".join(f"{n:,} {name}" for name, n in self.diagnoses.items())
        failures = ", ".join(f"{n} {reason}" for reason, n in self.failures.items())
        share = 100 * self.abnormal / self.scored if self.scored else 0.0
        slides = counted(self.slides_for_review, "slide")
        rows: list[tuple[str, object]] = [
            (
                "images",
                f"{self.images:,}: {self.scored:,} scored, {self.images - self.scored} failed",
            ),
            ("diagnoses", diagnoses or "none"),
            ("patients", ", ".join(f"{n:,} {call}" for call, n in self.patients.items()) or "none"),
            ("abnormal", f"{self.abnormal:,} ({share:.1f}% of the scored)"),
            ("for review", f"{counted(self.review, 'image')}, {slides}"),
            ("light", [self.light, *self.reasons]),
            ("detector", self.detector),
            ("report", self.report),
            ("page", f"missing: {self.page_failure}" if self.page_failure else self.page),
        ]
        if failures:
            rows.insert(1, ("failed", failures))
        if self.taken_for.keys() - {"cells"}:
            rows.insert(0, ("taken for", counted_sorts(self.taken_for)))
        if self.repeated:
            done = f"batch {self.batch} was published before; nothing to do"
            if new := self.come_since:
                names = [uri.rpartition("/")[2] for uri in new[:NAMED]]
                named = ", ".join([*names, *["..."] * (len(new) > NAMED)])
                done = (
                    f"batch {self.batch} was published before; {counted(len(new), 'image')} came "
                    f"since ({named}): --force screens all images again"
                )
            return f"{done}\n{table(rows)}"
        rate = self.images / self.seconds
        return f"batch {self.batch}: {self.seconds:.1f} s, {rate:,.0f} images/s\n{table(rows)}"


class Published(NamedTuple):
    """A published batch: its seal, whether it was published before, and why there is no page.

    ``pictures`` are the patients' likeliest parasites, WebP files, if the page was made just now.
    """

    seal: ledger.Seal
    repeated: bool
    page_failure: str | None
    pictures: Mapping[Patient, Sequence[bytes]]


@flow(flow_run_name="{options.batch}")
@telemetry.observed(night=True)
def screen(options: Screen, settings: Settings) -> ScreenOutcome:
    """Screen a batch, and publish its report; the outcome says what failed.

    In Prefect the run is Completed, by its light, or Failed if no image could be scored, or as many
    failed as make the light red (`flows.prefect.states`).
    """
    return screen_sources(options, settings)


def screen_sources(
    options: Screen, settings: Settings, root: str | list[str] | None = None
) -> ScreenOutcome:
    """Screen sources, whose slides are named below ``root`` where that is given; see `screen`.

    Raises:
        StoreError: there is no detector, or the batch was begun with other images.
        SourceError: the images cannot be listed.
    """
    with lease_batch(Store(settings.store), options.batch, wait=options.wait) as held:
        return screen_held(held, options, settings, root)


def screen_held(
    held: Lease, options: Screen, settings: Settings, root: str | list[str] | None = None
) -> ScreenOutcome:
    """Screen sources as a batch under its lease; see `screen_sources`."""
    started, store = time.monotonic(), held.store
    detector = _chosen(store, options)
    card = detectors.load_model_of(store, detector)
    warn_of_model(card)
    with ExitStack() as work:
        taken, batch = prepare(store, options, settings, card.classes, work, root)
        screened = Screened(store, batch, card, detector)
        run = _run(held, settings, screened)
        seal = run.seal
        night = _announced(held, batch, run, settings)
    new = come_since(store, batch, _wanted(options, root), card.classes) if run.repeated else []
    return ScreenOutcome(
        batch=batch.name,
        report=store.address(*tables.report_path(batch.name, batch.batch_date)),
        page=store.address(*pages.page_path(batch.name)),
        model=seal.model,
        detector=seal.detector,
        taken_for=taken.sorts,
        images=seal.rows,
        scored=seal.scored,
        failures=seal.failures,
        diagnoses=seal.diagnoses,
        patients=night["patient_calls"],
        abnormal=seal.abnormal,
        review=seal.review,
        slides_for_review=night["slides_for_review"],
        light=night["light"],
        reasons=night["reasons"],
        seconds=time.monotonic() - started,
        repeated=run.repeated,
        page_failure=run.page_failure,
        come_since=new,
    )


def _chosen(store: Store, options: Screen) -> detectors.DetectorCard:
    """Load the detector that is given; a batch keeps the one that made its report, or began to.

    A name without a version stands for the newest one, unless the batch has an older one.
    """
    kept = () if options.force and options.detector else _screened_by(store, options.batch)
    wanted = options.detector
    of_batch = (each for each in kept if wanted in (None, each, detectors.name_of(each)))
    return detectors.load_detector_card(store, next(of_batch, wanted), console.warn)


def _screened_by(store: Store, name: str) -> Iterator[str]:
    """List the detectors that have screened a batch, or begun to, the last attempt's first."""
    batch = find_batch(store, name)
    while batch is not None:
        yield from ledger.screened_by(store, batch, console.warn)
        batch = load_batch(store, name, batch.attempt - 1) if batch.attempt > 1 else None


def prepare(
    store: Store,
    options: Screen,
    settings: Settings,
    classes: list[str],
    work: ExitStack,
    root: str | list[str] | None = None,
) -> tuple[Taken, Batch]:
    """Recognise the sources, cut up those with many cells, and freeze the batch's images.

    Slides are named below ``root`` where that is given.
    """
    wanted = _wanted(options, root)
    taken = take(store, settings, options.batch, wanted, classes, work, force=options.force)
    with telemetry.stage("freeze"):
        batch = start_or_resume(
            store,
            settings,
            options.batch,
            taken.images,
            classes,
            limit=taken.limit,
            batch_date=options.date,
            force=options.force,
            listed=taken.listed,
        )
    return taken, batch


def _wanted(options: Screen, root: str | list[str] | None) -> Wanted:
    return Wanted(
        options.images,
        options.taken_as,
        options.slide_is,
        options.microns_per_pixel,
        options.limit,
        root,
    )


def _run(held: Lease, settings: Settings, screened: Screened) -> Published:
    """Publish a batch and make its page, each unless it is there."""
    store, batch = screened.store, screened.batch
    seal, page_failure = valid_seal(store, batch, screened.key), None
    pictures: Mapping[Patient, Sequence[bytes]] = {}
    repeated = seal is not None
    if repeated:
        ledger.discard_scores(store, batch, screened.key)  # a run may die right after its seal
    if seal is None or not written_pages.has_page(store, batch, seal):
        with ThreadPoolExecutor(1) as beside, open_client(settings) as client:
            warming = beside.submit(_warm_up, client, screened, settings)  # while workers extract
            screened = tune(client, screened)
            if seal is None:
                seal = _publish(client, held, settings, screened)
            warming.result()
            if not written_pages.has_page(store, batch, seal):
                page_failure, pictures = written_pages.try_page(client, screened, settings, seal)
    return Published(seal, repeated, page_failure, pictures)


def _warm_up(client: Client, screened: Screened, settings: Settings) -> None:
    """Compute error rates and import what draws pages, half a second that workers do not need."""
    if not isinstance(client, Here):
        counting_at(screened, settings)
        written_pages.get_ready()


def _announced(held: Lease, batch: Batch, run: Published, settings: Settings) -> Row:
    """Return the batch's row of the report on batches, which is announced once."""
    _refuse_other_attempt(held, batch)
    store, seal, night = held.store, run.seal, batch_report(held.store, batch)
    _refuse_other_figures(store, batch, seal, night)
    if not ledger.is_announced(store, batch, seal):
        held.check()
        if announce(store, batch, seal, night, run.pictures, settings.pages_url):
            ledger.note_announced(store, batch, seal)
    return night


def _publish(client: Client, held: Lease, settings: Settings, screened: Screened) -> ledger.Seal:
    """Extract, score and publish."""
    with telemetry.stage("extract"):
        scoring.extract(client, screened)
    with telemetry.stage("score"):
        scored = scoring.score(client, screened)
    held.check()
    with telemetry.stage("publish"):
        return publish(client, screened, settings, scored)


def _refuse_other_attempt(held: Lease, batch: Batch) -> None:
    """Raise LeaseLostError where the report is of a later attempt: this run stalled meanwhile."""
    path = tables.report_path(batch.name, batch.batch_date, tables.BATCHES)
    stated = tables.stated_attempt(held.store, path)
    if stated > batch.attempt:
        successor = held.successor()
        raise LeaseLostError(
            f"attempt {stated} at batch {batch.name} was published since"
            f"{f', after the lease was taken over by {successor}' if successor else ''}: its "
            f"report replaces that of attempt {batch.attempt}, which this run made, and nothing "
            "is left to do"
        )


def _refuse_other_figures(store: Store, batch: Batch, seal: ledger.Seal, night: Row) -> None:
    """Raise StoreError where a seal or batch states other figures than the report.

    The report has a digest; the records that state its figures again have none of their own.
    """
    stated = (seal.rows, seal.scored, seal.abnormal, seal.review, seal.failures)
    counted = tuple(night[each] for each in ("images", "scored", "abnormal", "review", "failures"))
    if stated != counted or batch.rows != seal.rows:
        raise StoreError(
            f"batch.json or the seal in {store.address('batches', batch.key)} states other figures "
            "than the report: restore them from a backup, or screen the batch again with --force"
        )


def tune(client: Client, of: Screened) -> Screened:
    """Return a batch with its model as tuned to it.

    A batch keeps the tuning with which it was begun. The detector may have one for all batches, or
    none; otherwise it is measured.
    """
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
