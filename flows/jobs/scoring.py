"""Units of work of the second stage: cells are scored by what they are compared with.

Features are read shard by shard, and compared with the ledger's digests. Memory does not grow with
the size of a slide: its reference is made of some of its cells, and the rest come one shard after
another.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.jobs.detectors import (
    adapted_logits,
    load_detector_at,
    load_fitted_detector,
    load_site_normal,
)
from flows.jobs.worker import settle_worker
from storage.batches.features import SCORED, FeatureBlock, image_ids
from storage.batches.known_features import verified_block
from storage.batches.ledger import ShardRecord, scores_path, screening_key, shifts_path
from storage.batches.manifests import Batch, read_manifest
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.models.sites import SiteCard
from storage.parquet import write_parts, write_table
from storage.store import Store, StoreError
from tasks.detector.detector import Detector, Scores, score
from tasks.detector.own_normal import cell_scores, is_nearer, population_normal, slide_shift
from tasks.detector.probabilities import log_odds
from tasks.detector.slide_distance import SlideNormal, standardised_distances
from tasks.detector.slide_normal import Choices, reference_rows, slide_normal
from tasks.detector.verdict import VerdictRule
from tasks.reports.columns import PARASITIZED, Provenance
from tasks.reports.counts import LOG_ODDS
from tasks.reports.images import Diagnoses, ImagesRead, image_rows, is_cut
from tasks.reports.slides import SHIFTS

SHARDS_HELD = 8  # of features, in memory at once
SHARDS_AHEAD = 4  # that are read at once where the store is far away
SHARDS_OF_A_NIGHT = 40  # that the normal of a night is made of

FEW = "few"
Range = tuple[int, int, str]  # rows from, rows to, and what they are: a slide, a patient, or `FEW`
Held = tuple[FeatureBlock, ShardRecord, pa.Table]  # a shard, with its rows of the manifest


@dataclass(frozen=True)
class SlideRows:
    """Rows ``start`` to ``stop`` of a batch, which are one patient's of one slide, if named."""

    slide: str | None
    patient: str | None
    start: int
    stop: int


@dataclass(frozen=True)
class Span:
    """Rows ``start`` to ``stop`` that are compared with the same cells; None: with the night's.

    Rows that are a slide or a patient of too few cells (`FEW`) are compared with those of the night
    or with fitted ones.
    """

    start: int
    stop: int
    reference: Range | None


@dataclass(frozen=True)
class Reference:
    """A normal that cells are compared with, and the rows (k,) of the batch that it is made of."""

    normal: SlideNormal
    rows: NDArray[np.intp]
    level: str


@dataclass(frozen=True)
class NightJob:
    """A batch whose own normal is wanted, for cells whose slide and patient have too few.

    ``least`` cells are enough for it.
    """

    store: Store
    batch: Batch
    model: ModelCard
    detector: DetectorCard
    least: int = Choices.least


@dataclass(frozen=True)
class ScoreJob:
    """Consecutive rows of whole slides to be scored.

    ``part`` counts in the batch; ``nearest`` is what cells are compared with whose slide and
    patient have too few, the site's or the night's normal; None where there is none. Slides are
    expected to be like those of the ``site``.
    """

    store: Store
    batch: Batch
    model: ModelCard
    detector: DetectorCard
    part: int
    slides: tuple[SlideRows, ...]
    spans: tuple[Span, ...]
    scored_at: datetime
    nearest: Reference | None
    site: SiteCard | None = None

    @property
    def key(self) -> str:
        """Return the key of the screening, under which the part is kept."""
        return screening_key(self.detector.name, self.site.name if self.site else None)


def provenance_of(
    batch: Batch, model: str, detector: str, scored_at: datetime, site: SiteCard | None = None
) -> Provenance:
    """Make the provenance of a batch's rows: model, detector, batch, day, start, and site."""
    label = site.label if site else None
    return Provenance(model, detector, batch.name, batch.batch_date, scored_at, label)


def night_normal(job: NightJob) -> Reference:
    """Make the normal of a whole night of some of its cells, spread evenly over its shards."""
    settle_worker()
    features = Features(job.store, job.batch, job.model)
    shards = list(job.batch.shards())
    chosen = [shards[n * len(shards) // SHARDS_OF_A_NIGHT] for n in range(SHARDS_OF_A_NIGHT)]
    chosen = sorted(set(chosen), key=lambda shard: shard.number)
    total = sum(shard.stop - shard.start for shard in chosen)
    every = -(-total // len(reference_rows(total))) if total else 1
    rows = np.concatenate([np.arange(shard.start, shard.stop, every) for shard in chosen])
    detector = load_fitted_detector(job.store, job.detector)
    return _reference_of(features, detector, rows, "night", Choices(least=job.least))


def site_normal(store: Store, site: SiteCard) -> Reference:
    """Read the normal of a site, for cells whose slide and patient have too few."""
    return Reference(load_site_normal(store, site).reference, np.zeros(0, np.intp), "site")


def scored_rows(job: ScoreJob) -> Iterator[pa.Table]:
    """Score a part's cells, and keep nothing."""
    settle_worker()
    return _scorer(job).rows()


def score_part(job: ScoreJob) -> int:
    """Score a part's cells and slides; returns how many cells there are."""
    settle_worker()
    scorer = _scorer(job)
    rows = scorer.rows()
    first = next(rows)
    path = scores_path(job.batch, job.key, job.part)
    write_parts(job.store, first.schema, chain([first], rows), *path)
    # The shifts last: they say that the part is complete.
    write_table(job.store, scorer.shifts(), *shifts_path(job.batch, job.key, job.part))
    return job.spans[-1].stop - job.spans[0].start


class Features:
    """Features of a batch by its rows, read and verified shard by shard."""

    def __init__(self, store: Store, batch: Batch, model: ModelCard) -> None:
        self._store, self._batch, self._model = store, batch, model
        # No `lru_cache` of a method: it would refer to itself, and the shards of one job would stay
        # in memory through the next ones, until Python looks for such circles.
        self._held: dict[int, Held] = {}

    def shard(self, number: int) -> Held:
        """Read a shard, unless it is among the last ones that were asked for."""
        return next(self.shards([number]))

    def shards(self, numbers: Iterable[int]) -> Iterator[Held]:
        """Read shards; from a store that is far away several at once, ahead of their use."""
        left = list(numbers)
        size = SHARDS_AHEAD if self._store.is_far else 1
        for start in range(0, len(left), size):
            some = left[start : start + size]
            missing = [number for number in some if number not in self._held]
            others = [number for number in self._held if number not in some]
            for oldest in others[: max(0, len(self._held) + len(missing) - SHARDS_HELD)]:
                del self._held[oldest]
            with self._store.together() as pool:
                self._held.update(zip(missing, pool.map(self._read, missing), strict=True))
            found = [self._held.pop(number) for number in some]
            self._held.update(zip(some, found, strict=True))
            while found:
                yield found.pop(0)

    def _read(self, number: int) -> Held:
        shard = self._batch.shard(number)
        with self._store.together() as pool:
            reading = pool.submit(read_manifest, self._store, self._batch, shard)
            looking = pool.submit(verified_block, self._store, self._model.name, self._batch, shard)
        found = looking.result()
        if found is None:
            raise StoreError(
                f"features of rows {shard.start} to {shard.stop} of batch {self._batch.name} are "
                "not those that were extracted: run the same command again to extract them anew"
            )
        return *found, reading.result()

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Name the shards that rows lie in, and which of each shard's rows they are."""
        size = self._batch.shard_rows
        for number in range(start // size, -(-stop // size)):
            first = number * size
            yield number, slice(max(start - first, 0), min(stop - first, size))

    def take(
        self, rows: NDArray[np.intp], taps: list[str]
    ) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.intp]]:
        """Read taps (k, d), and the classes (k,) as diagnosed, of some rows in rising order."""
        found: dict[str, list[NDArray[np.float32]]] = {tap: [] for tap in taps}
        classes: list[NDArray[np.intp]] = []
        numbers = np.unique(rows // self._batch.shard_rows).tolist()
        for number, (block, _, manifest) in zip(numbers, self.shards(numbers), strict=True):
            own = rows[rows // self._batch.shard_rows == number] - number * self._batch.shard_rows
            for tap in taps:
                found[tap].append(block.taps[tap][own])
            classes.append(judged_classes(block, manifest)[own])
        return (
            {tap: np.concatenate(parts) for tap, parts in found.items()},
            np.concatenate(classes),
        )


def judged_classes(block: FeatureBlock, manifest: pa.Table) -> NDArray[np.intp]:
    """Give the class (n,) that each cell is diagnosed as, -1 where it has no abnormality."""
    judged = (block.status == SCORED) & ~is_cut(manifest)
    logits = np.where(np.isnan(block.logits), -np.inf, block.logits)
    return np.where(judged, logits.argmax(axis=1), -1)


def _scorer(job: ScoreJob) -> "_Scorer":
    detector = load_detector_at(job.store, job.detector, job.site)
    return _Scorer(job, detector, Features(job.store, job.batch, job.model))


def _reference_of(
    features: Features,
    detector: Detector,
    rows: NDArray[np.intp],
    level: str,
    choices: Choices | None = None,
) -> Reference:
    assert detector.own is not None
    taps, classes = features.take(rows, detector.taps)
    normal = slide_normal(detector.own.priors, taps, classes, choices)
    return Reference(normal, rows[normal.kept], level if normal.level == "slide" else "population")


@dataclass
class _Scorer:
    """Makes the rows of a part, and then those of its slides."""

    job: ScoreJob
    detector: Detector
    features: Features
    references: dict[Range, Reference] = field(default_factory=dict)

    def rows(self) -> Iterator[pa.Table]:
        """Make image rows shard by shard, all but what needs the whole batch."""
        spans = self.job.spans
        pieces = list(self.features.pieces(spans[0].start, spans[-1].stop))
        shards = self.features.shards(number for number, _ in pieces)
        for (number, piece), (block, record, manifest) in zip(pieces, shards, strict=True):
            first = number * self.job.batch.shard_rows
            places = np.arange(piece.start, piece.stop)
            yield self._image_rows(block.take(places), record, manifest, first, piece)

    def _image_rows(
        self, block: FeatureBlock, record: ShardRecord, manifest: pa.Table, first: int, piece: slice
    ) -> pa.Table:
        card, detector = self.job.model, self.job.detector
        manifest = manifest.slice(piece.start, piece.stop - piece.start)
        failures = {
            f.row - piece.start: f"{f.reason}: {f.message}"
            for f in record.failures
            if piece.start <= f.row < piece.stop
        }
        rows = image_rows(
            manifest,
            ImagesRead(image_ids(block), block.size, block.colour, failures),
            Diagnoses(
                card.classes, adapted_logits(block.logits, card, self.job.site), card.temperature
            ),
            self._scores(block, manifest, first + piece.start),
            taps=self.detector.taps,
            rule=VerdictRule(detector.alpha, detector.uncertain_below),
            made_by=self._made_by(),
        )
        if PARASITIZED not in card.classes:
            return rows
        # Of the network itself, as those whose errors were counted.
        found = log_odds(block.logits, card.temperature, card.classes.index(PARASITIZED))
        return rows.append_column(LOG_ODDS, pa.array(found, pa.float64()))

    def _made_by(self) -> Provenance:
        job = self.job
        return provenance_of(job.batch, job.model.name, job.detector.name, job.scored_at, job.site)

    def _scores(self, block: FeatureBlock, manifest: pa.Table, start: int) -> Scores:
        """Score a block whose first row in the batch is ``start``."""
        scores = score(self.detector, block.taps)
        if self.detector.own is None:
            return scores
        classes = judged_classes(block, manifest)
        for span in self.job.spans:
            low, high = max(span.start, start), min(span.stop, start + len(block))
            reference = self._reference(span.reference) if low < high else None
            if reference is None:
                continue
            rows, own = np.arange(low, high), slice(low - start, high - start)
            deviations = standardised_distances(
                reference.normal,
                {tap: values[own] for tap, values in block.taps.items()},
                classes[own],
                np.isin(rows, reference.rows),
            )
            found = cell_scores(self.detector.own.calibration, reference.normal, deviations)
            scores.abnormality[own], scores.p_value[own] = found
            scores.compared_with[own] = reference.level
        return scores

    def _reference(self, wanted: Range | None) -> Reference | None:
        if wanted is None:
            return self.job.nearest
        if wanted not in self.references:
            start, stop, level = wanted
            rows = start + reference_rows(stop - start)
            found = (
                None if level == FEW else _reference_of(self.features, self.detector, rows, level)
            )
            # A slide whose cells mostly failed has no normal of its own, either.
            if found is None or found.level == "population":
                found = self._leaning(rows)
            self.references[wanted] = found
        return self.references[wanted]

    def _leaning(self, rows: NDArray[np.intp]) -> Reference:
        """Find what few cells are compared with: the site's, the night's or fitted ones."""
        own, nearest, fitted = self.detector.own, self.job.nearest, self._fitted
        assert own is not None
        if nearest is None or nearest.level == "site":
            return nearest or fitted
        taps, classes = self.features.take(rows, self.detector.taps)
        weighs = np.isin(rows, nearest.rows)
        nearer = is_nearer(own.calibration, nearest.normal, fitted.normal, taps, classes, weighs)
        return nearest if nearer else fitted

    @cached_property
    def _fitted(self) -> Reference:
        """Make the reference of cells of which nothing is known, once for all slides of the job."""
        assert self.detector.own is not None
        return Reference(population_normal(self.detector.own), np.zeros(0, np.intp), "population")

    def shifts(self) -> pa.Table:
        """Make a row for each slide: how far it is from what was fitted."""
        own = self.detector.own
        rows = []
        for slide in self.job.slides if own else ():
            if slide.slide is None:
                continue
            assert own is not None
            chosen = slide.start + reference_rows(slide.stop - slide.start)
            taps, classes = self.features.take(chosen, self.detector.taps)
            reference = self.references.get((slide.start, slide.stop, "slide"))
            kept = None if reference is None else np.isin(chosen, reference.rows)
            shift = slide_shift(own, taps, classes, kept)
            rows.append({"slide_id": slide.slide, "patient_id": slide.patient, **vars(shift)})
        return pa.Table.from_pylist(rows, SHIFTS)
