"""Draw cells, alone and at their places, and fields and slides, as units of work."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from flows.jobs.quarantine import Sparing
from storage.batches.manifests import Batch, find_rows
from storage.models.classifiers import ModelCard
from storage.parquet import groups_having, iterate_groups, read_footer
from storage.reports.tables import report_path
from storage.store import Store
from tasks.images import decoding, opened_slides
from tasks.images.access.files import ChangedError
from tasks.images.manifest import Region
from tasks.images.regions import ImageRef, image_refs
from tasks.images.sources import read_region
from tasks.smears.reports.field_rows import COLUMNS
from tasks.smears.shown import find_unchanged, read_around
from tasks.smears.visualisation import pictures
from tasks.smears.visualisation.overlay import from_afar, slide_picture
from tasks.smears.visualisation.page import as_webp
from tasks.smears.visualisation.viewer.overlays import FieldPicture, contour_of, field_picture


@dataclass(frozen=True)
class ThumbnailJob(Sparing):
    """Cells to draw small: their places, and their digests when they were screened."""

    cells: tuple[tuple[ImageRef, str], ...]

    def rows(self) -> int:
        """Count the cells."""
        return len(self.cells)

    def probe(self, row: int) -> None:
        """Draw one cell, and keep nothing."""
        draw_thumbnails(replace(self, cells=self.cells[row : row + 1], killers=frozenset()))


@dataclass(frozen=True)
class SlidePictureJob(Sparing):
    """A slide to draw at low resolution, with its rows of the report on fields."""

    source_uri: str
    fields: tuple[Mapping[str, Any], ...]

    def rows(self) -> int:
        """Count the slide itself."""
        return 1

    def probe(self, row: int) -> None:
        """Draw the slide, and keep nothing."""
        draw_slide(self)


@dataclass(frozen=True)
class FieldPictureJob(Sparing):
    """A field to draw: its row of the report on fields, and its cells' rows of that on images.

    ``refs`` are the places of the cells, by address.
    """

    field: Mapping[str, Any]
    cells: tuple[Mapping[str, Any], ...]
    refs: Mapping[str, ImageRef]

    def rows(self) -> int:
        """Count the field itself."""
        return 1

    def probe(self, row: int) -> None:
        """Draw the field, and keep nothing."""
        draw_field(self)


@dataclass(frozen=True)
class PlacesJob(Sparing):
    """Cells of one source to draw at their places: rows of the image report.

    ``around`` are the rows of the cells near each. ``refs`` are the places of all cells, by
    address.
    """

    cells: tuple[Mapping[str, Any], ...]
    around: tuple[tuple[Mapping[str, Any], ...], ...]
    refs: Mapping[str, ImageRef]

    def rows(self) -> int:
        """Count the cells."""
        return len(self.cells)

    def probe(self, row: int) -> None:
        """Draw one cell, and keep nothing."""
        _draw_place(self, row)


def draw(job: Sparing) -> Any:
    """Draw cells, their places, a field or a slide, by the kind of the job."""
    return DRAWN_BY[type(job)](job)


def places_jobs(
    store: Store, batch: Batch, card: ModelCard, cells: Sequence[Mapping[str, Any]]
) -> list[PlacesJob]:
    """Make jobs that draw cells of a batch at their places, one for each source.

    Args:
        store: where the batch is.
        batch: a published one.
        card: of the model that diagnosed it.
        cells: rows of its report on images; cells that are whole files have no place.
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
                if pictures.lies_near(row, cell):
                    near[cell["uri"]].append(row)
    uris = [each["uri"] for some in near.values() for each in some]
    refs = find_refs(store, batch, uris)
    jobs = []
    for members in by_source.values():
        around = tuple(tuple(near[cell["uri"]]) for cell in members)
        wanted = {each["uri"] for some in around for each in some}
        jobs.append(PlacesJob(tuple(members), around, {uri: refs[uri] for uri in wanted}))
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
    yield from iterate_groups(store, *images, columns=of_contours(card), groups=groups)


def of_contours(card: ModelCard) -> list[str]:
    """List the columns of the image report that contours show."""
    return [*COLUMNS, *(f"probability_{name}" for name in card.classes), "abnormality", "p_value"]


def draw_thumbnails(job: ThumbnailJob) -> list[bytes | str]:
    """Draw each cell as a WebP file, or return why it cannot be drawn; never raise."""
    return [_draw_thumbnail(job, row) for row in range(len(job.cells))]


def _draw_thumbnail(job: ThumbnailJob, row: int) -> bytes | str:
    if row in job.killers:
        return "this image alone kills the worker that decodes it"
    try:
        return pictures.thumbnail(find_unchanged(*job.cells[row]).image())
    except Exception as error:  # a page must not depend on what a source raises
        return _said("image", error)


def draw_places(job: PlacesJob) -> list[bytes | str]:
    """Draw each cell in its field as a WebP file, or return why it cannot be drawn; never raise."""
    return [_draw_place(job, row) for row in range(len(job.cells))]


def _draw_place(job: PlacesJob, row: int) -> bytes | str:
    if row in job.killers:
        return "this cell alone kills the worker that draws it"
    cell = job.cells[row]
    try:
        ref = job.refs[cell["uri"]]
        assert ref.region is not None
        find_unchanged(ref, cell["image_id"])
        more = round(pictures.WIDTHS * max(ref.region.width, ref.region.height))
        pixels, wide = read_around(ref.source, ref.region, more)
        known = [(near, job.refs[near["uri"]].outline) for near in job.around[row]]
        drawn = [(near, outline) for near, outline in known if outline is not None]
        return pictures.place_picture(
            pixels,
            wide[:4],
            cell,
            [near for near, _ in drawn],
            [outline.ravel() for _, outline in drawn],
        )
    except Exception as error:  # a page must not depend on what a source raises
        return _said("field", error)


def draw_field(job: FieldPictureJob) -> FieldPicture | str:
    """Make the picture of a field, or return why it cannot be made; never raise."""
    if job.killers:
        return "this field alone kills the worker that draws it"
    field = job.field
    region = Region(*(field[name] for name in ("x", "y", "width", "height", "level")))
    known = [(cell, job.refs[cell["uri"]]) for cell in job.cells if cell["image_id"]]
    try:
        for cell, ref in known[:1]:
            find_unchanged(ref, cell["image_id"])
        contours = [
            contour_of(cell, ref.outline.ravel(), (region.x, region.y))
            for cell, ref in known
            if ref.outline is not None
        ]
        return field_picture(read_region(field["source_uri"], region), field, contours)
    except Exception as error:  # a page must not depend on what a source raises
        return _said("field", error)


def draw_slide(job: SlidePictureJob) -> bytes | str:
    """Draw a slide as a WebP file, or return why it cannot be drawn; never raise."""
    if job.killers:
        return "this slide alone kills the worker that draws it"
    try:
        slide = opened_slides.open_slide(job.source_uri)
        picture = slide_picture(from_afar(slide), (slide.width, slide.height), job.fields)
    except Exception as error:  # a page must not depend on what a source raises
        return _said("slide", error)
    return as_webp(Image.fromarray(picture))


DRAWN_BY: Mapping[type[Sparing], Callable[[Any], Any]] = {
    ThumbnailJob: draw_thumbnails,
    PlacesJob: draw_places,
    FieldPictureJob: draw_field,
    SlidePictureJob: draw_slide,
}


def _said(what: str, error: Exception) -> str:
    """Return why a cell, a field or a slide cannot be drawn."""
    if isinstance(error, ChangedError):
        return "the file has changed since it was screened"
    reason = f": {error.reason}" if isinstance(error, decoding.BadImageError) else ""
    return f"the {what} cannot be read any more{reason}"
