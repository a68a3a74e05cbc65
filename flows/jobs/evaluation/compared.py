"""Fit the detectors that an evaluation compares, and score its parts by all of them."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from flows.jobs.evaluation.treated import (
    PartJob,
    Run,
    load_detector,
    load_target,
    read_part,
    read_rows,
    tapped_classifier,
)
from flows.jobs.worker import settle_worker
from storage.parquet import read_table
from storage.reports.evaluations import (
    fitted_path,
    images_path,
    part_path,
    read_arrays,
    write_arrays,
)
from tasks.detector.mahalanobis import TiedGaussian, tied_gaussian
from tasks.detector.moments import Moments, partial_fit
from tasks.evaluation.baselines import (
    Fitted,
    Residual,
    residual_directions,
    residual_norm,
    unit,
    whole_gaussian,
)
from tasks.evaluation.evidence import to_numpy
from tasks.evaluation.parts import CLEAN, FILE, TreatedPart
from tasks.evaluation.results.findings import TEST
from tasks.evaluation.scored import ScoredPart, score
from tasks.network.classifier import Classifier, last_layer
from tasks.network.spec import PENULTIMATE
from tasks.types import Float, below, nested

BANK = 5000  # images to search for nearest neighbours


@dataclass(frozen=True)
class FitJob:
    """The compared detectors at one tap, fitted on a set of images."""

    run: Run
    tap: str
    parts: tuple[PartJob, ...]


def fit_tap(job: FitJob) -> None:
    """Write the fit at a tap, unless it exists; at the last tap, everything that scores need."""
    run = job.run
    path = fitted_path(run.evaluation, run.detector.name, job.tap)
    if run.store.exists(*path):
        return
    settle_worker()
    classifier = tapped_classifier(run.store, run.model)
    last = job.tap == PENULTIMATE
    raw = on_sphere = None
    for features, _, labels in _fitted_features(job):
        raw = raw or Moments.empty(len(classifier.spec.classes), features.shape[1])
        raw = partial_fit(raw, features, labels)
        if last:
            on_sphere = on_sphere or Moments.empty(raw.classes, raw.width)
            on_sphere = partial_fit(on_sphere, unit(features), labels)
    assert raw is not None
    arrays = nested("layer", tied_gaussian(raw).to_arrays())
    if last:
        assert on_sphere is not None
        arrays |= nested("unit", tied_gaussian(on_sphere).to_arrays())
        arrays |= nested("whole", whole_gaussian(raw).to_arrays())
        residual, bank = _residual_and_bank(job, classifier, raw)
        arrays |= nested("residual", residual.to_arrays()) | {"bank": bank}
    write_arrays(run.store, arrays, *path)


def _fitted_features(
    job: FitJob,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int8]]]:
    """Yield features (n, d), logits (n, C) and labels (n,) of the fitted images by part."""
    for part in map(read_part, job.parts):
        if len(part.rows):
            yield part.forms[FILE].taps[job.tap], part.forms[FILE].logits, part.label


def _residual_and_bank(job: FitJob, classifier: Classifier, raw: Moments) -> tuple[Residual, Float]:
    """Fit ViM's residual, whose scale needs a second pass; choose images as possible neighbours."""
    weight, bias = (np.asarray(to_numpy(values), np.float64) for values in last_layer(classifier))
    origin, directions = residual_directions(raw, weight, bias)
    lengths, largest, bank = 0.0, 0.0, []
    every = max(1, round(raw.n.sum() / BANK))
    for features, logits, _ in _fitted_features(job):
        lengths += float(residual_norm(Residual(origin, directions, 1.0), features).sum())
        largest += float(logits.max(axis=1).sum())
        bank.append(unit(features[::every]))
    return Residual(origin, directions, largest / lengths), np.concatenate(bank)


def score_part(job: PartJob) -> ScoredPart:
    """Score a part's images in all its forms."""
    run = job.run
    settle_worker()
    part = read_part(job)
    return score(part, _fitted(run), run.model.temperature, _leans(job, part))


def _leans(job: PartJob, part: TreatedPart) -> Float:
    """Compute the leans (n,) of the slides or patients of a part's images, from clean cells."""
    run = job.run
    path = images_path(run.evaluation, run.detector.name, job.images)
    groups = np.asarray(read_table(run.store, *path, columns=["group"])["group"].to_pylist())
    # Images to corrupt or attack are some of the unseen ones, so use all unseen cells of a slide.
    known = _leans_of_set(run, TEST) | _leans_of_set(run, job.images)
    return np.asarray([known.get(group, 0.0) for group in groups[part.rows].tolist()])


@lru_cache(maxsize=8)
def _leans_of_set(run: Run, images: str) -> dict[str, float]:
    """Compute the leans of the slides or patients of a set; none if it has no clean part."""
    witnesses, name = load_detector(run).witnesses, run.detector.name
    size = itertools.count()
    paths = (part_path(run.evaluation, name, images, CLEAN.key, number) for number in size)
    there = list(itertools.takewhile(lambda path: run.store.exists(*path), paths))
    if witnesses is None or not there:
        return {}
    jobs = [PartJob(run, images, CLEAN, number, 0, 0) for number in range(len(there))]
    found = read_rows(jobs, sorted(witnesses.discriminant.weights))
    scores = witnesses.discriminant.scores(found.taps)
    healthy = found.logits.argmax(axis=1) != witnesses.positive
    return witnesses.discriminant.leans(scores, healthy, found.group)


@lru_cache(maxsize=2)
def _fitted(run: Run) -> Fitted:
    target = load_target(run.store, run.detector, run.model)
    arrays = {
        tap: read_arrays(run.store, *fitted_path(run.evaluation, run.detector.name, tap))
        for tap in target.classifier.spec.taps
    }
    last = arrays[PENULTIMATE]
    return Fitted(
        detector=target.detector,
        last=PENULTIMATE,
        layers={
            tap: TiedGaussian.from_arrays(below("layer", values)) for tap, values in arrays.items()
        },
        unit_last=TiedGaussian.from_arrays(below("unit", last)),
        whole=TiedGaussian.from_arrays(below("whole", last)),
        residual=Residual.from_arrays(below("residual", last)),
        bank=last["bank"],
    )
