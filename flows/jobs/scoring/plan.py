"""Plan the scoring of a batch from its manifest, in parts of whole patients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa

from flows.jobs.scoring.night import SlideRows
from flows.jobs.scoring.screened import Screened
from storage.batches.manifests import Batch, iterate_manifest
from storage.store import Store
from tasks.detector.slides.normal import LEAST

# With fewer shards a job, too many that slides share would be read twice. But a part is at most a
# share of the rows left, so that all workers end together (Polychronopoulos & Kuck 1987).
SHARDS_A_JOB, SHARE_A_JOB = 4, 64
# Each piece of a report costs a tenth of a second, but a small night has some for several workers.
LEAST_PIECES, LEAST_PIECE = 2, 1_024  # number, rows

FEW = "few"
Range = tuple[int, int, str]  # first row, end, and kind: a slide, a patient, or `FEW`


@dataclass(frozen=True)
class Span:
    """Rows ``start`` to ``stop`` that are compared with the same cells; None: with the night's."""

    start: int
    stop: int
    reference: Range | None


@dataclass(frozen=True)
class Part:
    """The work of one job: consecutive rows of whole slides, and their references."""

    slides: tuple[SlideRows, ...]
    spans: tuple[Span, ...]

    @property
    def rows(self) -> range:
        """Return the part's rows of the batch."""
        return range(self.spans[0].start, self.spans[-1].stop)

    @property
    def needs_night(self) -> bool:
        """Return whether cells are compared with the night, as far as their names say."""
        return any(span.reference is None or span.reference[2] == FEW for span in self.spans)


def parts_of(screened: Screened) -> list[Part]:
    """Divide a batch into parts, by what its detector compares cells with; see `plan_parts`."""
    return plan_parts(screened.store, screened.batch, by_slide=screened.detector.slides is not None)


def plan_parts(store: Store, batch: Batch, *, by_slide: bool) -> list[Part]:
    """Divide a batch into parts of whole patients; ``by_slide``: cells are compared with slides."""
    slides = list(slides_of(store, batch))
    parts: list[Part] = []
    waiting: list[SlideRows] = []
    for _, group in groupby(slides, key=lambda slide: slide.patient or slide):
        waiting += group
        start, stop = waiting[0].start, waiting[-1].stop
        share = max((batch.rows - start) // SHARE_A_JOB, batch.shard_rows)
        if stop - start >= min(share, SHARDS_A_JOB * batch.shard_rows):
            parts.append(_part(waiting, by_slide))
            waiting = []
    if waiting:
        parts.append(_part(waiting, by_slide))
    return parts


def slides_of(store: Store, batch: Batch) -> Iterator[SlideRows]:
    """List the slides of a batch in order; cells without one come in runs of a shard's size."""
    names: tuple[str | None, str | None] | None = None
    begun = 0
    for first, part in iterate_manifest(store, batch, ["patient_id", "slide_id"]):
        for place, pair in _changes(part):
            if pair != names:
                if names is not None:
                    yield from _pieces(batch, *names, begun, first + place)
                names, begun = pair, first + place
    if names is not None:
        yield from _pieces(batch, *names, begun, batch.rows)


def _changes(part: pa.Table) -> list[tuple[int, tuple[str | None, str | None]]]:
    """List the first row, and rows whose patient or slide differs from the last, with both."""
    coded = [
        part[name].combine_chunks().dictionary_encode(null_encoding="encode")
        for name in ("patient_id", "slide_id")
    ]
    numbers = np.stack([column.indices for column in coded])
    places = np.flatnonzero((np.diff(numbers, prepend=-1) != 0).any(axis=0)).tolist()
    return [(place, (coded[0][place].as_py(), coded[1][place].as_py())) for place in places]


def _pieces(
    batch: Batch, patient: str | None, slide: str | None, start: int, stop: int
) -> Iterator[SlideRows]:
    whole = patient is not None or slide is not None
    size = stop - start if whole else batch.shard_rows
    for first in range(start, stop, size):
        yield SlideRows(slide, patient, first, min(first + size, stop))


def _part(slides: Sequence[SlideRows], by_slide: bool) -> Part:
    spans: list[Span] = []
    for patient, group in groupby(slides, key=lambda slide: slide.patient):
        of_patient = list(group)
        for slide in of_patient:
            reference = _reference(slide, of_patient if patient is not None else [slide])
            span = Span(slide.start, slide.stop, reference if by_slide else None)
            if spans and spans[-1].reference == span.reference:
                spans[-1] = Span(spans[-1].start, span.stop, span.reference)
            else:
                spans.append(span)
    return Part(tuple(slides), tuple(spans))


def _reference(slide: SlideRows, of_patient: Sequence[SlideRows]) -> Range | None:
    if slide.slide is not None and slide.stop - slide.start >= LEAST:
        return slide.start, slide.stop, "slide"
    start, stop = of_patient[0].start, of_patient[-1].stop
    if slide.patient is not None and stop - start >= LEAST:
        return start, stop, "patient"
    if slide.slide is None and slide.patient is None:
        return None
    return start, stop, FEW


def runs_of(parts: Sequence[range], most: int) -> Iterator[tuple[range, ...]]:
    """Divide consecutive parts into runs of ``most`` or more rows, fewer in a small night."""
    wanted = min(most, max((parts[-1].stop if parts else 0) // LEAST_PIECES, LEAST_PIECE))
    waiting: list[range] = []
    for part in parts:
        waiting.append(part)
        if part.stop - waiting[0].start >= wanted:
            yield tuple(waiting)
            waiting = []
    if waiting or not parts:
        yield tuple(waiting)
