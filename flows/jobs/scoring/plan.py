"""Plan the scoring of a batch from its manifest: parts of whole patients, and their jobs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby, pairwise

import numpy as np

from flows.jobs.scoring.night import Night, NightJob, SlideRows
from flows.jobs.scoring.scores import FEW, Range, ScoreJob, Span
from flows.jobs.scoring.screened import Screened
from storage.batches.manifests import Batch, read_manifest
from storage.store import Store
from tasks.detector.slides.normal import Choices
from tasks.detector.witnesses import Discriminant

SHARDS_A_JOB = 4  # with fewer, too many shards that slides share would be read twice


@dataclass(frozen=True)
class Part:
    """The work of one job: consecutive rows of whole slides, and their references."""

    slides: tuple[SlideRows, ...]
    spans: tuple[Span, ...]


def score_jobs(
    of: Screened,
    parts: Sequence[Part],
    wanted: Sequence[int],
    scored_at: datetime,
    describe: Callable[[NightJob], Night],
    discriminant: Discriminant | None = None,
) -> list[ScoreJob]:
    """Make the jobs that score some parts of a batch, after describing the night if they need it.

    A ``discriminant`` is heard in the place of the detector's or the site's.
    """
    night, about = None, vars(of) | {"discriminant": discriminant}
    leans = any(_leans(span) for number in wanted for span in parts[number].spans)
    if leans and of.detector.slides is not None:
        unnamed = tuple(
            (slide.start, slide.stop)
            for part in parts
            for slide in part.slides
            if slide.slide is None and slide.patient is None
        )
        night = describe(NightJob(**about, unnamed=unnamed))
    about |= {"scored_at": scored_at, "night": night}
    return [ScoreJob(**about, part=number, **vars(parts[number])) for number in wanted]


def parts_of(of: Screened) -> list[Part]:
    """Divide a batch into parts, by what its detector compares cells with; see `plan_parts`."""
    return plan_parts(of.store, of.batch, by_slide=of.detector.slides is not None)


def plan_parts(store: Store, batch: Batch, *, by_slide: bool) -> list[Part]:
    """Divide a batch into parts of whole patients, from its manifest.

    Args:
        store: where the batch is.
        batch: with consecutive rows of each patient, and of each slide.
        by_slide: whether cells are compared with their slide; otherwise with the population.
    """
    slides = list(slides_of(store, batch))
    wanted = SHARDS_A_JOB * batch.shard_rows
    parts: list[Part] = []
    waiting: list[SlideRows] = []
    for _, group in groupby(slides, key=lambda slide: slide.patient or slide):
        waiting += group
        if waiting[-1].stop - waiting[0].start >= wanted:
            parts.append(_part(waiting, by_slide))
            waiting = []
    if waiting:
        parts.append(_part(waiting, by_slide))
    return parts


def slides_of(store: Store, batch: Batch) -> Iterator[SlideRows]:
    """List the slides of a batch in order; cells without one come in runs of a shard's size."""
    table = read_manifest(store, batch, columns=["patient_id", "slide_id"])
    # As numbers: the text of an image would take a hundred bytes.
    numbered = [
        table[name].dictionary_encode(null_encoding="encode") for name in table.column_names
    ]
    numbers = np.stack([column.combine_chunks().indices for column in numbered])
    starts = np.flatnonzero((np.diff(numbers, prepend=-1) != 0).any(axis=0)).tolist()
    for start, stop in pairwise([*starts, table.num_rows]):
        patient, slide = (table[name][start].as_py() for name in table.column_names)
        if patient is None and slide is None:
            cuts = [*range(start, stop, batch.shard_rows), stop]
            for a, b in pairwise(cuts):
                yield SlideRows(None, None, a, b)
        else:
            yield SlideRows(slide, patient, start, stop)


def _part(slides: Sequence[SlideRows], by_slide: bool) -> Part:
    """Choose the reference of each slide: itself, or its patient, or else the night."""
    spans: list[Span] = []
    for patient, group in groupby(slides, key=lambda slide: slide.patient):
        own = list(group)
        for slide in own:
            reference = _reference(slide, own if patient is not None else [slide])
            span = Span(slide.start, slide.stop, reference if by_slide else None)
            if spans and spans[-1].reference == span.reference:
                spans[-1] = Span(spans[-1].start, span.stop, span.reference)
            else:
                spans.append(span)
    return Part(tuple(slides), tuple(spans))


def _leans(span: Span) -> bool:
    return span.reference is None or span.reference[2] == FEW


def _reference(slide: SlideRows, of_patient: Sequence[SlideRows]) -> Range | None:
    least = Choices.least
    if slide.slide is not None and slide.stop - slide.start >= least:
        return slide.start, slide.stop, "slide"
    start, stop = of_patient[0].start, of_patient[-1].stop
    if slide.patient is not None and stop - start >= least:
        return start, stop, "patient"
    if slide.slide is None and slide.patient is None:
        return None
    return start, stop, FEW
