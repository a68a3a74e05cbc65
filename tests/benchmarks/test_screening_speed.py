"""Screening from files to the published report, against the bare forward pass.

The limit is the same network in eager float32 on the same two threads, on images that are decoded
and in memory already. Screening reads, decodes, resizes, forwards, scores and writes.
"""

import statistics
import time
from datetime import date

import numpy as np
import pytest
import torch

from flows.cluster import open_client
from flows.screen import extract_and_score, publish
from flows.settings import Settings
from storage.batches import freeze_batch
from storage.detectors import load_detector_card
from storage.models import load_card
from storage.records import now
from storage.store import Store
from tasks.extract import load_images
from tasks.shard import load_classifier
from tasks.sources import list_images
from tasks.training import to_pixels

IMAGES, ROUNDS, WARM_UP = 4096, 3, 256


@pytest.mark.benchmark
def test_screening_speed_against_the_bare_forward_pass(cells: str, fitted: Settings) -> None:
    store = Store(fitted.store)
    detector = load_detector_card(store)
    card = load_card(store, detector.model)
    manifest = list_images(cells, limit=IMAGES)
    loaded = load_images(manifest["uri"].to_pylist(), card.network["side"], threads=2)
    pixels = np.stack([image.pixels for image in loaded if image.pixels is not None])
    classifier = load_classifier(store, card.name, card.digest)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)

    def bare(memory_format: torch.memory_format) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            for start in range(0, len(pixels), 256):
                batch = to_pixels(pixels[start : start + 256])
                classifier(batch.contiguous(memory_format=memory_format))
        return len(pixels) / (time.perf_counter() - started)

    with open_client(fitted) as client:

        def ours(name: str, rows: int) -> float:
            batch = freeze_batch(
                store,
                name,
                manifest.slice(0, rows),
                images=cells,
                limit=rows,
                shard_rows=fitted.shard_rows,
                batch_date=date(2026, 1, 1),
                started_at=now(),
            )
            started = time.perf_counter()
            extract_and_score.fn(client, store, batch, card, detector)
            seal = publish.fn(store, batch, card, detector)
            assert seal.scored == rows
            return rows / (time.perf_counter() - started)

        ours("warm-up", WARM_UP * 2 * 2)
        speeds: dict[str, list[float]] = {"eager": [], "channels-last": [], "screen": []}
        for number in range(ROUNDS):
            speeds["screen"].append(ours(f"round-{number}", manifest.num_rows))
            classifier.to(memory_format=torch.contiguous_format)
            speeds["eager"].append(bare(torch.contiguous_format))
            classifier.to(memory_format=torch.channels_last)
            speeds["channels-last"].append(bare(torch.channels_last))
    torch.set_num_threads(threads)
    median = {name: statistics.median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        print(f"\n{name:>14}: {median[name]:6.0f} images/s  ({min(values):.0f}-{max(values):.0f})")
    print(f"screen / eager bare forward pass: {median['screen'] / median['eager']:.2f}")
    print(f"screen / channels-last bare pass: {median['screen'] / median['channels-last']:.2f}")
