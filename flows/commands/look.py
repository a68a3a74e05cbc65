"""Run the command `look`: screen one photograph, and open its page.

It works in a store of its own that is thrown away: a single photograph is not a batch, and later
batches must not be compared with it. Model, detector and laboratory are those of the user's store.
"""

import os
import shutil
import sys
import tempfile
import webbrowser
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

from flows.cluster.client import in_this_process
from flows.commands.written import to_write, written
from flows.jobs.worker import network_of
from flows.monitoring.console import tell, warn
from flows.options import flows, tools
from flows.outcome import Outcome
from flows.screen import ScreenOutcome, screen
from flows.settings import Settings
from flows.stages.counting.chosen_thresholds import rates_elsewhere, sure_rates
from storage.models.detectors import DetectorCard, load_model_of
from storage.models.laboratories import LaboratoryCard, borrow, detector_at
from storage.models.shipped import store_or_shipped
from storage.models.tunings import tuning_at
from storage.parquet import read_table
from storage.reports.tables import PATIENTS, published_batch, report_path
from storage.store import Store, StoreError
from tasks.counting.call import needs_text, photograph_text
from tasks.images.listing import refuse_missing
from tasks.images.names import batch_name
from tasks.visualisation.page import compile_templates


class LookOutcome(Outcome):
    """The figures of one photograph, and its page."""

    photo: str
    sentence: str
    taken_for: dict[str, int]
    cells: int
    diagnoses: dict[str, int]
    calls: dict[str, int]
    abnormal: int
    light: str
    reasons: list[str]
    failures: dict[str, int]
    detector: str
    page: str
    opened: bool

    @property
    def failed(self) -> bool:
        """Return whether the photograph, or a cell of it, could not be read."""
        return bool(self.failures)

    def _text(self) -> str:
        failed = ", ".join(f"{n:,} failed: {why}" for why, n in self.failures.items())
        light = ": ".join((f"{self.light} light", *self.reasons[:1]))
        page = f"{self.page}{'' if self.opened else ' (open it in a browser)'}"
        return "\n".join(filter(None, (self.sentence, failed, light, page)))


def look(options: tools.Look, settings: Settings) -> LookOutcome:
    """Screen a photograph; the store stays as it is.

    Raises:
        SourceError: there is no such photograph, or the page may not be written there.
        StoreError: there is no such detector or laboratory.
    """
    refuse_missing(options.photo)
    page = (
        to_write(options.to, Store(settings.store), force=options.force)
        if options.to
        else Path(tempfile.mkdtemp(prefix="slidewatch-")) / f"{batch_name(options.photo)}.html"
    )
    with tempfile.TemporaryDirectory(prefix="slidewatch-look-") as folder:
        scratch = Store(folder)
        store = store_or_shipped(settings.store, tell)
        card, laboratory_card = detector_at(store, options.detector, options.laboratory, warn)
        borrow(store, scratch, card, laboratory_card)
        inner = settings.model_copy(update={"store": folder, "metrics": None})
        with ThreadPoolExecutor(1) as beside, in_this_process(inner):
            ready = beside.submit(_get_ready, scratch, card, laboratory_card)
            outcome = screen(
                flows.Screen(
                    images=options.photo,
                    taken_as=options.taken_as,
                    microns_per_pixel=options.microns_per_pixel,
                    detector=card.name,
                    laboratory=options.laboratory,
                ),
                inner,
            )
            ready.result()
        said = sentence_of(scratch, outcome)
        with written(page) as stage:
            shutil.copyfile(outcome.page, stage)
    opened = options.browser and _has_display() and webbrowser.open(page.absolute().as_uri())
    return LookOutcome(
        photo=options.photo,
        sentence=f"{Path(options.photo).name}: {said}",
        cells=outcome.scored,
        calls=outcome.patients,
        page=str(page),
        opened=opened,
        **outcome.model_dump(include=set(LookOutcome.model_fields) - {"page"}),
    )


def _get_ready(store: Store, detector: DetectorCard, laboratory: LaboratoryCard | None) -> None:
    """Load the network and error rates, which take a second, during the search for cells."""
    tuning = tuning_at(store, laboratory.name).tuning if laboratory else None
    network_of(store, load_model_of(store, detector).tuned(tuning))
    if laboratory is None:
        rates_elsewhere(store, detector)
    sure_rates(store, detector)
    import_module("duckdb")
    compile_templates()


def sentence_of(store: Store, outcome: ScreenOutcome) -> str:
    """Write in a sentence what a batch of a store shows.

    Raises:
        StoreError: its page could not be made.
    """
    if outcome.page_failure:
        raise StoreError(f"the page of {outcome.batch} could not be made ({outcome.page_failure})")
    batch = published_batch(store, outcome.batch)
    patients = read_table(store, *report_path(batch.name, batch.batch_date, PATIENTS)).to_pylist()
    if len(patients) == 1:
        return photograph_text(outcome.model_dump(), patients[0])
    return needs_text(outcome.patients)


def _has_display() -> bool:
    """Return whether a browser can show a page here, and not in the middle of a terminal."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
