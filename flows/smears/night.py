"""Run a night: cut up photographs, screen their cells, and call slides and patients.

This is what `slidewatch screen` does; each step resumes by itself, so a crash between two of them
loses nothing.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from importlib import import_module

from pydantic import Field

from flows.cluster.client import Here, open_client
from flows.jobs.scoring.screened import Screened
from flows.monitoring import telemetry
from flows.monitoring.logs import bind
from flows.nightly import run_name, take_night
from flows.options.flows import Nightly, Screen
from flows.outcome import table
from flows.prefect.decorators import flow
from flows.screen import ScreenOutcome, begin, chosen, outcome_of, refuse_another, screen_batch
from flows.settings import Settings
from flows.smears.call import CallOutcome, call_screened
from flows.smears.stages import written_pages
from flows.smears.stages.answers import carry_answers
from flows.smears.stages.calling import valid_call
from flows.smears.stages.chosen_thresholds import counting_at
from flows.smears.stages.sorting import Taken, come_since, counted_sorts, take
from flows.stages.batch import lease_batch
from flows.stages.publish import valid_seal
from storage.leases import Lease
from storage.models.detectors import load_model_of
from storage.models.tunings import as_begun
from storage.store import Store
from tasks.words import counted

NAMED = 3  # files that a message names


class NightOutcome(ScreenOutcome, CallOutcome):
    """The figures and addresses of a screened and called batch."""

    taken_for: dict[str, int] = Field(default_factory=dict)
    come_since: list[str] = Field(default_factory=list)
    changed_since: list[str] = Field(default_factory=list)
    gone_since: list[str] = Field(default_factory=list)

    def lost(self) -> str:
        """Write the number of files that failed as a whole, or else of images, and of all."""
        if not self.files_failed or self.files == self.images:
            return super().lost()
        return f"{self.files_failed:,} of {counted(self.files, 'file')}"

    def rows(self) -> list[tuple[str, object]]:
        """List the figures of the images and of the patients, by name."""
        images, calls = ScreenOutcome.rows(self), CallOutcome.rows(self)
        slides = counted(self.slides_for_review, "slide")
        named = dict(images) | dict(calls)
        named["for review"] = f"{named['for review']}, {slides}"
        order = [
            *("images", "failed", "diagnoses", "patients", "abnormal", "for review", "light"),
            *("detector", "report", "page"),
        ]
        rows = [(name, named[name]) for name in order if name in named]
        if self.taken_for.keys() - {"cells"}:
            rows.insert(0, ("taken for", counted_sorts(self.taken_for)))
        return rows

    def done(self) -> str:
        """Say whether the batch was screened before, and name images that are not the same now."""
        new, changed, gone = self.come_since, self.changed_since, self.gone_since
        if not self.repeated or not new + changed + gone:
            return super().done()
        since = ", ".join(
            f"{counted(len(uris), 'image')} {what} since ({_named(uris)})"
            for uris, what in ((new, "came"), (changed, "changed"), (gone, "disappeared"))
            if uris
        )
        return f"batch {self.batch} was published before; {since}: --force screens all images again"

    def _text(self) -> str:
        return f"{self.done()}\n{table(self.rows())}"


def _named(uris: list[str]) -> str:
    names = [uri.rpartition("/")[2] for uri in uris[:NAMED]]
    return ", ".join([*names, *["..."] * (len(uris) > NAMED)])


@flow(flow_run_name="{options.batch}")
@telemetry.observed(night=True)
def screen(options: Screen, settings: Settings) -> NightOutcome:
    """Screen a batch and call its patients; the outcome says what failed.

    In Prefect the run is Completed, by its light, or Failed if no image could be scored, or as many
    failed as make the light red (`flows.monitoring.states`).
    """
    return screen_sources(options, settings)


@flow(flow_run_name=run_name)
@telemetry.observed(night=True)
def nightly(options: Nightly, settings: Settings) -> NightOutcome:
    """Screen the new images of an inbox and call its patients; see `flows.nightly`."""
    tonight = take_night(options, settings)
    with bind(batch=tonight.batch):
        return screen_sources(tonight, settings, root=options.inbox)


def screen_sources(
    options: Screen, settings: Settings, root: str | list[str] | None = None
) -> NightOutcome:
    """Screen sources, whose slides are named below ``root`` where that is given; see `screen`."""
    with lease_batch(Store(settings.store), options.batch, wait=options.wait) as held:
        refuse_another(held.store, options)
        return screen_held(held, options, settings, root)


def screen_held(
    held: Lease, options: Screen, settings: Settings, root: str | list[str] | None = None
) -> NightOutcome:
    """Screen sources as a batch under its lease; see `screen_sources`."""
    started, store, ready = time.monotonic(), held.store, None
    with ExitStack() as work:
        taken, screened = prepare(store, options, settings, work, root)
        known = valid_seal(store, screened.batch, screened.key)
        called = valid_call(store, screened.batch, known) if known else None
        if called is None or not written_pages.has_page(store, screened.batch, called):
            client = work.enter_context(open_client(settings))  # the same workers for all steps
            beside = work.enter_context(ThreadPoolExecutor(1))  # while the network runs
            ready = beside.submit(_get_ready, screened, settings, alone=isinstance(client, Here))
        seal = screen_batch(held, settings, screened, known)
        if ready:
            ready.result()
        screened = replace(screened, model=as_begun(store, screened.batch, screened.model))
        outcome = call_screened(held, settings, screened, seal, called)
    repeated, batch, classes = called is not None, screened.batch, screened.model.classes
    since = come_since(store, batch, options, classes) if repeated else {}
    figures = outcome_of(screened, seal, repeated, time.monotonic() - started)
    return NightOutcome(
        **figures.model_dump() | outcome.model_dump() | since, taken_for=taken.sorts
    )


def _get_ready(screened: Screened, settings: Settings, *, alone: bool) -> None:
    """Compute error rates, and import and compile what draws pages: half a second."""
    counting_at(screened, settings).elsewhere()
    if not alone:  # with Matplotlib, which a page of one photograph does without, as most templates
        import_module("tasks.smears.visualisation.charts")
        import_module("tasks.smears.visualisation.page").compile_templates()


def prepare(
    store: Store,
    options: Screen,
    settings: Settings,
    work: ExitStack,
    root: str | list[str] | None = None,
) -> tuple[Taken, Screened]:
    """Recognise the sources, cut up those with many cells, and freeze the batch's images."""
    detector = chosen(store, options)
    card = load_model_of(store, detector)
    taken = take(store, settings, options, root, card.classes, work)
    begun = begin(store, options, settings, detector, card, taken)
    carry_answers(store, begun.batch, options.images)
    return taken, begun
