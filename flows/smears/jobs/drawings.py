"""Find what a page shows and draw it: cells, alone and at their places, fields and slides."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from flows.jobs.quarantine import Sparing
from flows.jobs.scoring.screened import Screened
from storage.batches.manifests import Batch, find_rows
from storage.models.classifiers import ModelCard
from storage.parquet import groups_having, iterate_groups, read_footer
from storage.reports.tables import report_path
from storage.store import Store
from tasks.images import decoding
from tasks.images.access.files import ChangedError
from tasks.images.manifest import Region
from tasks.images.opened_slides import open_slide, read_region
from tasks.images.regions import ImageRef, image_refs
from tasks.smears.reports import called_cells
from tasks.smears.visualisation import overlay
from tasks.smears.visualisation.highlights import ROW, Highlights, columns
from tasks.smears.visualisation.page import as_webp
from tasks.smears.visualisation.viewer.overlays import FieldPicture, contour_of, field_picture

# By the function that draws: what cannot be read if that fails, and the text if it kills workers.
DRAWN = {
    "draw_thumbnail": ("image", "this image alone kills the worker that decodes it"),
    "draw_place": ("field", "this cell alone kills the worker that draws it"),
    "draw_field": ("field", "this field alone kills the worker that draws it"),
    "draw_slide": ("slide", "this slide alone kills the worker that draws it"),
}


@dataclass(frozen=True)
class DrawingJob(Sparing):
    """Things to draw, each the arguments of ``work``: a function of this module in `DRAWN`."""

    items: tuple[tuple[Any, ...], ...]
    work: Callable[..., Any]

    def rows(self) -> int:
        """Count the things to draw."""
        return len(self.items)

    def probe(self, row: int) -> None:
        """Draw one of them, and keep nothing."""
        _draw(replace(self, killers=frozenset()), row)


def draw(job: DrawingJob) -> list[Any]:
    """Draw each item, or return why it cannot be drawn; never raise."""
    return [_draw(job, row) for row in range(len(job.items))]


def _draw(job: DrawingJob, row: int) -> Any:
    what, kills = DRAWN[job.work.__name__]
    if row in job.killers:
        return kills
    try:
        return job.work(*job.items[row])
    except ChangedError:
        return "the file has changed since it was screened"
    except Exception as error:  # a page must not depend on what a source raises
        reason = f": {error.reason}" if isinstance(error, decoding.BadImageError) else ""
        return f"the {what} cannot be read any more{reason}"


def places_jobs(
    store: Store, batch: Batch, card: ModelCard, cells: Sequence[Mapping[str, Any]]
) -> list[DrawingJob]:
    """Make jobs that draw cells of a published batch at their places, one for each source.

    ``cells`` are rows of its report on images; those that are whole files have no place.
    """
    by_source: dict[str, list[Mapping[str, Any]]] = {}
    for cell in cells:
        if cell.get("source_uri") is not None:
            by_source.setdefault(cell["source_uri"], []).append(cell)
    near: dict[str, list[dict[str, Any]]] = {
        cell["uri"]: [] for group in by_source.values() for cell in group
    }
    sources = pa.array(list(by_source), pa.string())
    for rows in rows_of_sources(store, batch, card, by_source) if near else ():
        there = rows.filter(pc.is_in(rows["source_uri"].cast(pa.string()), sources))
        for row in there.to_pylist():
            for cell in by_source[row["source_uri"]]:
                if overlay.lies_near(row, cell):
                    near[cell["uri"]].append(row)
    uris = [each["uri"] for some in near.values() for each in some]
    refs = find_refs(store, batch, uris)
    jobs = []
    for members in by_source.values():
        items = []
        for cell in members:
            around = near[cell["uri"]]
            items.append((cell, around, {each["uri"]: refs[each["uri"]] for each in around}))
        jobs.append(DrawingJob(tuple(items), draw_place))
    return jobs


def find_refs(store: Store, batch: Batch, uris: Sequence[str]) -> dict[str, ImageRef]:
    """Find images of a batch by their address in its report."""
    return {ref.uri: ref for ref in image_refs(find_rows(store, batch, uris))}


def rows_of_sources(
    store: Store, batch: Batch, card: ModelCard, sources: Collection[str]
) -> Iterator[pa.Table]:
    """Yield a batch's image rows, with the columns of contours, of some sources and few others."""
    images = report_path(batch.name, batch.batch_date)
    groups = groups_having(read_footer(store, *images), "source_uri", sources)
    probabilities = [f"probability_{name}" for name in card.classes]
    wanted = [*overlay.CELL_COLUMNS, *probabilities, "abnormality", "p_value"]
    yield from iterate_groups(store, *images, columns=wanted, groups=groups)


def draw_thumbnail(ref: ImageRef, image_id: str) -> bytes:
    """Draw a cell small, as a WebP file; ``image_id`` is its digest when it was screened."""
    return overlay.thumbnail(overlay.find_unchanged(ref, image_id).image())


def draw_place(
    cell: Mapping[str, Any], around: Sequence[Mapping[str, Any]], refs: Mapping[str, ImageRef]
) -> bytes:
    """Draw a cell in its field, as a WebP file.

    ``cell`` and the cells ``around`` it, itself among them, are rows of the image report; ``refs``
    are their places, by address.
    """
    ref = refs[cell["uri"]]
    assert ref.region is not None
    overlay.find_unchanged(ref, cell["image_id"])
    more = round(overlay.WIDTHS * max(ref.region.width, ref.region.height))
    pixels, wide = overlay.read_around(ref.source, ref.region, more)
    known = [(near, refs[near["uri"]].outline) for near in around]
    drawn = [(near, outline) for near, outline in known if outline is not None]
    rows = [near for near, _ in drawn]
    outlines = [outline.ravel() for _, outline in drawn]
    return overlay.place_picture(pixels, wide[:4], cell, rows, outlines)


def draw_field(
    field: Mapping[str, Any], cells: Sequence[Mapping[str, Any]], refs: Mapping[str, ImageRef]
) -> FieldPicture:
    """Make the picture of a row of the report on fields.

    ``cells`` are its cells' rows of the report on images, ``refs`` their places, by address.
    """
    region = Region(*(field[name] for name in ("x", "y", "width", "height", "level")))
    known = [(cell, refs[cell["uri"]]) for cell in cells if cell["image_id"]]
    for cell, ref in known[:1]:
        overlay.find_unchanged(ref, cell["image_id"])
    contours = [
        contour_of(cell, ref.outline.ravel(), (region.x, region.y))
        for cell, ref in known
        if ref.outline is not None
    ]
    return field_picture(read_region(field["source_uri"], region), field, contours)


def draw_slide(source_uri: str, fields: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw a slide as a WebP file, with its rows of the report on fields."""
    slide = open_slide(source_uri)
    picture = overlay.slide_picture(overlay.from_afar(slide), (slide.width, slide.height), fields)
    return as_webp(Image.fromarray(picture))


@dataclass(frozen=True)
class ShownJob:
    """A row ``group`` of a batch's report on images, which begins at a row of the batch.

    From the abnormality ``limit`` on, an image is abnormal; ``cells`` collects those of patients.
    """

    screened: Screened
    group: int
    start: int
    limit: float
    cells: called_cells.CalledCells


def find_shown(job: ShownJob) -> tuple[Highlights, called_cells.CalledCells]:
    """Collect the rows to show."""
    screened, batch = job.screened, job.screened.batch
    highlights = Highlights(screened.model.classes, job.limit)
    cells = job.cells.empty()
    wanted = list(dict.fromkeys([*columns(screened.model.classes), *called_cells.COLUMNS]))
    images, start = report_path(batch.name, batch.batch_date), job.start
    for rows in iterate_groups(screened.store, *images, columns=wanted, groups=[job.group]):
        rows = rows.append_column(ROW, pa.array(np.arange(start, start + rows.num_rows)))
        start += rows.num_rows
        highlights.count(rows)
        cells.count(rows)
    return highlights, cells
