"""Turn photographs and slides into images of cells, as units of work.

First every source is surveyed for its kind and its fields of view. Then every field is searched.
A source or field that cannot be read becomes a row that says why.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, Self

import numpy as np
import pyarrow as pa

from flows.jobs.worker import settle_finder
from storage.smears import segmentations
from storage.store import Store
from tasks.images import manifest, opened_slides
from tasks.images.access.files import digest_of_file, read_bytes, stamp
from tasks.images.decoding import BadImageError, decode_rgb, failure_of, size_of
from tasks.images.manifest import Region, address_of
from tasks.smears.segmentation.field_of_view import (
    Row,
    box_columns,
    box_of,
    cells_of_place,
    finite,
)
from tasks.smears.segmentation.finders import Finder, load_finder
from tasks.smears.segmentation.finding import find_roughly
from tasks.smears.segmentation.survey import survey


@dataclass(frozen=True)
class CuttingJob:
    """The part of a segmentation that has a ``number``; its kind is the folder of its results."""

    KIND: ClassVar[str]

    store: Store
    name: str
    number: int
    cutting: segmentations.Cutting

    def todo(self) -> list[Row]:
        """Read the sources or places to process."""
        raise NotImplementedError

    def rows(self) -> int:
        """Count them."""
        return len(self.todo())

    def killers(self) -> list[int]:
        """Read which of them kill workers."""
        return segmentations.read_quarantine(self.store, self.name, self.KIND, self.number)

    def quarantine(self, rows: list[int]) -> Self:
        """Record the rows that kill workers, so that no run reads them again."""
        segmentations.write_quarantine(self.store, self.name, self.KIND, self.number, rows)
        return self

    def write(self, kind: str, rows: list[Row], schema: pa.Schema) -> None:
        """Write a part of the results."""
        part = pa.Table.from_pylist(rows, schema)
        segmentations.write_part(self.store, self.name, kind, self.number, part)


@dataclass(frozen=True)
class SurveyJob(CuttingJob):
    """Sources ``start`` to ``stop`` of a segmentation to survey.

    Cells of the ``measured`` photographs, by their number, are measured.
    """

    KIND = "surveys"

    start: int
    stop: int
    measured: tuple[int, ...] = ()

    def todo(self) -> list[Row]:
        """Read the sources."""
        sources = segmentations.read_sources(self.store, self.name, self.start, self.stop)
        return list(sources.to_pylist())

    def probe(self, row: int) -> None:
        """Survey one source as in the job, and keep nothing."""
        list(_survey_source(self, row, self.todo()[row], kills=False))


class SearchJob(CuttingJob):
    """The n-th part of a segmentation's places, to search."""

    KIND = "fields"

    def todo(self) -> list[Row]:
        """Read the places."""
        return list(segmentations.read_places(self.store, self.name, self.number).to_pylist())

    def probe(self, row: int) -> None:
        """Search one place as in the job, and keep nothing."""
        _search_place(self.todo()[row], self.cutting, load_finder(self.cutting.finder))


def survey_sources(job: SurveyJob) -> int:
    """Find the fields of view of some sources, write them, and return their number."""
    settle_finder()
    killers, places = job.killers(), list[Row]()
    for row, source in enumerate(job.todo()):
        places += _survey_source(job, row, source, kills=row in killers)
    job.write(job.KIND, places, segmentations.PLACE_SCHEMA)
    return len(places)


def _survey_source(job: SurveyJob, row: int, source: Row, *, kills: bool) -> Iterator[Row]:
    uri = source["source_uri"] or source["uri"]
    about = {name: source[name] for name in ("slide_id", "patient_id", "label", "acquired_at")}
    about |= {"source_uri": uri, "is_slide": False}
    if source["failure"] is not None:
        yield about | {"failure": source["failure"]}
        return
    try:
        if kills:
            raise BadImageError("killed_worker", "this file alone kills the worker that reads it")
        about |= {"source_stamp": stamp(uri)}
        sort = source.get(segmentations.SORT)  # as recognised, or given by a person, before
        if not (opened_slides.is_slide(uri) if sort is None else sort == "slides"):
            content = read_bytes(uri)
            about |= {"source_id": sha256(content).hexdigest()}
            size = size_of(content)
            if job.start + row in job.measured:
                picture = np.asarray(decode_rgb(content, upright=False))
                about |= {"diameter": finite(find_roughly(picture).diameter)}
            yield (about | box_columns((0, 0, *size)) | {"level": 0, "kind": "field"})
            return
        about |= {"source_id": digest_of_file(uri).hex()}
        surveyed = survey(opened_slides.open_slide(uri), job.cutting.microns_per_pixel)
    except Exception as error:  # a source must never stop the others, whatever it raises
        yield about | {"failure": _reason(error)}
        return
    for place in surveyed:
        yield about | place | {"is_slide": True}


def search_places(job: SearchJob) -> int:
    """Cut up the fields of one part, write the images, and return their number."""
    settle_finder()
    finder = load_finder(job.cutting.finder)
    killers, images, fields = job.killers(), list[Row](), list[Row]()
    for row, place in enumerate(job.todo()):
        field, cells = _search_place(place, job.cutting, finder, kills=row in killers)
        fields.append(field)
        images += cells
    job.write("cells", images, manifest.SCHEMA)
    # The fields last: they say that the part is complete.
    job.write(job.KIND, fields, segmentations.FIELD_SCHEMA)
    return len(images)


def _search_place(
    place: Row, cutting: segmentations.Cutting, finder: Finder, *, kills: bool = False
) -> tuple[Row, list[Row]]:
    """Search a field; return its row of the table of fields and the rows of its images."""
    field = {name: place.get(name) for name in segmentations.FIELD_SCHEMA.names}
    field |= {"cells": 0, "white_cells": 0, "cells_at_border": 0}
    if place["failure"] is not None:
        return field, [_failed(place, place["source_uri"])]
    try:
        if kills:
            raise BadImageError("killed_worker", "this field alone kills the worker that reads it")
        if place["kind"] != "field":
            return field, []
        limits = cutting.least_sharpness, cutting.most_packed
        return cells_of_place(place, field, finder, *limits)
    except Exception as error:  # a field must never stop the others, whatever a finder raises
        why = {"failure": _reason(error), "kind": None}
        region = Region(*box_of(place), place["level"])
        uri = address_of(place["source_uri"], region) if place["is_slide"] else place["source_uri"]
        return field | why, [_failed(place | why, uri)]


def _failed(place: Row, uri: str) -> Row:
    names = ("slide_id", "patient_id", "acquired_at", "failure")
    return {name: place[name] for name in names} | {"uri": uri}


def _reason(error: Exception) -> str:
    failure = failure_of(error)
    return f"{failure.reason}: {failure}"
