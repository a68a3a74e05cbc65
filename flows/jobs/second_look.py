"""Units of work of second looks, at a night's images and at ordinary ones."""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.jobs.fitting.altered import Image
from flows.jobs.quarantine import Sparing
from flows.jobs.scoring.feature_rows import Features
from flows.jobs.scoring.screened import Screened
from flows.jobs.verified import adapted_logits, load_detector_at
from flows.jobs.worker import network_of, settle_worker
from storage.batches.ledger import looks_path, scores_path
from storage.models.classifiers import ModelCard
from storage.parquet import read_table, write_table
from storage.store import Store
from tasks.detector.calibration import abnormality, p_values
from tasks.detector.probabilities import as_logits, log_odds, probabilities
from tasks.detector.slides.distance import Taps
from tasks.detector.verdict import VerdictRule
from tasks.detector.witnesses import Witnesses
from tasks.images.decoding import BadImageError
from tasks.images.regions import ImageRef, image_refs
from tasks.network.extraction import Loaded, cut_out_by_us, load_for
from tasks.reports.parasite_counts import LEAN
from tasks.second_look.changed_rows import MADE, Looked
from tasks.second_look.choice import Doubtful, columns, doubtful, most_looked_at
from tasks.second_look.settling import is_settled
from tasks.second_look.stability import NOISE, losses, with_noise
from tasks.second_look.views import FILTERS, ROUNDS, filtered, turned
from tasks.types import Float

if TYPE_CHECKING:
    from tasks.network.inference import Inference

Each = TypeVar("Each")
BATCHES = 8  # of images that are in memory together: few of the network's passes are not full
KILLER = BadImageError("killed_worker", "this image alone kills the worker that decodes it")


@dataclass(frozen=True)
class LookJob(Screened, Sparing):
    """Images of a part for a second look, by their ``places`` in the batch.

    ``start`` is the first row of the part. Diagnoses are adapted to the ``site``.
    """

    part: int
    start: int
    places: tuple[int, ...]

    def rows(self) -> int:
        """Count the images."""
        return len(self.places)

    def probe(self, row: int) -> None:
        """Look at one image like the job, without writing anything."""
        _look(replace(self, places=self.places[row : row + 1], killers=frozenset()))


def look_jobs(of: Screened, parts: int, done: Container[int] = ()) -> list[LookJob]:
    """Choose the images to look at, and make a job for each part that is not done.

    The selection depends only on the scores, so a resumed run selects the same images. Memory does
    not grow with the number of images for review.
    """
    rule, classes = VerdictRule(of.detector.alpha, of.detector.uncertain_below), of.model.classes
    most, starts, chosen = most_looked_at(of.batch.rows), [0], Doubtful.none()
    for part in range(parts):
        rows = read_table(of.store, *scores_path(of.batch, of.key, part), columns=columns(classes))
        found = doubtful(rows, classes, rule, part=part, start=starts[part])
        chosen = chosen.beside(found).first(most)
        starts.append(starts[part] + rows.num_rows)
    wanted = {part: chosen.of_part(part).tolist() for part in range(parts) if part not in done}
    return [
        LookJob(**vars(of), part=part, start=starts[part], places=tuple(rows))
        for part, rows in wanted.items()
        if rows
    ]


def look_twice(job: LookJob) -> int:
    """Look at a part's images, and write the results; return the number of images read."""
    settle_worker()
    found = _look(job)
    write_table(
        job.store, found.to_table(job.model.classes), *looks_path(job.batch, job.key, job.part)
    )
    return found.outcome.count(MADE)


def _look(job: LookJob) -> Looked:
    detector = load_detector_at(job.store, job.detector, job.site)
    calibration = detector.stability
    assert calibration is not None
    eye = _Eye(job, network_of(job.store, job.model), detector.witnesses)
    first, scores, known, refs, platelet = _recalled(job, detector.witnesses)
    leans = _leans(job) if detector.witnesses else np.zeros(len(first))
    n, classes = first.shape
    found = np.full((n, classes), np.nan)
    after = np.full((n, len(FILTERS), classes), np.nan, np.float32)
    outcome: list[str] = []
    failed = dict.fromkeys(job.killers, KILLER)
    network = eye.network
    loading = enumerate(load_for(network, refs, failed))
    cut = cut_out_by_us(refs)
    for some in _batched(loading, BATCHES * network.batch):
        outcome += [_outcome(loaded, known[row]) for row, loaded in some]
        good = [(row, loaded.pixels) for row, loaded in some if outcome[row] == MADE]
        if good:
            rows, images = (list(column) for column in zip(*good, strict=True))
            pixels = np.stack(images)
            seen = np.concatenate(list(filtered(pixels).values()))
            logits, _ = eye.see(seen, np.tile(cut[rows], len(FILTERS)))
            after[rows] = np.moveaxis(logits.reshape(len(FILTERS), len(rows), -1), 0, 1)
            found[rows] = _turn_until_settled(
                eye, pixels, cut[rows], first[rows], scores[rows], leans[rows]
            )
    found[platelet] = np.nan  # turned, it is the same platelet: the first diagnosis stays
    lost = losses(first, after)
    stability = abnormality(calibration, lost)
    return Looked(
        np.asarray(job.places, np.int64),
        outcome,
        found,
        stability,
        np.isfinite(stability) & (p_values(calibration, stability) <= job.detector.alpha),
    )


@dataclass(frozen=True)
class _Eye:
    """Sees the images of a job, and diagnoses what it has seen."""

    job: LookJob
    network: "Inference"
    witnesses: Witnesses | None

    def see(
        self, images: NDArray[np.uint8], cut: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], Float]:
        """Compute logits (n, C) and scores of the statistics (n,) of images (n, s, s, 3).

        ``cut`` (n,) marks those that slidewatch cut out.
        """
        found, scores = [], []
        for start in range(0, len(images), self.network.batch):
            batch = slice(start, start + self.network.batch)
            taps, logits = self.network.compared(images[batch], cut[batch])
            found.append(logits)
            scores.append(_scores(self.witnesses, taps, len(logits)))
        return np.asarray(np.concatenate(found), np.float32), np.concatenate(scores)

    def diagnose(self, logits: Float, scores: Float, leans: Float) -> Float:
        """Compute probabilities (n, C) of logits (n, C), and of scores and their leans (n,)."""
        card = self.job.model
        if self.witnesses is not None:
            network = log_odds(logits, card.temperature, self.witnesses.positive)
            said = self.witnesses.scales.testify(network, scores - leans)
            logits = as_logits(said.both, card.temperature, self.witnesses.positive)
        return probabilities(adapted_logits(logits, card, self.job.site), card.temperature)


def _turn_until_settled(
    eye: _Eye,
    pixels: NDArray[np.uint8],
    cut: NDArray[np.bool_],
    first: NDArray[np.float32],
    scores: Float,
    leans: Float,
) -> Float:
    """Look at images (k, s, s, 3) turned and flipped, until the diagnosis of each is settled.

    Args:
        eye: looks.
        pixels: of the images.
        cut: (k,) which of them slidewatch cut out.
        first: logits (k, C) of the first pass.
        scores: of the statistics (k,) in the first pass.
        leans: of the statistics (k,).

    Returns:
        Probabilities (k, C) by the mean of an image's views, NaN where the first pass settles it.
    """
    found = np.full(first.shape, np.nan)
    logits, scores, views = first.astype(np.float64), scores.copy(), 1
    left = np.flatnonzero(~is_settled(eye.diagnose(logits, scores, leans), views))
    for ways in ROUNDS:
        if not len(left):
            break
        seen, scored = eye.see(turned(pixels[left], ways), np.tile(cut[left], len(ways)))
        logits[left] += seen.reshape(len(ways), len(left), -1).sum(axis=0, dtype=np.float64)
        scores[left] += scored.reshape(len(ways), len(left)).sum(axis=0)
        views += len(ways)
        found[left] = eye.diagnose(logits[left] / views, scores[left] / views, leans[left])
        left = left[~is_settled(found[left], views)]
    return found


def _leans(job: LookJob) -> Float:
    """Read the leans (n,) of a job's images."""
    table = read_table(job.store, *scores_path(job.batch, job.key, job.part), columns=[LEAN])
    return np.asarray(table[LEAN].to_numpy()[np.asarray(job.places) - job.start], np.float64)


def _recalled(
    job: LookJob, witnesses: Witnesses | None
) -> tuple[NDArray[np.float32], Float, list[bytes], list[ImageRef], NDArray[np.bool_]]:
    """Read the first pass's results on a job's images.

    Returns:
        Logits (n, C), scores of the statistics (n,), digests and addresses of the images, and which
        of them (n,) have a platelet at their rim.
    """
    features = Features(job.store, job.batch, job.model)
    size = job.batch.shard_rows
    logits, scores, known, rows, platelet = [], [], [], [], []
    for place in job.places:
        block, _, manifest = features.shard(place // size)
        row = np.asarray([place % size])
        logits.append(block.logits[place % size])
        scores.append(_scores(witnesses, {tap: v[row] for tap, v in block.taps.items()}, 1))
        known.append(block.image_id[place % size].tobytes())
        rows.append(manifest.slice(place % size, 1))
        platelet.append(block.has_platelet[place % size])
    refs = image_refs(pa.concat_tables(rows))
    return np.stack(logits), np.concatenate(scores), known, refs, np.asarray(platelet, bool)


def _scores(witnesses: Witnesses | None, taps: Taps, count: int) -> Float:
    """Score images (count,) by the statistics; NaN if they are no witness."""
    return witnesses.discriminant.scores(taps) if witnesses else np.full(count, np.nan)


def _outcome(loaded: Loaded, image_id: bytes) -> str:
    if loaded.failure is not None:
        return f"{loaded.failure.reason}: {loaded.failure}"
    if loaded.image_id != image_id:
        return "changed: the file is not the one any more that was screened"
    return MADE


@dataclass(frozen=True)
class OrdinaryJob:
    """Images that the network was not trained on."""

    store: Store
    model: ModelCard
    images: tuple[Image, ...]


def ordinary_losses(job: OrdinaryJob) -> tuple[NDArray[np.bool_], Float]:
    """Measure the effect of filters on the diagnoses of ordinary images, with and without noise.

    Returns:
        Whether each image (n,) still exists, and the losses (k, 1 + sizes of noise, F) of these.
    """
    settle_worker()
    network = network_of(job.store, job.model)
    refs = [ref for ref, _ in job.images]
    there, found = [], []
    loading = zip(load_for(network, refs), job.images, strict=True)
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
    (_, first), *after = map(network.run, [pixels, *filtered(pixels).values()])
    return losses(first, np.stack([logits for _, logits in after], axis=1))


def _batched(values: Iterable[Each], size: int) -> Iterator[list[Each]]:
    """Yield groups of ``size``; the last may be smaller."""
    iterator = iter(values)
    while some := list(islice(iterator, size)):
        yield some
