"""Score the images of an evaluation alone and in company, by all compared detectors."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flows.jobs import worker
from flows.smears.jobs.evaluation.images import (
    Run,
    SetShard,
    load_detector,
    load_tapped,
    read_cells,
    read_treated,
)
from storage.models.detectors import is_shipped
from tasks.detector.verdict import VerdictRule
from tasks.metrics import metrics
from tasks.network import classifier
from tasks.network.spec import PENULTIMATE
from tasks.smears.evaluation import compositions, scored
from tasks.smears.evaluation.rivals import fit_rivals, logit_rivals
from tasks.smears.evaluation.scored import Rivals


@dataclass(frozen=True)
class ScoringJob:
    """A shard to score; the second witness compares it with ``slides``, its slides' clean cells.

    ``fitted`` are fitted images, which rivals learn from.
    """

    shard: SetShard
    slides: tuple[SetShard, ...]
    fitted: tuple[SetShard, ...]


def score_shard(job: ScoringJob) -> scored.ScoredImages:
    """Score a shard's images in all their forms."""
    run = job.shard.run
    worker.settle_worker()
    images = read_treated(job.shard)
    known, groups = _leans(job.slides), run.groups(job.shard.images)[images.rows]
    leans = np.asarray([known.get(group, 0.0) for group in groups.tolist()], np.float64)
    rivals = {} if job.shard.treatment.kind == "corruption" else _rivals(run, job.fitted)
    rule = VerdictRule(run.detector.alpha, run.detector.uncertain_below)
    temperature = run.model.temperature
    return scored.score(images, groups, load_detector(run), rivals, rule, temperature, leans)


@lru_cache(maxsize=8)
def _leans(slides: tuple[SetShard, ...]) -> dict[str, float]:
    witnesses = load_detector(slides[0].run).witnesses
    if witnesses is None:
        return {}
    cells = read_cells(slides, sorted(witnesses.discriminant.weights))
    scores = witnesses.discriminant.scores(cells.taps)
    return witnesses.discriminant.leans(scores, cells.predicted != witnesses.positive, cells.slides)


@lru_cache(maxsize=2)
def _rivals(run: Run, fitted: tuple[SetShard, ...]) -> Rivals:
    if is_shipped(run.detector):
        return logit_rivals()
    cells = read_cells(fitted, [PENULTIMATE])
    last = classifier.last_layer(load_tapped(run.store, run.model))
    return fit_rivals(PENULTIMATE, cells.taps[PENULTIMATE], cells.label, *last)


@dataclass(frozen=True)
class Chosen:
    """The rows that count of a set of images under a treatment."""

    shards: tuple[SetShard, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class CompositionJob:
    """Ordinary and strange cells to compose with the subject's share of the latter."""

    run: Run
    subject: metrics.Subject
    ordinary: Chosen | None
    strange: Chosen | None
    named: bool


def compose_and_measure(job: CompositionJob) -> list[metrics.Result]:
    """Compose slides or nights, score them as `screen` does, and measure the results."""
    worker.settle_worker()
    run = job.run
    ordinary, strange = (_cells(each) if each else None for each in (job.ordinary, job.strange))
    groups = compositions.compose(ordinary, strange, job.subject.share or 0.0, named=job.named)
    if not groups:
        return []
    judged = compositions.judge(load_detector(run), groups, named=job.named)
    results = list(compositions.measure(job.subject, judged))
    if ordinary and not strange:
        called = metrics.Interval(float(np.mean(ordinary.predicted == 0)))
        measure = f"called {run.model.classes[0]}"
        results.append(metrics.Result(job.subject, None, measure, called, 0, len(ordinary)))
    return results


@lru_cache(maxsize=2)
def _cells(chosen: Chosen) -> compositions.CellSet:
    taps = load_detector(chosen.shards[0].run).taps
    return read_cells(chosen.shards, taps, np.asarray(chosen.rows, np.int64))
