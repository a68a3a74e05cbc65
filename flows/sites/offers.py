"""Describe what a file from another store would change, before anybody accepts it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from flows.jobs.verified import adaptation_at, hearing, load_fitted_detector
from flows.sites.description import Offer
from flows.sites.incoming import Part, merged_parts
from storage.batches.features import SCORED, FeatureBlock
from storage.batches.known_features import verified_block
from storage.batches.ledger import Seal, list_seals
from storage.batches.manifests import Batch, list_batches, read_manifest
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard, list_detectors
from storage.models.sites import SiteCard
from storage.models.statistics import Lineage, load_moments
from storage.reports.tables import is_withdrawn
from storage.store import Store
from tasks.detector.detector import Detector, fit_gaussians, score
from tasks.detector.moments import ClassStatistics
from tasks.detector.probabilities import log_odds
from tasks.reports.image_columns import PARASITIZED
from tasks.sites.foreign_statistics import moved
from tasks.sites.learning import SiteNormal
from tasks.types import Float

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
    store: Store,
    path: str,
    signer: str | None,
    card: SiteCard,
    model: ModelCard,
    detector: DetectorCard,
    normal: SiteNormal,
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
        by = ", by the site's class statistics," if card.adaptation.statistics else ""
        would["diagnoses"] = (
            f"log-odds x of {PARASITIZED}{by} would become {scale:.3g} x + {bias:.3g}"
        )
        would["newest night"] = _diagnoses(store, card, model, detector, normal)
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
        for block, _ in _scored_cells(store, card, batch):
            cells += len(block)
            for place, each in enumerate((now, then)):
                beyond[place] += int((score(each, block.taps).p_value <= detector.alpha).sum())
        if cells:
            return (
                f"of {cells:,} cells of batch {batch.name}, {beyond[0]:,} are beyond the fitted "
                f"ones at {detector.alpha:g}, and {beyond[1]:,} would be by the present calibration"
            )
    return NONE_YET


def _diagnoses(
    store: Store, card: SiteCard, model: ModelCard, detector: DetectorCard, normal: SiteNormal
) -> str:
    """Count how a site would diagnose the newest night that was screened without one."""
    adaptation, fitted = adaptation_at(card), load_fitted_detector(store, detector)
    assert adaptation is not None
    for batch, seal in _published(store, model):
        if seal.site:
            continue
        cells, called = 0, [0, 0]
        for block, rows in _scored_cells(store, model, batch):
            before = _log_odds(fitted, model, block, rows)
            there = _log_odds(hearing(fitted, normal.discriminant), model, block, rows)
            cells += len(block)
            for place, found in enumerate((before, adaptation.of(there))):
                called[place] += int((found >= 0).sum())
        if cells:
            return (
                f"of {cells:,} cells of batch {batch.name}, {called[0]:,} are {PARASITIZED}, and "
                f"{called[1]:,} would be"
            )
    return NONE_YET


def _log_odds(detector: Detector, model: ModelCard, block: FeatureBlock, rows: pa.Table) -> Float:
    """Diagnose cells (n,) by all witnesses, relative to the cells that are read of their slide."""
    place = model.classes.index(PARASITIZED)
    found, known = log_odds(block.logits, model.temperature, place), detector.witnesses
    if known is None:
        return found
    pairs = zip(rows["patient_id"].to_pylist(), rows["slide_id"].to_pylist(), strict=True)
    slides = np.asarray([repr(pair) for pair in pairs])
    scores = known.discriminant.scores(block.taps)
    leans = known.discriminant.leans(scores, block.logits.argmax(axis=1) != place, slides)
    shifts = np.asarray([leans[slide] for slide in slides.tolist()])
    return known.scales.testify(found, scores - shifts).both


def _scored_cells(
    store: Store, model: ModelCard, batch: Batch
) -> Iterator[tuple[FeatureBlock, pa.Table]]:
    """Read cells of a night with their rows of the manifest, by shards, until there are `CELLS`."""
    cells = 0
    for shard in batch.shards():
        found = verified_block(store, model.name, batch, shard)
        if found is None or cells >= CELLS:  # None: removed, or damaged
            return
        scored = np.flatnonzero(found[0].status == SCORED)
        cells += len(scored)
        yield found[0].take(scored), read_manifest(store, batch, shard).take(scored)
