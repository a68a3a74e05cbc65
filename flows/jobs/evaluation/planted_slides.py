"""Do the full-spectrum track's units of work: slides with planted abnormal cells."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flows.jobs.evaluation.treated import PartJob, load_detector, read_rows
from flows.jobs.verified import load_laboratory_normal
from flows.jobs.worker import settle_worker
from tasks.evaluation.metrics import Interval, Metric, Subject
from tasks.evaluation.planted import (
    Cells,
    Normal,
    alarm_metrics,
    by_slide,
    judge,
    plant,
    planted_metrics,
    whole_metrics,
    whole_slides,
)
from tasks.evaluation.whole_nights import night_metrics


@dataclass(frozen=True)
class Chosen:
    """The rows that count of a set of images under a treatment."""

    parts: tuple[PartJob, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class PlantJob:
    """Things to plant into the slides of some hosts; see `plant`."""

    subject: Subject
    hosts: Chosen
    things: Chosen
    share: float
    own: bool


@dataclass(frozen=True)
class AlarmJob:
    """Unchanged ordinary slides; ``positive`` is the name of the infected class."""

    subject: Subject
    hosts: Chosen
    positive: str


@dataclass(frozen=True)
class WholeJob:
    """Slides of only one kind of thing."""

    subject: Subject
    things: Chosen


@dataclass(frozen=True)
class CompanyJob:
    """Things as whole nights, alone or among the cells of some hosts; see `night_metrics`."""

    subject: Subject
    hosts: Chosen | None
    things: Chosen


Job = PlantJob | AlarmJob | WholeJob | CompanyJob


def measure(job: Job) -> list[Metric]:
    """Score the slides of a job and measure the results."""
    settle_worker()
    if isinstance(job, CompanyJob):
        detector = load_detector(job.things.parts[0].run)
        assert detector.own is not None
        ordinary = None if job.hosts is None else _cells(job.hosts)
        return night_metrics(job.subject, detector.own, ordinary, _cells(job.things))
    if isinstance(job, PlantJob):
        detector = load_detector(job.hosts.parts[0].run)
        hosts, things = _cells(job.hosts), _cells(job.things)
        laboratory = _laboratory(job.hosts)
        judged = plant(detector, hosts, things, job.share, own=job.own, laboratory=laboratory)
        return planted_metrics(job.subject, judged)
    if isinstance(job, WholeJob):
        slides = whole_slides(_cells(job.things))
        detector = load_detector(job.things.parts[0].run)
        judged = judge(detector, slides, _none(slides), _laboratory(job.things))
        return whole_metrics(job.subject, judged)
    hosts = _cells(job.hosts)
    slides = by_slide(hosts)
    detector = load_detector(job.hosts.parts[0].run)
    judged = judge(detector, slides, _none(slides), _laboratory(job.hosts))
    called = Interval(float(np.mean(hosts.predicted == 0)))
    diagnosed = Metric(job.subject, None, f"called {job.positive}", called, negatives=len(hosts))
    return [*alarm_metrics(job.subject, judged), diagnosed]


def _laboratory(chosen: Chosen) -> Normal | None:
    """Load the normal of a run's laboratory, if it has one."""
    run = chosen.parts[0].run
    if run.laboratory is None:
        return None
    found = load_laboratory_normal(run.store, run.laboratory)
    return Normal(found.own, found.reference)


def _none(slides: list[Cells]) -> list[NDArray[np.bool_]]:
    return [np.zeros(len(slide), bool) for slide in slides]


@lru_cache(maxsize=2)
def _cells(chosen: Chosen) -> Cells:
    """Read cells with their slides."""
    taps = load_detector(chosen.parts[0].run).taps
    found = read_rows(chosen.parts, taps, np.asarray(chosen.rows, np.int64))
    return Cells(
        found.taps,
        found.logits.argmax(axis=1),
        found.group,
        np.asarray([row.tobytes().hex() for row in found.image_ids]),
    )
