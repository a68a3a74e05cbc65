"""Say on a page by what it was made, and which command makes it again."""

import shlex

from flows.jobs.libraries import OF_A_PAGE, exact
from flows.jobs.scoring.screened import Screened
from flows.settings import Settings
from storage.batches import manifests
from storage.batches.ledger import Seal
from storage.models import detectors
from storage.smears import segmentations
from storage.store import Store
from tasks.images.listing import each_source, named
from tasks.words import counted


def made_by(screened: Screened, seal: Seal) -> dict[str, str]:
    """State from what a report was made: images, model, detector, and versions."""
    store, batch, card, detector = screened.store, screened.batch, screened.model, screened.detector
    learned, adaptation = detector.learned, detector.adaptation
    said = {
        "images": named(segmentations.sources_of(store, batch)),
        "scored": f"{seal.scored_at:%Y-%m-%d %H:%M} UTC",
        "model": f"{card.name} in {card.arithmetic}, sha256 {card.digest}",
        "tuning": card.tuning and f"sha256 {card.tuning}",
        "detector": f"{detector.name}, sha256 {detector.digest}",
        "calibration": f"{detector.calibrating_images:,} images of "
        f"{detector.calibrating_groups:,} {detector.calibrated_by}s, alpha {detector.alpha}",
        "counting": detector.counting and _counting(detector.counting),
        "the detector says": "; ".join(detector.warnings),
        "learned": learned and f"{counted(len(learned.nights), 'batch')}, from {detector.parent}",
        "diagnosis": adaptation and adaptation.text,
        "manifest": f"{batch.rows:,} images, sha256 {batch.manifest_digest}",
        "report": f"{seal.report}, sha256 {seal.report_digest}",
        "versions": ", ".join(f"{name} {number}" for name, number in exact(OF_A_PAGE).items()),
    }
    return {name: text for name, text in said.items() if text}


def _counting(card: detectors.CountingCard) -> str:
    used = card.counting
    limit = used.limit_of_detection
    return (
        f"on known slides a cell counts from log-odds {used.log_odds:g} on, where parasites "
        f"are many from {card.dense.log_odds:g} on: sensitivity {used.sensitivity.mean:.1%}, false "
        f"positives {used.false_positives.mean:.3%} "
        f"(deviation between patients {used.false_positives.deviation:.3%}), of "
        f"{used.false_positives.slides} patients or slides; limit of detection of {card.cells:,} "
        f"cells {'none' if limit is None else f'{limit:.2%}'}"
    )


def command(settings: Settings, store: Store, batch: manifests.Batch, seal: Seal) -> str:
    """Return the command that screens the batch again."""
    words, made = ["slidewatch", "screen"], segmentations.segmentation_for(store, batch)
    for source in each_source(segmentations.sources_of(store, batch)):
        words += ["--images", source]
    if made:
        words += ["--as", made.taken_as] if made.taken_as else []
        words += ["--slide-is", made.slide_is] if made.slide_is != "folder" else []
        scale = made.cutting.microns_per_pixel
        words += ["--microns-per-pixel", f"{scale:g}"] if scale else []
    words += ["--store", settings.store]
    words += ["--batch", batch.name, "--date", batch.batch_date.isoformat()]
    words += ["--detector", seal.detector]
    limit = made.limit if made else batch.limit
    words += ["--limit", str(limit)] if limit else []
    return shlex.join(words)
