"""Draw fields of view with their cells, and slides with their fields, as units of work."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from tasks.images.decoding import BadImageError
from tasks.images.files import ChangedError
from tasks.images.regions import ImageRef, Region, find_unchanged, read_region
from tasks.images.slides import open_slide
from tasks.visualisation.overlay import encode_png, field_picture, from_afar, slide_picture


@dataclass(frozen=True)
class SlidePictureJob:
    """A slide to draw from afar, with its rows of the report on fields."""

    source_uri: str
    fields: tuple[Mapping[str, Any], ...]
    kills: bool = False

    def rows(self) -> int:
        """Count the slide itself."""
        return 1

    def probe(self, row: int) -> None:
        """Draw the slide, and keep nothing."""
        draw_slide(self)

    def quarantine(self, rows: list[int]) -> Self:
        """Leave the slide undrawn if it kills workers."""
        return replace(self, kills=bool(rows))


@dataclass(frozen=True)
class FieldPictureJob:
    """A field to draw: its row of the report on fields, and its cells' rows of that on images.

    ``refs`` are where the cells lie, by address.
    """

    field: Mapping[str, Any]
    cells: tuple[Mapping[str, Any], ...]
    refs: Mapping[str, ImageRef]
    kills: bool = False

    def rows(self) -> int:
        """Count the field itself."""
        return 1

    def probe(self, row: int) -> None:
        """Draw the field, and keep nothing."""
        draw_field(self)

    def quarantine(self, rows: list[int]) -> Self:
        """Leave the field undrawn if it kills workers."""
        return replace(self, kills=bool(rows))


def draw_field(job: FieldPictureJob) -> bytes | str:
    """Draw a field as a PNG file, or return why it cannot be drawn; never raise."""
    if job.kills:
        return "this field alone kills the worker that draws it"
    field = job.field
    region = Region(*(field[name] for name in ("x", "y", "width", "height", "level")))
    known = [(cell, job.refs[cell["uri"]]) for cell in job.cells if cell["image_id"]]
    drawn = [(cell, ref.outline) for cell, ref in known if ref.outline is not None]
    try:
        for cell, ref in known[:1]:
            find_unchanged(ref, cell["image_id"])
        picture = field_picture(
            read_region(field["source_uri"], region),
            field,
            [cell for cell, _ in drawn],
            [outline.ravel() for _, outline in drawn],
        )
    except ChangedError:
        return "the file has changed since it was screened"
    except BadImageError as error:
        return f"the field cannot be read any more: {error.reason}"
    except Exception:  # a page must not depend on what a source raises
        return "the field cannot be read any more"
    return encode_png(picture)


def draw_slide(job: SlidePictureJob) -> bytes | str:
    """Draw a slide as a PNG file, or return why it cannot be drawn; never raise."""
    if job.kills:
        return "this slide alone kills the worker that draws it"
    try:
        slide = open_slide(job.source_uri)
        picture = slide_picture(from_afar(slide), (slide.width, slide.height), job.fields)
    except BadImageError as error:
        return f"the slide cannot be read any more: {error.reason}"
    except Exception:  # a page must not depend on what a source raises
        return "the slide cannot be read any more"
    return encode_png(picture)
