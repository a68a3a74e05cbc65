"""Look up and compute diagnoses by networks and statistics that have not seen a cell."""

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from flows.jobs.fitting.fitted_rows import read_rows, slides_of_version, without_rows
from storage.batches.features import FeatureBlock, image_ids
from storage.models.classifiers import ModelCard, load_out_of_fold
from storage.models.contributions import Rows
from storage.store import Store
from tasks import bundles
from tasks.detector.probabilities import log_odds
from tasks.detector.witnesses import discriminant
from tasks.reports.image_columns import PARASITIZED
from tasks.types import Float, Integers, Mask

HEAD = 32  # letters of a digest in hexadecimal: half of it, enough for a billion images


class Unseen(NamedTuple):
    """Log-odds (n,) of "parasitized" by networks, and scores (n,) of statistics; NaN: none."""

    network: Float
    statistics: Float


@dataclass(frozen=True)
class OutOfFold:
    """Diagnoses of images (n,) by folds: sorted heads of digests, and log-odds by each witness."""

    heads: NDArray[np.bytes_]
    network: Float
    statistics: Float

    def find(self, image_ids: list[str | None]) -> Unseen:
        """Look up images (m,) by their digests; NaN for missing ones."""
        if not len(self.heads):
            return Unseen(*np.full((2, len(image_ids)), np.nan))
        heads = np.asarray([(each or "")[:HEAD] for each in image_ids], f"S{HEAD}")
        places = np.minimum(np.searchsorted(self.heads, heads), len(self.heads) - 1)
        there = self.heads[places] == heads
        diagnoses = (self.network, self.statistics)
        return Unseen(*(np.where(there, values[places], np.nan) for values in diagnoses))


@lru_cache(maxsize=2)
def out_of_fold(store: Store, card: ModelCard) -> OutOfFold | None:
    """Read the folds' diagnoses of "parasitized"; None for a model without folds."""
    table = load_out_of_fold(store, card)
    if table is None:
        return None
    heads = np.asarray([each[:HEAD] for each in table["image_id"].to_pylist()], f"S{HEAD}")
    order = np.argsort(heads, kind="stable")
    # The log-odds are of the first class, which may be the other one.
    sign = 1.0 if card.classes[0] == PARASITIZED else -1.0
    network, statistics = (sign * table[name].to_numpy() for name in ("network", "statistics"))
    return OutOfFold(*(column[order] for column in (heads, network, statistics)))


def unseen(
    store: Store, card: ModelCard, rows: Rows, block: FeatureBlock, scores: Float | None = None
) -> Unseen:
    """Look up diagnoses of cells (n,) by the model, or a fold, where it was not trained on them.

    With ``scores`` (n,) of a discriminant of statistics without the cell's patient, the network of
    a fold counts only with its statistics.
    """
    odds = log_odds(block.logits, card.temperature, card.classes.index(PARASITIZED))
    keys = image_ids(block) if card.split_by == "image" else getattr(rows, f"{card.split_by}s")
    trained_on, folds = frozenset(card.split["train"]), out_of_fold(store, card)
    seen = np.asarray([key in trained_on for key in keys], bool)
    by_model = Unseen(
        *(np.where(seen, np.nan, each) for each in (odds, odds if scores is None else scores))
    )
    if folds is None:
        return by_model
    by_fold = folds.find(image_ids(block))
    there = np.isfinite(by_fold.network if scores is None else by_fold.statistics)
    return Unseen(*(np.where(there, *pair) for pair in zip(by_fold, by_model, strict=True)))


def key_of(patient: str | None, slide: str | None, batch: str) -> str:
    """Return the key of the group whose cells resemble each other: patient, slide or batch."""
    if patient is not None:
        return json.dumps(["patient", patient])
    return json.dumps(["batch", batch] if slide is None else ["slide", slide])


@dataclass(frozen=True)
class WitnessJob:
    """A patient with labelled cells; the rows ``fitted`` are in the statistics."""

    store: Store
    model: ModelCard
    version: int
    fitted: tuple[Rows, ...]
    held_out: tuple[Rows, ...]


@dataclass(frozen=True)
class Evidence:
    """The scores of two witnesses for cells (n,) that neither has seen.

    ``network`` are log-odds, ``scores`` a discriminant's without the patient, less the lean of the
    patient's cells; ``parasitized`` are labels, ``keys`` patients, ``sizes`` larger sides in
    pixels.
    """

    network: Float
    scores: Float
    parasitized: Mask
    keys: tuple[str, ...]
    sizes: Integers

    @classmethod
    def joined(cls, parts: list["Evidence"]) -> "Evidence":
        """Join the evidence of several patients, or of none."""
        none = cls(np.empty(0), np.empty(0), np.empty(0, bool), (), np.empty(0, np.int64))
        return bundles.join([none, *parts])


def unseen_evidence(job: WitnessJob) -> Evidence:
    """Compute the evidence of a patient's cells; of trained ones, by another fold's network.

    ValueError if the statistics without the patient have no discriminant.
    """
    card, place = job.model, job.model.classes.index(PARASITIZED)
    total = slides_of_version(job.store, card.name, job.version)
    fitted = [read_rows(job.store, card, part) for part in job.fitted]
    if fitted:
        total = without_rows(total, job.fitted, fitted)
    known = discriminant(total, place)
    parts = []
    held_out = (read_rows(job.store, card, part) for part in job.held_out)
    rows = (*job.fitted, *job.held_out)
    for part, block in zip(rows, chain(fitted, held_out), strict=True):
        scores = known.scores(block.taps)
        scores = scores - known.lean(scores, block.logits.argmax(axis=1) != place)
        network, scores = unseen(job.store, card, part, block, scores)
        chosen = np.flatnonzero(np.isfinite(network) & np.isfinite(scores))
        names = list(zip(part.patients, part.slides, strict=True))
        parts.append(
            Evidence(
                network[chosen],
                scores[chosen],
                np.asarray(block.label == place)[chosen],
                tuple(key_of(*names[row], part.batch) for row in chosen.tolist()),
                block.size.max(axis=1)[chosen],
            )
        )
    return Evidence.joined(parts)
