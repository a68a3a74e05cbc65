"""Write the page of a batch from its published reports, and the index that lists it."""

import shlex
from datetime import date

from flows.cluster.client import Client
from flows.jobs import verified
from flows.jobs.scoring.screened import Screened
from flows.monitoring import console
from flows.prefect.decorators import task
from flows.settings import Settings
from flows.smears.stages import answers, calling
from flows.smears.stages.chosen_thresholds import next_step
from flows.smears.stages.drawn_pages import draw_page, find_cells
from flows.smears.stages.provenance import command, made_by
from storage import leases
from storage.batches import manifests
from storage.batches.ledger import Seal
from storage.reports.kinds import calls_by_persons
from storage.reports.tables import FIELDS, PATIENTS, SLIDES, read_report
from storage.smears.answers import digest_of_answers
from storage.smears.call_seals import CallSeal
from storage.smears.pages import (
    INDEX,
    made_from,
    page_is_of,
    page_names,
    page_path,
    write_page_file,
)
from storage.store import Store
from tasks.smears.reports.called_cells import Patient, cells_behind, patient_of
from tasks.smears.visualisation import calls
from tasks.smears.visualisation.batch_page import NIGHTS_SHOWN, BatchView, batch_page, index_page
from tasks.smears.visualisation.calls import cells_each, opened
from tasks.smears.visualisation.highlights import Highlights

LISTED = 120  # batches on the index; a file of each is read every night


def has_page(store: Store, batch: manifests.Batch, called: CallSeal) -> bool:
    """Return whether a batch has a page of these reports and of all readings, and an index."""
    answered = digest_of_answers(store, batch.key)
    return (
        store.exists(*INDEX)
        and page_is_of(store, batch.name, made_from(called))
        and (answered is None or page_is_of(store, batch.name, answered))
    )


@task
def write_page(
    client: Client, screened: Screened, settings: Settings, seal: Seal, called: CallSeal
) -> dict[Patient, list[bytes]]:
    """Write the page of a published batch and list it; the same batch makes the same page.

    Persons' answers are on it, and are written as a table of their own.

    Return pictures of the patients' likeliest parasites, WebP files.
    """
    store, batch, card, detector = screened.store, screened.batch, screened.model, screened.detector
    fitted = verified.load_detector(store, detector)
    limit = fitted.abnormal_from(detector.alpha)
    highlights = Highlights(card.classes, limit)
    patients, slides = (read_report(store, batch, kind) for kind in (PATIENTS, SLIDES))
    shown = opened(calls.positive_first(patients))
    each = cells_each(len(shown))
    cells = cells_behind(shown, slides, most=each, least=each)
    find_cells(client, screened, highlights, cells, limit)
    fields = read_report(store, batch, FIELDS) if FIELDS in called.digests else None
    likeliest = {patient: cells.of(patient) for patient in map(patient_of, shown)}
    answered = digest_of_answers(store, batch.key)
    wanted_share = settings.negative_percent / 100
    by_persons = answers.answers_on(store, batch, card, detector, wanted_share).by_patient()
    answers.write_answers(store, batch, by_persons)
    step, faults = "", fields["review_reason"].to_pylist() if fields is not None else []
    if len(faults) == 1:
        step = next_step(store, detector, patients.to_pylist()[0], faults)
    view = BatchView(
        row=calling.batch_report(store, batch),
        earlier=calling.nights_before(store, batch.batch_date, NIGHTS_SHOWN - 1),
        slides=slides,
        highlights=highlights,
        classes=card.classes,
        threshold=limit,
        made_by=made_by(screened, seal),
        command=command(settings, store, batch, seal),
        made_from=made_from(called),
        patients=patients,
        answered=answered,
        next_step=step,
        answers=by_persons,
        store=shlex.quote(settings.store),
        **draw_page(client, screened, highlights, likeliest, fields),
    )
    page = batch_page(view)
    # Before the page, so that the index lists every existing page, even if the run is killed.
    write_index(store, batch)
    write_page_file(store, page, *page_path(batch.name))
    files = {uri: each for uri, each in view.thumbnails.items() if isinstance(each, bytes)}
    return {
        patient: [files[cell["uri"]] for cell in some if cell["uri"] in files]
        for patient, some in view.called.cells.items()
    }


def write_index(store: Store, batch: manifests.Batch) -> None:
    """Write the page that lists the batches; link this batch's page, which is written next.

    Only one run at a time writes it, or an older list might replace a newer one.
    """
    with leases.lease(store, "reports", wait=True, on_wait=console.tell) as held:
        if store.fence:
            store.fence.check()
        nights = calling.nights_before(store, date.max, LISTED)
        persons = calls_by_persons(store, {night["batch"] for night in nights})
        pages = page_names(store) | {batch.name: page_path(batch.name)[-1]}
        write_page_file(held.store, index_page(nights, pages, persons), *INDEX)
