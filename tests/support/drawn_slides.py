"""Slides whose features are drawn, and a detector of such slides."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.batches import ledger
from storage.batches.features import SCORED, empty_block, write_block
from storage.models.classifiers import load_card
from storage.store import Store
from tasks.detector.calibration import Calibration
from tasks.detector.detector import Detector
from tasks.detector.mahalanobis import TiedGaussian
from tasks.detector.slides.groups import GroupKey
from tasks.images.manifest import SCHEMA
from tests.support.shards import Night, freeze_night
from tests.support.simulated import own_of

WIDTHS = {"layer1": 3, "layer2": 4}
MEANS = np.array([0.0, 3.0])  # of the classes, in every feature


def slide_cells(
    rng: np.random.Generator, n: int, shift: float
) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Taps (n, d) of cells of a slide ``shift`` from the population, and their classes."""
    classes = rng.integers(0, 2, n)
    taps = {
        tap: (MEANS[classes][:, None] + shift + rng.normal(0, 1, (n, d))).astype(np.float32)
        for tap, d in WIDTHS.items()
    }
    return taps, classes


def fitted_detector(rng: np.random.Generator) -> Detector:
    """A detector fitted on a dozen slides that differ by a deviation of 1."""
    slides = [slide_cells(rng, 80, rng.normal(0, 1)) for _ in range(12)]
    own = own_of(slides, [GroupKey("", f"p{number}", "") for number in range(12)])
    gaussians = {
        tap: TiedGaussian(np.repeat(MEANS[:, None], d, axis=1), np.eye(d), 0.0)
        for tap, d in WIDTHS.items()
    }
    population = Calibration(np.zeros(2), np.ones(2), np.arange(5.0), np.full(5, 0.2))
    return Detector(gaussians, population, own)


def made_up(
    store: Store, slides: list[tuple[str | None, str | None, int, float]], shard_rows: int = 64
) -> Night:
    """A night whose features are drawn: of each slide its patient, name, cells and shift.

    Every twentieth cell of a slide, from its fifth on, is far from all others.
    """
    rng, card = np.random.default_rng(7), load_card(store, "tiny")
    card = card.model_copy(update={"tap_widths": WIDTHS})
    taps: dict[str, list[np.ndarray]] = {tap: [] for tap in WIDTHS}
    classes, names = [], []
    for patient, slide, n, shift in slides:
        found, own = slide_cells(rng, n, shift)
        for tap, values in found.items():
            values[5::20] += 12
            taps[tap].append(values)
        classes.append(own)
        names += [(patient, slide)] * n
    rows = [
        {"uri": f"file:///{number:06d}.png", "patient_id": patient, "slide_id": slide}
        for number, (patient, slide) in enumerate(names)
    ]
    manifest = pa.Table.from_pylist(rows, SCHEMA)
    night = freeze_night(store, manifest, "night", card, shard_rows)
    whole = {tap: np.concatenate(parts) for tap, parts in taps.items()}
    diagnosed = np.eye(2, dtype=np.float32)[np.concatenate(classes)]
    for shard in night.batch.shards():
        here, n = slice(shard.start, shard.stop), shard.stop - shard.start
        block = empty_block(n, WIDTHS, 2)
        for tap, values in whole.items():
            block.taps[tap][:] = values[here]
        block.logits[:], block.status[:] = diagnosed[here], SCORED
        block.image_id[:, 0] = 1
        block.size[:] = 64
        digest = write_block(store, "tiny", "night", shard.start, block)
        ledger.write_shard_record(store, night.batch, "tiny", ledger.ShardRecord(
            shard=shard.number, start=shard.start, stop=shard.stop, scored=n, failures=[], tries=1,
            digest=digest, versions={},
        ))  # fmt: skip
    return night
