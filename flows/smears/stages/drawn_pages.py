"""Let workers draw what a page shows: cells, fields of view and slides."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring.screened import Screened
from flows.smears.jobs import drawings
from storage import parquet
from storage.batches import manifests
from storage.reports.tables import report_path
from tasks.images.regions import ImageRef, image_refs
from tasks.smears.reports.called_cells import CalledCells, Patient
from tasks.smears.visualisation.calls import Called
from tasks.smears.visualisation.highlights import CELLS_SHOWN, ROW, Highlights
from tasks.smears.visualisation.overlay import ShownSlide, cells_of, fields_to_show
from tasks.smears.visualisation.viewer.overlays import ShownField

CELLS_A_JOB = 12
WHOLE_SLIDES = 4  # overviews on a page: with the fields it stays below 10 MB


def draw_page(
    client: Client,
    screened: Screened,
    highlights: Highlights,
    called: Mapping[Patient, Sequence[Mapping[str, Any]]],
    fields: pa.Table | None,
) -> dict[str, Any]:
    """Draw everything on a page at once, by field of `BatchView`.

    Slides come first, because one takes longest. ``called`` are the cells behind the calls of
    patients, rows of the image report.
    """
    of_called = list(chain.from_iterable(called.values()))
    slides = _slides(fields) if fields is not None else []
    views = _fields(screened, fields) if fields is not None else []
    places = drawings.places_jobs(screened.store, screened.batch, screened.model, of_called)
    cells = _cells(screened, highlights, of_called)
    some = [
        drawings.DrawingJob(tuple(cells[i : i + CELLS_A_JOB]), drawings.draw_thumbnail)
        for i in range(0, len(cells), CELLS_A_JOB)
    ]
    whole_slides = [drawings.DrawingJob((each,), drawings.draw_slide) for each in slides]
    fields_of_view = [drawings.DrawingJob((each,), drawings.draw_field) for each in views]
    jobs = [*whole_slides, *fields_of_view, *places, *some]
    drawn = run_jobs(client, drawings.draw, jobs, title=f"page {screened.batch.name}")
    whole = [ShownSlide(uri, of_slide, *next(drawn)) for uri, of_slide in slides]
    shown = [ShownField(field, *next(drawn)) for field, *_ in views]
    pictures = {
        cell["uri"]: picture
        for job in places
        for (cell, *_), picture in zip(job.items, next(drawn), strict=True)
    }
    uris = (ref.uri for ref, _ in cells)
    thumbnails = dict(zip(uris, chain.from_iterable(drawn), strict=True))
    return {
        "thumbnails": thumbnails,
        "called": Called(called, pictures),
        "fields": shown,
        "whole_slides": whole,
    }


def _cells(
    screened: Screened, highlights: Highlights, called: Sequence[Mapping[str, Any]]
) -> list[tuple[ImageRef, str]]:
    shown: list[Mapping[str, Any]] = []
    for name in CELLS_SHOWN:
        shown += highlights.sheet(name).select(["uri", "image_id", ROW]).to_pylist()
    by_uri = {cell["uri"]: cell for cell in (*shown, *called)}
    numbers = [cell[ROW] for cell in by_uri.values()]
    refs = image_refs(manifests.rows_at(screened.store, screened.batch, numbers))
    return [(ref, by_uri[ref.uri]["image_id"]) for ref in refs]


def _fields(
    screened: Screened, report: pa.Table
) -> list[tuple[dict[str, Any], list[dict[str, Any]], dict[str, ImageRef]]]:
    store, batch = screened.store, screened.batch
    fields = fields_to_show(report).to_pylist()
    cells: list[list[dict[str, Any]]] = [[] for _ in fields]
    sources = {field["source_uri"] for field in fields}
    for rows in drawings.rows_of_sources(store, batch, screened.model, sources):
        for field, of_field in zip(fields, cells, strict=True):
            of_field += cells_of(rows, field)
    refs = drawings.find_refs(store, batch, [cell["uri"] for some in cells for cell in some])
    return [
        (field, some, {c["uri"]: refs[c["uri"]] for c in some})
        for field, some in zip(fields, cells, strict=True)
    ]


def _slides(report: pa.Table) -> list[tuple[str, tuple[dict[str, Any], ...]]]:
    # A photograph has no magnification, and is a field itself.
    of_slides = report.filter(pc.is_valid(report["microns_per_pixel"]))
    by_source: dict[str, list[dict[str, Any]]] = {}
    for row in of_slides.to_pylist():
        by_source.setdefault(row["source_uri"], []).append(row)
    parasitized = {uri: sum(row["parasitized"] for row in rows) for uri, rows in by_source.items()}
    shown = sorted(by_source, key=lambda uri: (-parasitized[uri], uri))[:WHOLE_SLIDES]
    return [(uri, tuple(by_source[uri])) for uri in shown]


def find_cells(
    client: Client, screened: Screened, highlights: Highlights, cells: CalledCells, limit: float
) -> None:
    """Find what a page shows in every row group of the report on images; add it to both."""
    store, batch = screened.store, screened.batch
    footer = parquet.read_footer(store, *report_path(batch.name, batch.batch_date))
    wanted = cells.empty()
    sizes = [footer.row_group(group).num_rows for group in range(footer.num_row_groups)]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    jobs = [
        drawings.ShownJob(screened, group, start, limit, wanted)
        for group, start in enumerate(starts)
    ]
    found = list(run_jobs(client, drawings.find_shown, jobs, title=f"read {batch.name}"))
    highlights.add(*(of_group for of_group, _ in found))
    cells.add(*(of_group for _, of_group in found))
