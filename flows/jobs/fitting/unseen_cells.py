"""Compute the scores of both witnesses for a patient's cells that neither has seen."""

from dataclasses import dataclass
from itertools import chain

import numpy as np

from flows.jobs.fitting.fitted_rows import read_rows, slides_of_version, without_rows
from flows.jobs.fitting.unseen import key_of, unseen
from storage.models import classifiers, contributions
from storage.store import Store
from tasks import bundles, types
from tasks.detector.witnesses import discriminant
from tasks.reports.image_columns import PARASITIZED


@dataclass(frozen=True)
class WitnessJob:
    """A patient with labelled cells; the rows ``fitted`` are in the statistics."""

    store: Store
    model: classifiers.ModelCard
    version: int
    fitted: tuple[contributions.Rows, ...]
    held_out: tuple[contributions.Rows, ...]


@dataclass(frozen=True)
class Evidence:
    """The scores of two witnesses for cells (n,) that neither has seen.

    ``network`` are log-odds, ``scores`` a discriminant's without the patient, less the lean of the
    patient's cells; ``parasitized`` are labels, ``keys`` patients, ``sizes`` larger sides in
    pixels.
    """

    network: types.Float
    scores: types.Float
    parasitized: types.Mask
    keys: tuple[str, ...]
    sizes: types.Integers

    @classmethod
    def none(cls) -> "Evidence":
        """Make empty evidence."""
        return cls(np.empty(0), np.empty(0), np.empty(0, bool), (), np.empty(0, np.int64))

    @classmethod
    def joined(cls, parts: list["Evidence"]) -> "Evidence":
        """Join the evidence of several patients."""
        return bundles.join([cls.none(), *parts])


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
