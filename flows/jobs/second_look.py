"""Units of work of second looks: of a night's images, and of those that say what is ordinary."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.jobs.detectors import adapted_logits, load_fitted_detector
from flows.jobs.fitting.altered import Image
from flows.jobs.scoring.features import Features
from flows.jobs.worker import settle_worker
from storage.batches.ledger import looks_path, scores_path
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.models.sites import SiteCard
from storage.parquet import read_table, write_table
from storage.store import Store
from tasks.detector.calibration import abnormality, p_values
from tasks.detector.probabilities import as_logits, log_odds, probabilities
from tasks.detector.slides.distance import Taps
from tasks.detector.verdict import VerdictRule
from tasks.detector.witnesses import Witnesses
from tasks.images.decoding import BadImageError
from tasks.images.regions import ImageRef, image_refs
from tasks.network.features import Loaded, cut_out_by_us, load_images
from tasks.reports.counts import LEAN
from tasks.second_look.choice import Doubtful, columns, doubtful, most_looked_at
from tasks.second_look.rows import MADE, Looked
from tasks.second_look.stability import NOISE, losses, with_noise
from tasks.second_look.views import FILTERS, VIEWS, filtered, turned
from tasks.types import Float

if TYPE_CHECKING:
    from tasks.network.inference import Inference

Each = TypeVar("Each")
KILLER = BadImageError("killed_worker", "this image alone kills the worker that decodes it")


@dataclass(frozen=True)
class LookJob:
    """Images of a part that are looked at twice, by their ``places`` in the batch.

    ``start`` is the first row of the part.
    ``killers`` are those of them that kill workers, counted among the places. Diagnoses are adapted
    as the ``site`` does.
    """

    store: Store
    batch: Batch
    model: ModelCard
    detector: DetectorCard
    key: str
    part: int
    start: int
    places: tuple[int, ...]
    killers: frozenset[int] = frozenset()
    site: SiteCard | None = None

    def rows(self) -> int:
        """Count the images."""
        return len(self.places)

    def probe(self, row: int) -> None:
        """Look at one image as the job looks at many, and keep nothing."""
        _look(replace(self, places=self.places[row : row + 1], killers=frozenset()))

    def quarantine(self, rows: list[int]) -> Self:
        """Return the job that leaves these images alone and says so."""
        return replace(self, killers=frozenset(rows))


def most_doubtful(
    store: Store, batch: Batch, card: ModelCard, detector: DetectorCard, key: str, parts: int
) -> tuple[Doubtful, list[int]]:
    """Choose the images to look at, and find the first row of every part.

    Memory does not grow with how many are for review.
    """
    rule = VerdictRule(detector.alpha, detector.uncertain_below)
    most, starts, chosen = most_looked_at(batch.rows), [0], Doubtful.none()
    for part in range(parts):
        path = scores_path(batch, key, part)
        rows = read_table(store, *path, columns=columns(card.classes))
        found = doubtful(rows, card.classes, rule, part=part, start=starts[part])
        chosen = chosen.beside(found).first(most)
        starts.append(starts[part] + rows.num_rows)
    return chosen, starts


def look_twice(job: LookJob) -> int:
    """Look at a part's images, and write what is found; returns how many could be looked at."""
    settle_worker()
    found = _look(job)
    write_table(
        job.store, found.to_table(job.model.classes), *looks_path(job.batch, job.key, job.part)
    )
    return found.outcome.count(MADE)


def _look(job: LookJob) -> Looked:
    detector = load_fitted_detector(job.store, job.detector)
    calibration = detector.stability
    assert calibration is not None
    network = _network(job.store, job.model)
    first, scores, known, refs = _recalled(job, detector.witnesses)
    n, classes = first.shape
    views = np.full((n, classes), np.nan)
    after = np.full((n, len(FILTERS), classes), np.nan, np.float32)
    outcome: list[str] = []
    failed = dict.fromkeys(job.killers, KILLER)
    loading = enumerate(
        load_images(refs, network.spec.side, network.threads, failed, blocks=network.blocks)
    )
    cut = cut_out_by_us(refs)
    for some in _batched(loading, max(1, network.batch // (VIEWS + 1))):
        outcome += [_outcome(loaded, known[row]) for row, loaded in some]
        good = [(row, loaded.pixels) for row, loaded in some if outcome[row] == MADE]
        if good:
            rows, pixels = (list(column) for column in zip(*good, strict=True))
            seen = _passes(network, np.stack(pixels), cut[rows], detector.witnesses)
            views[rows] = seen.mean_logits(first[rows])
            scores[rows] = seen.mean_scores(scores[rows])
            after[rows] = seen.filtered
    lost = losses(first, after)
    stability = abnormality(calibration, lost)
    return Looked(
        np.asarray(job.places, np.int64),
        outcome,
        _probabilities(job, detector.witnesses, views, scores),
        stability,
        np.isfinite(stability) & (p_values(calibration, stability) <= job.detector.alpha),
    )


def _probabilities(job: LookJob, witnesses: Witnesses | None, views: Float, scores: Float) -> Float:
    """Compute probabilities (n, C) of mean logits (n, C) and mean scores (n,) of the statistics."""
    card, logits = job.model, views
    if witnesses is not None:
        network = log_odds(views, card.temperature, witnesses.positive)
        found = witnesses.scales.testify(network, scores - _leans(job))
        logits = as_logits(found.both, card.temperature, witnesses.positive)
    return probabilities(adapted_logits(logits, card, job.site), card.temperature)


def _leans(job: LookJob) -> Float:
    """Recall the leans (n,) of a job's images."""
    table = read_table(job.store, *scores_path(job.batch, job.key, job.part), columns=[LEAN])
    return np.asarray(table[LEAN].to_numpy()[np.asarray(job.places) - job.start], np.float64)


def _recalled(
    job: LookJob, witnesses: Witnesses | None
) -> tuple[NDArray[np.float32], Float, list[bytes], list[ImageRef]]:
    """Recall what the first pass knows of a job's images.

    Returns:
        Logits (n, C), scores of the statistics (n,), digests, and where the images lie.
    """
    features = Features(job.store, job.batch, job.model)
    size = job.batch.shard_rows
    logits, scores, known, rows = [], [], [], []
    for place in job.places:
        block, _, manifest = features.shard(place // size)
        row = np.asarray([place % size])
        logits.append(block.logits[place % size])
        scores.append(_scores(witnesses, {tap: v[row] for tap, v in block.taps.items()}, 1))
        known.append(block.image_id[place % size].tobytes())
        rows.append(manifest.slice(place % size, 1))
    return np.stack(logits), np.concatenate(scores), known, image_refs(pa.concat_tables(rows))


def _scores(witnesses: Witnesses | None, taps: Taps, count: int) -> Float:
    """Score images (count,) by the statistics; NaN where these are no witness."""
    return witnesses.discriminant.scores(taps) if witnesses else np.full(count, np.nan)


def _outcome(loaded: Loaded, image_id: bytes) -> str:
    if loaded.failure is not None:
        return f"{loaded.failure.reason}: {loaded.failure}"
    if loaded.image_id != image_id:
        return "changed: the file is not the one any more that was screened"
    return MADE


class _Seen(NamedTuple):
    """Hold what a second look sees of k images: logits (V, k, C) and scores (V, k) of their views.

    ``filtered`` (k, F, C) are logits under the filters.
    """

    logits: NDArray[np.float32]
    scores: Float
    filtered: NDArray[np.float32]

    def mean_logits(self, first: NDArray[np.float32]) -> Float:
        """Average logits (k, C) over all views, of which ``first`` (k, C) is one."""
        views = np.concatenate([first[np.newaxis], self.logits]).astype(np.float64)
        return np.asarray(views.mean(axis=0))

    def mean_scores(self, first: Float) -> Float:
        """Average scores (k,) over all views, of which ``first`` (k,) is one."""
        return np.asarray(np.concatenate([first[np.newaxis], self.scores]).mean(axis=0))


def _passes(
    network: "Inference",
    pixels: NDArray[np.uint8],
    cut: NDArray[np.bool_],
    witnesses: Witnesses | None,
) -> _Seen:
    """Pass images (k, s, s, 3) turned and filtered, all in one batch of the network.

    ``cut`` (k,) marks those that slidewatch cut out.
    """
    seen = [*turned(pixels), *filtered(pixels).values()]
    taps, logits = network.compared(np.concatenate(seen), np.tile(cut, len(seen)))
    found = logits.reshape(len(seen), len(pixels), -1)
    scores = _scores(witnesses, taps, len(seen) * len(pixels)).reshape(len(seen), -1)
    views = VIEWS - 1
    return _Seen(found[:views], scores[:views], np.moveaxis(found[views:], 0, 1))


@dataclass(frozen=True)
class OrdinaryJob:
    """Images that the network was not trained on."""

    store: Store
    model: ModelCard
    images: tuple[Image, ...]


def ordinary_losses(job: OrdinaryJob) -> tuple[NDArray[np.bool_], Float]:
    """Measure what filters do to ordinary diagnoses, of images as they are and with noise.

    Returns:
        Which images (n,) are there still, and the losses (k, 1 + sizes of noise, F) of these.
    """
    settle_worker()
    network = _network(job.store, job.model)
    refs = [ref for ref, _ in job.images]
    there, found = [], []
    loading = zip(
        load_images(refs, network.spec.side, network.threads, blocks=network.blocks),
        job.images,
        strict=True,
    )
    for some in _batched(loading, network.batch):
        same = [_outcome(loaded, known) == MADE for loaded, (_, known) in some]
        there += same
        good = [each for each, is_same in zip(some, same, strict=True) if is_same]
        if not good:
            continue
        pixels = np.stack([loaded.pixels for loaded, _ in good if loaded.pixels is not None])
        seeds = np.asarray([int.from_bytes(known[:4], "big") for _, (_, known) in good])
        noisy = (with_noise(pixels, size, seeds) for size in (0, *NOISE))
        found.append(np.stack([_losses(network, images) for images in noisy], axis=1))
    return np.asarray(there, bool), np.concatenate(found) if found else np.zeros((0, 0, 0))


def _losses(network: "Inference", pixels: NDArray[np.uint8]) -> Float:
    after = [_logits(network, images) for images in filtered(pixels).values()]
    return losses(_logits(network, pixels), np.stack(after, axis=1))


def _logits(network: "Inference", pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    _, logits = network.run(pixels)
    return np.asarray(logits.cpu().numpy(), np.float32)


def _network(store: Store, model: ModelCard) -> "Inference":
    # The coordinator has this module too, and need not wait for what only workers run.
    from flows.jobs.networks import load_inference

    return load_inference(store, model)


def _batched(values: Iterable[Each], size: int) -> Iterator[list[Each]]:
    """Take so many at a time; the last may be fewer."""
    iterator = iter(values)
    while some := list(islice(iterator, size)):
        yield some
