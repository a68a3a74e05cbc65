"""Run the flow `call`: a report on images -> calls of slides and patients, a light and a page.

It needs no features and may be run again at any time, for example with other settings.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import Field

from flows.cluster.client import Client, open_client
from flows.jobs.scoring.screened import Screened
from flows.monitoring import console, telemetry
from flows.options.flows import CallAgain
from flows.outcome import Outcome, numbered, table
from flows.prefect.decorators import flow
from flows.screen import refuse_other_attempt
from flows.settings import Settings
from flows.smears.artifacts import announce
from flows.smears.stages import written_pages
from flows.smears.stages.calling import batch_report, call_batch, valid_call
from flows.stages.batch import lease_batch
from storage.batches import ledger
from storage.batches.manifests import Batch, load_batch
from storage.leases import Lease, LeaseLostError
from storage.models import detectors, tunings
from storage.reports import tables
from storage.smears import pages
from storage.smears.call_seals import CallSeal
from storage.store import Store, StoreError
from tasks.smears.counting.call import by_call
from tasks.smears.reports.called_cells import Patient
from tasks.smears.reports.night.counts import Row


class CallOutcome(Outcome):
    """The patients of a batch by call, its light and its page."""

    batch: str
    page: str
    files: int
    files_failed: int
    patients: dict[str, int]
    patients_by_persons: dict[str, int] = Field(default_factory=dict)
    slides_for_review: int
    light: str
    reasons: list[str]
    page_failure: str | None = None

    def rows(self) -> list[tuple[str, object]]:
        """List the calls, the light and the page, by name."""
        persons = numbered(self.patients_by_persons)
        by_persons = f"; by persons {persons}" if persons else ""
        return [
            ("patients", (numbered(self.patients) or "none") + by_persons),
            ("light", [self.light, *self.reasons]),
            ("page", f"missing: {self.page_failure}" if self.page_failure else self.page),
        ]

    @property
    def problem(self) -> str:
        """Say that the page is missing; empty otherwise."""
        if self.page_failure is None:
            return ""
        return (
            f"the report of batch {self.batch} is published, but its page could not be made "
            f"({self.page_failure}): run the same command again, and only the page is made"
        )

    def _text(self) -> str:
        return f"batch {self.batch} is called\n{table(self.rows())}"


def call_screened(
    held: Lease,
    settings: Settings,
    screened: Screened,
    seal: ledger.Seal,
    called: CallSeal | None = None,
) -> CallOutcome:
    """Publish the calls of a batch under its lease, make its page and announce it.

    ``seal`` is that of its report on images. ``called`` is the valid seal of calls that are
    published already: then only a page that is missing, or older than persons' answers, is made.
    """
    store, batch = screened.store, screened.batch
    page_failure: str | None = None
    pictures: Mapping[Patient, Sequence[bytes]] = {}
    is_drawn = called is None or not written_pages.has_page(store, batch, called)
    if is_drawn:
        with open_client(settings) as client:
            if called is None:
                held.check()
                with telemetry.stage("call"):
                    called = call_batch(client, screened, settings, seal)
            page_failure, pictures = _try_page(client, screened, settings, seal, called)
    refuse_other_attempt(held, batch, tables.BATCHES)
    night = batch_report(store, batch)
    _refuse_other_figures(store, batch, seal, night)
    is_announced = ledger.is_announced(store, batch, seal)
    if is_drawn or not is_announced:
        held.check()
        anew = not is_announced
        if announce(store, batch, seal, night, pictures, settings.pages_url, events=anew):
            ledger.note_announced(store, batch, seal)
    answered = tables.find_report(store, batch, tables.PERSONS).to_pylist()
    return CallOutcome(
        batch=batch.name,
        page=store.address(*pages.page_path(batch.name)),
        files=night.get("files", 0),  # a report of 0.14 does not say
        files_failed=night.get("files_failed", 0),
        patients=by_call(night["patient_calls"]),
        patients_by_persons=by_call(Counter(filter(None, (r["person_call"] for r in answered)))),
        slides_for_review=night["slides_for_review"],
        light=night["light"],
        reasons=night["reasons"],
        page_failure=page_failure,
    )


def _try_page(
    client: Client, screened: Screened, settings: Settings, seal: ledger.Seal, called: CallSeal
) -> tuple[str | None, dict[Patient, list[bytes]]]:
    """Make the page, or return why it failed, and its pictures; the report is valid without it.

    LeaseLostError if another run has taken over and may have replaced the report.
    """
    try:
        with telemetry.stage("page"):
            return None, written_pages.write_page(client, screened, settings, seal, called)
    except LeaseLostError:
        raise
    except Exception as error:
        kind = "" if isinstance(error, StoreError) else f"{type(error).__name__}: "
        return f"{kind}{error}", {}


@flow(flow_run_name="call {options.batch}")
@telemetry.observed()
def call(options: CallAgain, settings: Settings) -> CallOutcome:
    """Judge the slides, patients and light of a screened batch again, and make its page again.

    With ``page_only`` published calls stay.
    """
    store = Store(settings.store)
    load_batch(store, options.batch)  # or no lease is taken
    with lease_batch(store, options.batch, wait=options.wait) as held:
        screened, seal = published(held.store, options.batch)
        known = valid_call(held.store, screened.batch, seal) if options.page_only else None
        return call_screened(held, settings, screened, seal, known)


def published(store: Store, name: str) -> tuple[Screened, ledger.Seal]:
    """Load a batch as it was screened for its sealed report, and the seal; StoreError without."""
    newest = load_batch(store, name)
    path = tables.report_path(name, newest.batch_date)
    digest = tables.report_digest(store, path)
    if digest is None:
        raise StoreError(f"batch {name} has no report yet: slidewatch screen makes it")
    batch = load_batch(store, name, tables.stated_attempt(store, path))
    seals = ledger.list_seals(store, batch, console.warn)
    seal = next((each for each in seals if each.report_digest == digest), None)
    if seal is None:
        raise StoreError(
            f"the report of batch {name} is not sealed: run the same slidewatch screen again"
        )
    detector = detectors.load_detector_card(store, seal.detector)
    model = tunings.as_begun(store, batch, detectors.load_model_of(store, detector))
    return Screened(store, batch, model, detector), seal


def _refuse_other_figures(store: Store, batch: Batch, seal: ledger.Seal, night: Row) -> None:
    # The report has a digest; the records that state its figures again have none of their own.
    stated = (seal.rows, seal.scored, seal.abnormal, seal.review, seal.failures)
    counted = tuple(night[each] for each in ("images", "scored", "abnormal", "review", "failures"))
    if stated != counted or batch.rows != seal.rows:
        raise StoreError(
            f"batch.json or the seal in {store.address('batches', batch.key)} states other figures "
            "than the report: restore them from a backup, or screen the batch again with --force"
        )
