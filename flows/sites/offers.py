"""Describe what a file from another store would change, before anybody accepts it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from flows.jobs.detectors import load_fitted_detector
from flows.sites.incoming import Part, merged_parts
from flows.sites.outcome import Offer
from storage.batches.features import SCORED
from storage.batches.known_features import verified_block
from storage.batches.ledger import Seal, list_seals
from storage.batches.manifests import Batch, list_batches
from storage.models.classifiers import ModelCard
from storage.models.detectors import list_detectors
from storage.models.sites import SiteCard
from storage.models.statistics import Lineage, load_moments
from storage.parquet import read_table
from storage.reports.tables import is_withdrawn, report_path
from storage.store import Store, StoreError
from tasks.detector.detector import fit_gaussians, score
from tasks.detector.moments import ClassStatistics
from tasks.reports.columns import PARASITIZED
from tasks.sites.foreign_statistics import moved

CELLS = 5000  # of a night to score again, rounded up to whole shards
UNSIGNED = "nobody asked: this store has no federation/allowed_signers"
NONE_YET = "none was screened here yet that could be compared"


def offered_statistics(
    store: Store,
    path: str,
    signer: str | None,
    card: ModelCard,
    latest: Lineage,
    parts: Sequence[Part],
) -> Offer:
    """Describe what batches of another store would change in a model's statistics."""
    before = ClassStatistics.from_arrays(load_moments(store, latest))
    after = merged_parts(before, parts)
    now, then = before.n.sum(), after.n.sum()
    by_class = zip(card.classes, (after.n - before.n).tolist(), strict=True)
    moves = moved(before, after)
    tap = max(moves, key=lambda name: moves[name])
    would = {
        "signed by": signer or UNSIGNED,
        "batches": ", ".join(part.contribution.batch for part in parts),
        "add": ", ".join(f"{n:,.0f} {name}" for name, n in by_class),
        "share": f"{(then - now) / then:.1%} of {then:,.0f} cells would be of this file",
        "move": f"class means by up to {moves[tap]:.2f} deviations of cells (tap {tap})",
        "detector": "a new one would be calibrated, and nights would be screened with it",
        "newest night": _beyond(store, card, after),
    }
    return Offer(what=f"statistics of model {card.name}", file=path, would=would)


def offered_site(
    store: Store, path: str, signer: str | None, card: SiteCard, model: ModelCard
) -> Offer:
    """Describe a site of another store, and what it would change on the newest night."""
    would = {
        "signed by": signer or UNSIGNED,
        "nights": f"{len(card.nights)}, with {card.slides:,} slides and {card.cells:,} cells",
        "detector": card.detector,
        "called abnormal": f"{card.alarms_text}, as the file says",
        "abnormality": "cells would be compared with this site's normal",
    }
    if card.counting is not None:
        rate = card.counting.counting.false_positives
        would["counts"] = (
            f"{rate.mean:.3%} of healthy cells would be taken for counted, by {rate.slides} "
            "negative slides"
        )
    if card.adaptation is not None and card.adaptation.accepted:
        scale, bias = card.adaptation.scale, card.adaptation.bias
        would["diagnoses"] = f"log-odds x of {PARASITIZED} would become {scale:.3g} x + {bias:.3g}"
        would["newest night"] = _diagnoses(store, card, model)
    would["used by"] = "screen --site " + card.name + ", and no other night"
    return Offer(what=f"site {card.label}", file=path, would=would)


def _published(store: Store, model: ModelCard) -> Iterator[tuple[Batch, Seal]]:
    """Yield the nights that were screened with a model, newest first."""
    for batch in reversed(list_batches(store, on_damage=lambda _: None)):
        if is_withdrawn(store, batch.name, batch.batch_date):
            continue
        seals = list_seals(store, batch, lambda _: None)
        if seals and seals[-1].model == model.name:
            yield batch, seals[-1]


def _beyond(store: Store, card: ModelCard, after: ClassStatistics) -> str:
    """Count the newest night's cells beyond fitted ones: now, and with a file's statistics.

    Both use the present calibration; the new one is made after the file is accepted.
    """
    detectors = list_detectors(store, on_damage=lambda _: None)
    detector = [each for each in detectors if each.model_digest == card.digest][-1]
    now = load_fitted_detector(store, detector)
    then = replace(now, gaussians=fit_gaussians(after))
    for batch, _ in _published(store, card):
        cells, beyond = 0, [0, 0]
        for shard in batch.shards():
            found = verified_block(store, card.name, batch, shard)
            if found is None:  # removed, or damaged
                break
            scored = found[0].status == SCORED
            taps = {tap: values[scored] for tap, values in found[0].taps.items()}
            cells += int(scored.sum())
            for place, each in enumerate((now, then)):
                beyond[place] += int((score(each, taps).p_value <= detector.alpha).sum())
            if cells >= CELLS:
                break
        if cells:
            return (
                f"of {cells:,} cells of batch {batch.name}, {beyond[0]:,} are beyond the fitted "
                f"ones at {detector.alpha:g}, and {beyond[1]:,} would be by the present calibration"
            )
    return NONE_YET


def _diagnoses(store: Store, card: SiteCard, model: ModelCard) -> str:
    """Count how an adaptation would diagnose the newest night that was screened without one."""
    assert card.adaptation is not None
    column = f"first_probability_{PARASITIZED}"
    for batch, seal in _published(store, model):
        if seal.site:
            continue
        try:
            table = read_table(store, *report_path(batch.name, batch.batch_date), columns=[column])
        except (StoreError, KeyError, ValueError, OSError, pa.ArrowException):
            continue
        p = table[column].drop_null().to_numpy()
        p = np.clip(p, 1e-12, 1 - 1e-12)
        adapted = card.adaptation.scale * np.log(p / (1 - p)) + card.adaptation.bias
        before, after = int((p >= 0.5).sum()), int((adapted >= 0).sum())
        return (
            f"of batch {batch.name}, {before:,} of {len(p):,} cells are {PARASITIZED}, and "
            f"{after:,} would be"
        )
    return NONE_YET
