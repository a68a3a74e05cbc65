"""Write the page of a batch from its published reports, and the index that lists it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import import_module
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs import verified
from flows.jobs.libraries import OF_A_PAGE, exact
from flows.jobs.scoring.screened import Screened
from flows.monitoring import console, telemetry
from flows.prefect.decorators import task
from flows.settings import Settings
from flows.smears.jobs import drawings
from flows.smears.jobs.shown import ShownJob, find_shown
from flows.smears.stages import answers, calling
from storage import leases, parquet
from storage.batches import manifests
from storage.batches.ledger import Seal
from storage.models import detectors
from storage.reports.tables import FIELDS, PATIENTS, SLIDES, report_path
from storage.smears import segmentations
from storage.smears.answers import digest_of_answers
from storage.smears.call_seals import CallSeal
from storage.smears.pages import (
    index_path,
    made_from,
    page_is_of,
    page_names,
    page_path,
    write_page_file,
)
from storage.store import Store
from tasks.images.listing import each_source, named
from tasks.images.regions import ImageRef, image_refs
from tasks.smears.counting.call import Call
from tasks.smears.reports import field_rows
from tasks.smears.reports.called_cells import CalledCells, Patient, patient_of
from tasks.smears.visualisation import calls
from tasks.smears.visualisation.batch_page import NIGHTS_SHOWN, BatchView, batch_page
from tasks.smears.visualisation.highlights import CELLS_SHOWN, ROW, Highlights
from tasks.smears.visualisation.index_page import index_page
from tasks.smears.visualisation.overlay import ShownSlide, fields_to_show
from tasks.smears.visualisation.page import compile_templates
from tasks.smears.visualisation.patients import Called, cells_each, opened
from tasks.smears.visualisation.viewer.overlays import ShownField
from tasks.words import counted

LISTED = 120  # batches on the index; a file of each is read every night
CELLS_A_JOB = 12
WHOLE_SLIDES = 4  # overviews on a page: with the fields it stays below 10 MB


def has_page(store: Store, batch: manifests.Batch, called: CallSeal) -> bool:
    """Return whether a batch has a page of these reports and of all readings, and an index."""
    answered = digest_of_answers(store, batch.key)
    return (
        store.exists(*index_path())
        and page_is_of(store, batch.name, made_from(called))
        and (answered is None or page_is_of(store, batch.name, answered))
    )


def get_ready() -> None:
    """Import and compile what draws a page, ahead of the first one."""
    import_module("tasks.smears.visualisation.charts")
    compile_templates()


@task
def write_page(
    client: Client, screened: Screened, settings: Settings, seal: Seal, called: CallSeal
) -> dict[Patient, list[bytes]]:
    """Write the page of a published batch and list it; the same batch makes the same page.

    Return pictures of the patients' likeliest parasites, WebP files.
    """
    store, batch, card, detector = screened.store, screened.batch, screened.model, screened.detector
    fitted = verified.load_detector(store, detector)
    limit = fitted.abnormal_from(detector.alpha)
    highlights = Highlights(card.classes, limit)
    patients, slides = (
        parquet.read_table(store, *report_path(batch.name, batch.batch_date, kind))
        for kind in (PATIENTS, SLIDES)
    )
    shown = opened(calls.positive_first(patients))
    cells = _called_cells(shown, slides, detector)
    footer = parquet.read_footer(store, *report_path(batch.name, batch.batch_date))
    wanted = cells.empty()
    sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    jobs = [ShownJob(screened, group, start, limit, wanted) for group, start in enumerate(starts)]
    found = list(run_jobs(client, find_shown, jobs, title=f"read {batch.name}"))
    highlights.add(*(of_group for of_group, _ in found))
    cells.add(*(of_group for _, of_group in found))
    fields = None
    if FIELDS in called.digests:
        fields = parquet.read_table(store, *report_path(batch.name, batch.batch_date, FIELDS))
    likeliest = {patient: cells.of(patient) for patient in map(patient_of, shown)}
    drawn = _drawn(client, screened, highlights, likeliest, fields)
    answered = digest_of_answers(store, batch.key)
    wanted_share = settings.negative_percent / 100
    view = BatchView(
        row=calling.batch_report(store, batch),
        earlier=calling.nights_before(store, batch.batch_date, NIGHTS_SHOWN - 1),
        slides=slides,
        highlights=highlights,
        thumbnails=drawn.thumbnails,
        fields=drawn.fields,
        whole_slides=drawn.whole_slides,
        classes=card.classes,
        threshold=limit,
        made_by=_made_by(screened, seal),
        command=_command(settings, store, batch, seal),
        made_from=made_from(called),
        patients=patients,
        called=drawn.called,
        answered=answered,
        answers=answers.answers_on(store, batch, card, detector, wanted_share) if answered else {},
    )
    page = batch_page(view)
    # Before the page, so that the index lists every existing page, even if the run is killed.
    _write_index(store, batch)
    write_page_file(store, page, *page_path(batch.name))
    files = {uri: each for uri, each in drawn.thumbnails.items() if isinstance(each, bytes)}
    return {
        patient: [files[cell["uri"]] for cell in some if cell["uri"] in files]
        for patient, some in drawn.called.cells.items()
    }


def _called_cells(
    patients: Sequence[Mapping[str, Any]], slides: pa.Table, detector: detectors.DetectorCard
) -> CalledCells:
    """Make the collector of cells behind the calls of the patients that the page opens."""
    unreadable = slides.filter(pc.equal(slides["call"].cast(pa.string()), Call.UNREADABLE.value))
    counts = {patient_of(row): row["cells_called"] for row in patients}
    names = unreadable.select(["slide_id", "patient_id"]).to_pylist()
    # A slide of several patients names none.
    lost: set[str | None] = {
        row["slide_id"] for row in names if row["patient_id"] is None or patient_of(row) in counts
    }
    each = cells_each(len(patients))
    return CalledCells(
        counts, lost, counts_abnormal=detector.counts_abnormal, most=each, least=each
    )


def try_page(
    client: Client, screened: Screened, settings: Settings, seal: Seal, called: CallSeal
) -> tuple[str | None, dict[Patient, list[bytes]]]:
    """Make the page, or return why it failed; the published report is valid without it.

    The second value is that of `write_page`.

    Raises:
        LeaseLostError: another run has taken over and may have replaced the report.
    """
    try:
        with telemetry.stage("page"):
            return None, write_page(client, screened, settings, seal, called)
    except leases.LeaseLostError:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}", {}


def _write_index(store: Store, batch: manifests.Batch) -> None:
    """Write the page that lists the batches; link this batch's page, which is written next.

    Only one run at a time writes it, or an older list might replace a newer one.
    """
    with leases.lease(store, "reports", wait=True, on_wait=console.tell) as held:
        if store.fence:
            store.fence.check()
        nights = calling.nights_before(store, date.max, LISTED)
        pages = page_names(store) | {batch.name: page_path(batch.name)[-1]}
        write_page_file(held.store, index_page(nights, pages), *index_path())


@dataclass(frozen=True)
class _Drawn:
    """Hold what workers drew for a page: cells by address, their places, fields and slides."""

    thumbnails: dict[str, bytes | str]
    called: Called
    fields: list[ShownField]
    whole_slides: list[ShownSlide]


def _drawn(
    client: Client,
    screened: Screened,
    highlights: Highlights,
    called: Mapping[Patient, Sequence[Mapping[str, Any]]],
    fields: pa.Table | None,
) -> _Drawn:
    """Draw everything on a page at once; slides come first, because one takes longest.

    ``called`` are the cells behind the calls of patients, rows of the image report.
    """
    of_called = list(chain.from_iterable(called.values()))
    slides = _slides(fields) if fields is not None else []
    views = _fields(screened, fields) if fields is not None else []
    places = drawings.places_jobs(screened.store, screened.batch, screened.model, of_called)
    cells = _cells(screened, highlights, of_called)
    some = [
        drawings.ThumbnailJob(tuple(cells[i : i + CELLS_A_JOB]))
        for i in range(0, len(cells), CELLS_A_JOB)
    ]
    jobs = [*slides, *views, *places, *some]
    drawn = run_jobs(client, drawings.draw, jobs, title=f"page {screened.batch.name}")
    whole = [ShownSlide(job.source_uri, job.fields, next(drawn)) for job in slides]
    shown = [ShownField(job.field, next(drawn)) for job in views]
    pictures = {
        cell["uri"]: picture
        for job in places
        for cell, picture in zip(job.cells, next(drawn), strict=True)
    }
    uris = (ref.uri for ref, _ in cells)
    thumbnails = dict(zip(uris, chain.from_iterable(drawn), strict=True))
    return _Drawn(thumbnails, Called(called, pictures), shown, whole)


def _cells(
    screened: Screened, highlights: Highlights, called: Sequence[Mapping[str, Any]]
) -> list[tuple[ImageRef, str]]:
    """List the cells on all sheets and the called cells, with their digests."""
    shown: list[Mapping[str, Any]] = []
    for name in CELLS_SHOWN:
        shown += highlights.sheet(name).select(["uri", "image_id", ROW]).to_pylist()
    by_uri = {cell["uri"]: cell for cell in (*shown, *called)}
    numbers = [cell[ROW] for cell in by_uri.values()]
    refs = image_refs(manifests.rows_at(screened.store, screened.batch, numbers))
    return [(ref, by_uri[ref.uri]["image_id"]) for ref in refs]


def _fields(screened: Screened, report: pa.Table) -> list[drawings.FieldPictureJob]:
    """Choose the fields of view for the page, with the cells of each."""
    store, batch = screened.store, screened.batch
    fields = fields_to_show(report).to_pylist()
    cells: list[list[dict[str, Any]]] = [[] for _ in fields]
    sources = {field["source_uri"] for field in fields}
    for rows in drawings.rows_of_sources(store, batch, screened.model, sources):
        for field, of_field in zip(fields, cells, strict=True):
            of_field += field_rows.cells_of(rows, field)
    refs = drawings.find_refs(store, batch, [cell["uri"] for some in cells for cell in some])
    return [
        drawings.FieldPictureJob(field, tuple(some), {c["uri"]: refs[c["uri"]] for c in some})
        for field, some in zip(fields, cells, strict=True)
    ]


def _slides(report: pa.Table) -> list[drawings.SlidePictureJob]:
    """Choose the slides for the page, those with the most parasitized cells first."""
    # A photograph has no magnification, and is a field itself.
    of_slides = report.filter(pc.is_valid(report["microns_per_pixel"]))
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in of_slides.to_pylist():
        by_source.setdefault(row["source_uri"], []).append(row)
    parasitized = {uri: sum(row["parasitized"] for row in rows) for uri, rows in by_source.items()}
    shown = sorted(by_source, key=lambda uri: (-parasitized[uri], uri))[:WHOLE_SLIDES]
    return [drawings.SlidePictureJob(uri, tuple(by_source[uri])) for uri in shown]


def _made_by(screened: Screened, seal: Seal) -> dict[str, str]:
    store, batch, card, detector = screened.store, screened.batch, screened.model, screened.detector
    learned, adaptation = detector.learned, detector.adaptation
    return {
        "images": named(segmentations.sources_of(store, batch)),
        "scored": f"{seal.scored_at:%Y-%m-%d %H:%M} UTC",
        "model": f"{card.name} in {card.arithmetic}, sha256 {card.digest}",
        **({"tuning": f"sha256 {card.tuning}"} if card.tuning else {}),
        "detector": f"{detector.name}, sha256 {detector.digest}",
        "calibration": f"{detector.calibrating_images:,} images of "
        f"{detector.calibrating_groups:,} {detector.calibrated_by}s, alpha {detector.alpha}",
        **({"counting": _counting(detector.counting)} if detector.counting else {}),
        **({"the detector says": "; ".join(detector.warnings)} if detector.warnings else {}),
        **(
            {"learned": f"{counted(len(learned.nights), 'batch')}, from {detector.parent}"}
            if learned
            else {}
        ),
        **({"diagnosis": adaptation.text} if adaptation else {}),
        "manifest": f"{batch.rows:,} images, sha256 {batch.manifest_digest}",
        "report": f"{seal.report}, sha256 {seal.report_digest}",
        "versions": ", ".join(f"{name} {number}" for name, number in exact(OF_A_PAGE).items()),
    }


def _counting(card: detectors.CountingCard) -> str:
    """Describe the counting threshold of a detector."""
    used = card.counting
    limit = used.limit_of_detection
    return (
        f"a cell counts from log-odds {used.log_odds:g} on, where parasites are many from "
        f"{card.dense.log_odds:g} on: sensitivity "
        f"{used.sensitivity.mean:.1%}, false positives {used.false_positives.mean:.3%} "
        f"(deviation between patients {used.false_positives.deviation:.3%}), of "
        f"{used.false_positives.slides} patients or slides; limit of detection of {card.cells:,} "
        f"cells {'none' if limit is None else f'{limit:.2%}'}"
    )


def _command(settings: Settings, store: Store, batch: manifests.Batch, seal: Seal) -> str:
    words, made = ["slidewatch", "screen"], segmentations.segmentation_for(store, batch)
    for source in each_source(segmentations.sources_of(store, batch)):
        words += ["--images", source]
    if made:
        words += ["--as", made.taken_as] if made.taken_as else []
        words += ["--slide-is", made.slide_is] if made.slide_is != "folder" else []
        scale = made.cutting.microns_per_pixel
        words += ["--microns-per-pixel", f"{scale:g}"] if scale else []
    words += ["--store", settings.store]
    words += ["--batch", batch.name, "--date", batch.batch_date.isoformat()]
    words += ["--detector", seal.detector]
    limit = made.limit if made else batch.limit
    words += ["--limit", str(limit)] if limit else []
    return shlex.join(words)
