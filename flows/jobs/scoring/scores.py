"""Score cells against their references, on workers, from features checked against the ledger."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.jobs import verified
from flows.jobs.scoring.feature_rows import Held, HeldFeatures
from flows.jobs.scoring.night import (
    Compared,
    NightJob,
    NightReference,
    compared_with,
    describe_night,
    shift_row,
    taps_of,
)
from flows.jobs.scoring.plan import FEW, Part, Range
from flows.jobs.scoring.screened import Screened
from storage.batches.features import FeatureBlock, image_ids
from storage.batches.ledger import scores_path, shifts_path
from storage.parquet import ROWS, groups_of, read_table, write_parts, write_table
from tasks import bundles
from tasks.detector import verdict
from tasks.detector.detector import Detector, score
from tasks.detector.probabilities import as_logits, log_odds
from tasks.detector.slides import night_smears
from tasks.detector.slides.cell_score import CellFeatures
from tasks.detector.slides.groups import reference_rows
from tasks.detector.slides.references import (
    CellScores,
    Reference,
    alone,
    most_ordinary,
    references_of,
    score_cells,
)
from tasks.detector.witnesses import Discriminant, LogOdds
from tasks.reports.image_columns import PARASITIZED, SHIFTS, Provenance, heads_of, numbers_of
from tasks.reports.image_rows import Diagnoses, ImagesRead, image_rows
from tasks.types import Float, Numbers

COMPARED = ["image_id", "p_value"]  # across the batch


@dataclass(frozen=True)
class ScoreJob:
    """A part of a batch to be scored, or only read if it ``is_scored``.

    ``night`` is the reference for slides and patients with too few cells, if there are any. A
    ``discriminant`` is the second witness's, where it is not the detector's.
    """

    screened: Screened
    part: Part
    scored_at: datetime
    night: NightReference | None = None
    discriminant: Discriminant | None = None
    is_scored: bool = False


def scored_rows(job: ScoreJob) -> Iterator[pa.Table]:
    """Score a part's cells without writing anything."""
    return _scorer(job).rows()


class Surveyed(NamedTuple):
    """Hold p-values (n,) and heads (n,) of digests of some rows, for comparison with all others."""

    rows: range
    p_values: Float
    heads: NDArray[np.uint64]

    @classmethod
    def of(cls, rows: range, tables: Sequence[pa.Table]) -> "Surveyed":
        """Take it from the scored rows of a part."""
        p_values = [numbers_of(table, "p_value") for table in tables]
        ids = [chunk for table in tables for chunk in table["image_id"].chunks]
        return cls(rows, np.concatenate(p_values), heads_of(pa.concat_arrays(ids)))


def score_part(job: ScoreJob) -> Surveyed:
    """Score a part's cells and slides, unless that is done."""
    store, part = job.screened.store, (job.screened.batch, job.screened.key, job.part.rows)
    if job.is_scored:
        table = read_table(store, *scores_path(*part), columns=COMPARED)
        return Surveyed.of(job.part.rows, [table])
    scorer, compared = _scorer(job), list[pa.Table]()

    def groups() -> Iterator[pa.Table]:
        # Shards' pieces are joined: whoever reads the rows spends time on each piece.
        for group in groups_of(chain([first], rows), ROWS):
            compared.append(group.select(COMPARED))
            yield group

    rows = scorer.rows()
    first = next(rows)
    write_parts(store, first.schema, groups(), *scores_path(*part))
    # The shifts come last: they mark the part as complete.
    write_table(store, scorer.shifts(), *shifts_path(*part))
    return Surveyed.of(job.part.rows, compared)


def _scorer(job: ScoreJob) -> "_Scorer":
    screened = job.screened
    detector = verified.load_detector(screened.store, screened.detector)
    features = HeldFeatures(screened.store, screened.batch, screened.model)
    return _Scorer(job, verified.with_discriminant(detector, job.discriminant), features)


@dataclass
class _Scorer:
    job: ScoreJob
    detector: Detector
    features: HeldFeatures
    compared: dict[Range, Compared] = field(default_factory=dict)

    def rows(self) -> Iterator[pa.Table]:
        """Make image rows shard by shard, without the columns that need the whole batch."""
        rows = self.job.part.rows
        pieces = list(self.features.pieces(rows.start, rows.stop))
        shards = self.features.shards(number for number, _ in pieces)
        for (number, piece), held in zip(pieces, shards, strict=True):
            first = number * self.job.screened.batch.shard_rows
            yield self._image_rows(held, first, piece)

    def _image_rows(self, held: Held, first: int, piece: slice) -> pa.Table:
        card, detector = self.job.screened.model, self.job.screened.detector
        batch = self.job.screened.batch
        block = held.block.take(np.arange(piece.start, piece.stop))
        manifest = held.manifest.slice(piece.start, piece.stop - piece.start)
        failures = {
            f.row - piece.start: f"{f.reason}: {f.message}"
            for f in held.record.failures
            if piece.start <= f.row < piece.stop
        }
        scores, lean = score(self.detector, block.taps), np.zeros(len(block))
        if self.detector.own is not None:
            taps = {tap: block.taps[tap] for tap in self.detector.taps}
            rows = np.arange(first + piece.start, first + piece.stop)
            by_reference, lean = self._own_scores(CellFeatures(taps, held.classes[piece], rows))
            scores = scores.compared(by_reference)
        odds, by_witness = self._diagnosed(block, lean)
        logits: Numbers = block.logits
        if odds is not None and len(card.classes) == 2:
            logits = as_logits(odds, card.temperature, card.classes.index(PARASITIZED))
        return image_rows(
            manifest,
            ImagesRead(image_ids(block), block.size, block.colour, failures),
            Diagnoses(
                card.classes,
                verified.adapted_logits(logits, card, detector),
                card.temperature,
                block.steady,
                odds,
                by_witness,
            ),
            scores,
            taps=self.detector.taps,
            rule=verdict.VerdictRule(detector.alpha, detector.uncertain_below),
            made_by=Provenance(
                card.name, detector.name, batch.name, batch.batch_date, self.job.scored_at
            ),
        )

    def _diagnosed(self, block: FeatureBlock, lean: Float) -> tuple[Float | None, LogOdds | None]:
        """Compute log-odds (n,) of "parasitized", and those of each of two witnesses."""
        card, witnesses = self.job.screened.model, self.detector.witnesses
        if PARASITIZED not in card.classes:
            return None, None
        odds = log_odds(block.logits, card.temperature, card.classes.index(PARASITIZED))
        if witnesses is None:
            return odds, None
        scores = witnesses.discriminant.scores(block.taps) - lean
        by_witness = witnesses.scales.combine(odds, scores)
        return by_witness.both, by_witness

    def _own_scores(self, cells: CellFeatures) -> tuple[CellScores, Float]:
        """Score cells (n,) by their references; a lean (n,) is the excess of healthy neighbours."""
        own, fitted = self.detector.own, self.detector.fallback
        assert own is not None
        scores, leans = list[CellScores](), list[Float]()
        for span in self.job.part.spans:
            here = np.flatnonzero((cells.rows >= span.start) & (cells.rows < span.stop))
            if len(here):
                some, compared = bundles.take(cells, here), self._compared(span.reference)
                scores.append(score_cells(own, compared.references, fitted, some))
                leans.append(np.asarray(compared.leans)[scores[-1].part])
        return bundles.join(scores), np.concatenate(leans)

    def _compared(self, wanted: Range | None) -> Compared:
        if wanted is None:
            return self._night
        if wanted not in self.compared:
            start, stop, level = wanted
            rows = start + reference_rows(stop - start)
            normals = self.detector.own
            assert normals is not None
            cells = self.features.take(rows, taps_of(self.detector))
            references, parent = None, 0.0
            if level != FEW:
                references = references_of(normals, cells, level, night_smears.ONE_SLIDE)
            # A slide whose cells mostly failed has no normal of its own either.
            if references is None or not references.own:
                reference, parent = self._leaning(cells)
                references = alone(reference)
            self.compared[wanted] = compared_with(self.detector, references, cells, parent)
        return self.compared[wanted]

    def _leaning(self, cells: CellFeatures) -> tuple[Reference, float]:
        """Find the reference for few cells: the detector's own, the night's or the fitted one."""
        known = self._night.known
        if self.detector.reference is not None or not known:
            return self.detector.fallback, self._night.leans[0]
        assert self.detector.own is not None
        candidates = [*known, (self.detector.fallback, 0.0)]
        chosen = most_ordinary(self.detector.own, [each for each, _ in candidates], cells)
        return candidates[chosen]

    @cached_property
    def _night(self) -> Compared:
        """Find the night's reference, here if only a slide whose cells mostly failed needs it."""
        job = self.job
        night = job.night or describe_night(NightJob(job.screened, discriminant=job.discriminant))
        return night.compared

    def shifts(self) -> pa.Table:
        """Make a row for each slide: its distance from the fitted slides, and from any smear."""
        normals = self.detector.own
        rows = []
        for slide in self.job.part.slides if normals else ():
            if slide.slide is None:
                if slide.patient is None and self.job.night and self.job.night.unnamed:
                    rows.append(self.job.night.unnamed)
                continue
            assert normals is not None
            chosen = slide.start + reference_rows(slide.stop - slide.start)
            cells = self.features.take(chosen, self.detector.taps)
            wanted = slide.start, slide.stop, "slide"
            compared = self.compared.get(wanted)
            group = compared.references if compared else None
            kept = None
            if group is not None and group.own:
                kept = np.isin(chosen, group.rows) if group.known else None
            else:
                group = references_of(normals, cells, "slide", night_smears.ONE_SLIDE)
            rows.append(shift_row(normals, slide, cells, kept, group))
        return pa.Table.from_pylist(rows, SHIFTS)
