"""Fit the detectors that an evaluation compares, and score its images alone and in company."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from flows.jobs import verified, worker
from flows.smears.jobs.evaluation.images import (
    Run,
    Shard,
    load_detector,
    load_target,
    read_rows,
    read_treated,
)
from storage.smears.evaluations import fitted_path, read_arrays, write_arrays
from tasks.detector import mahalanobis
from tasks.detector.moments import Moments, partial_fit
from tasks.metrics import metrics
from tasks.network import classifier, spec
from tasks.smears.evaluation import compositions, scored, treated
from tasks.smears.evaluation.rivals import SAMPLE, fit_rivals
from tasks.types import below, nested


@dataclass(frozen=True)
class FitJob:
    """The compared detectors, fitted on the shards of a set of ``total`` images."""

    run: Run
    shards: tuple[Shard, ...]
    total: int


def fit_compared(job: FitJob) -> None:
    """Write Gaussians of every stage, and a sample of the images for rivals, unless they exist."""
    run = job.run
    path = fitted_path(run.evaluation, run.detector.name)
    if run.store.exists(*path):
        return
    worker.settle_worker()
    every = -(-job.total // SAMPLE)
    layers: dict[str, Moments] = {}
    features, labels = [], []
    for images in map(read_treated, job.shards):
        if not len(images.rows):
            continue
        taps = images.forms[treated.FILE].taps
        for tap, values in taps.items():
            known = layers.get(tap) or Moments.empty(len(run.model.classes), values.shape[1])
            layers[tap] = partial_fit(known, values, images.label)
        chosen = (images.rows % every == 0) & (images.label >= 0)
        features.append(taps[spec.PENULTIMATE][chosen])
        labels.append(images.label[chosen])
    arrays = {"features": np.concatenate(features), "labels": np.concatenate(labels)}
    for tap, statistics in layers.items():
        arrays |= nested(f"layer/{tap}", mahalanobis.tied_gaussian(statistics).to_arrays())
    write_arrays(run.store, arrays, *path)


@dataclass(frozen=True)
class ScoreJob:
    """A shard to score; the second witness compares it with ``slides``, its slides' clean cells."""

    shard: Shard
    slides: tuple[Shard, ...]


def score_shard(job: ScoreJob) -> scored.ScoredImages:
    """Score a shard's images in all their forms."""
    run = job.shard.run
    worker.settle_worker()
    images = read_treated(job.shard)
    known = _leans(job.slides)
    groups = run.groups(job.shard.images)[images.rows].tolist()
    leans = np.asarray([known.get(group, 0.0) for group in groups], np.float64)
    return scored.score(images, _fitted(run), run.model.temperature, leans)


@lru_cache(maxsize=8)
def _leans(slides: tuple[Shard, ...]) -> dict[str, float]:
    """Compute the leans of slides or patients from their clean cells."""
    witnesses = load_detector(slides[0].run).witnesses
    if witnesses is None:
        return {}
    rows = read_rows(slides, sorted(witnesses.discriminant.weights))
    scores = witnesses.discriminant.scores(rows.taps)
    healthy = rows.logits.argmax(axis=1) != witnesses.positive
    return witnesses.discriminant.leans(scores, healthy, rows.group)


@lru_cache(maxsize=2)
def _fitted(run: Run) -> scored.Fitted:
    target = load_target(run.store, run.detector, run.model)
    arrays = read_arrays(run.store, *fitted_path(run.evaluation, run.detector.name))
    layers = {
        tap: mahalanobis.TiedGaussian.from_arrays(below(f"layer/{tap}", arrays))
        for tap in target.classifier.spec.taps
    }
    last = classifier.last_layer(target.classifier)
    rivals = fit_rivals(spec.PENULTIMATE, arrays["features"], arrays["labels"], *last)
    return scored.Fitted(target.detector, layers, rivals)


@dataclass(frozen=True)
class Chosen:
    """The rows that count of a set of images under a treatment."""

    shards: tuple[Shard, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class CompositionJob:
    """Ordinary and strange cells to compose with the subject's share of the latter.

    ``positive`` is the name of the infected class.
    """

    subject: metrics.Subject
    ordinary: Chosen | None
    strange: Chosen | None
    named: bool
    positive: str


def compose_and_measure(job: CompositionJob) -> list[metrics.Result]:
    """Compose slides or nights, score them as `screen` does, and measure the results."""
    worker.settle_worker()
    given = job.ordinary or job.strange
    assert given is not None
    run = given.shards[0].run
    ordinary = _cells(job.ordinary) if job.ordinary else None
    strange = _cells(job.strange) if job.strange else None
    groups = compositions.compose(ordinary, strange, job.subject.share or 0.0, named=job.named)
    if not groups:
        return []
    laboratory = None
    if run.commissioned is not None:
        detector = verified.load_detector(run.store, run.commissioned)
        assert detector.own is not None
        laboratory = compositions.Normal(detector.own, detector.reference)
    judged = compositions.judge(load_detector(run), groups, named=job.named, laboratory=laboratory)
    results = list(compositions.measure(job.subject, judged))
    if ordinary and not strange:
        called = metrics.Interval(float(np.mean(ordinary.predicted == 0)))
        counts = 0, len(ordinary)
        results.append(metrics.Result(job.subject, None, f"called {job.positive}", called, *counts))
    return results


@lru_cache(maxsize=2)
def _cells(chosen: Chosen) -> compositions.Cells:
    """Read cells with their slides."""
    taps = load_detector(chosen.shards[0].run).taps
    rows = read_rows(chosen.shards, taps, np.asarray(chosen.rows, np.int64))
    return compositions.Cells(
        rows.taps,
        rows.logits.argmax(axis=1),
        rows.group,
        np.asarray([row.tobytes().hex() for row in rows.image_ids]),
    )
