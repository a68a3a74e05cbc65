"""Screening from files to the published report, against the bare forward pass.

The rival is the same network in eager float32 on both threads, on images that are decoded and in
memory already, 256 at a time: in a process of its own, as a user would write it, and in one that
keeps the memory it frees, as slidewatch's do. Screening reads, decodes, resizes, runs the network,
scores and writes. The bound is what both workers do at once, on the cores that they share, if there
is nothing but decoding, and then nothing but the forward pass that screening itself uses. Decoding
includes reading from the archive, digests and colours; Pillow decodes what is in memory.
"""

import io
import multiprocessing
import time
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flows.cluster.client import open_client
from flows.jobs.networks import load_classifier, load_inference
from flows.jobs.worker import keep_freed_memory
from flows.settings import Settings
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.images.access.files import read_bytes
from tasks.images.listing import list_images
from tasks.network.classifier import to_pixels
from tasks.network.extraction import load_images
from tests.support.images import whole_file
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.screening import screen_anew

IMAGES, ROUNDS, ALONE = (256, 2, 64) if QUICK else (4096, 3, 1024)


def bare(
    settings: Settings, pixels: Path, memory_format: torch.memory_format, *, keep: bool
) -> float:
    """Seconds of a pass over images with no more than PyTorch."""
    torch.set_num_threads(2)
    if keep:
        keep_freed_memory()
    store = Store(settings.store)
    card = load_card(store, load_detector_card(store).model)
    classifier = load_classifier(store, card)
    classifier.to(memory_format=memory_format)  # type: ignore[call-overload]
    images = np.load(pixels)
    started = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(images), 256):
            batch = to_pixels(images[start : start + 256])
            classifier(batch.contiguous(memory_format=memory_format))
    return time.perf_counter() - started


def decoding(uris: list[str], side: int) -> float:
    """Decode images on one core; returns images a second."""
    started = time.perf_counter()
    deque(load_images([whole_file(uri) for uri in uris], side, threads=1), maxlen=0)
    return len(uris) / (time.perf_counter() - started)


def passing(settings: Settings, pixels: Path) -> float:
    """Run the network on images in memory, on one core; returns images a second."""
    store = Store(settings.store)
    network = load_inference(store, load_card(store, load_detector_card(store).model))
    images = np.load(pixels)[:ALONE]
    network.run(images[: network.device.batch])
    started = time.perf_counter()
    for start in range(0, len(images), network.device.batch):
        network.run(images[start : start + network.device.batch])
    return len(images) / (time.perf_counter() - started)


@pytest.mark.benchmark
def test_screening_speed_against_the_bare_forward_pass(
    cells: str, fitted: Settings, record: Record, tmp_path: Path
) -> None:
    store = Store(fitted.store)
    card = load_card(store, load_detector_card(store).model)
    manifest = list_images(cells, limit=IMAGES)
    side = card.network["side"]
    refs = [whole_file(uri) for uri in manifest["uri"].to_pylist()]
    loaded = load_images(refs, side, threads=2)
    pixels = np.stack([image.pixels for image in loaded if image.pixels is not None])
    np.save(tmp_path / "pixels.npy", pixels)
    # Spread over all, for the first patients' images are smaller than most.
    uris = [ref.source for ref in refs[:: len(refs) // ALONE]][:ALONE]
    contents = [read_bytes(uri) for uri in uris]

    def pillow() -> float:
        started = time.process_time()
        for content in contents:
            image = Image.open(io.BytesIO(content)).convert("RGB")
            np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
        return time.process_time() - started

    def decode() -> float:
        started = time.process_time()
        decoding(uris, side)
        return time.process_time() - started

    bounds: list[float] = []
    own = partial(ProcessPoolExecutor, 1, multiprocessing.get_context("spawn"))
    with open_client(fitted) as client, own() as plain, own() as keeping:

        def screen() -> None:
            screen_anew(client, fitted, manifest, "bare")

        def bound() -> None:
            both = (
                sum(client.run(decoding, uris, side).values()),
                sum(client.run(passing, fitted, tmp_path / "pixels.npy").values()),
            )
            bounds.append(1 / sum(1 / each for each in both))

        def rival(pool: ProcessPoolExecutor, memory_format: torch.memory_format) -> float:
            keep = pool is keeping
            return pool.submit(
                bare, fitted, tmp_path / "pixels.npy", memory_format, keep=keep
            ).result()

        screen()
        taken = in_turn(
            ROUNDS,
            {
                "screen": screen,
                "eager": lambda: rival(plain, torch.contiguous_format),
                "eager, keeping memory": lambda: rival(keeping, torch.contiguous_format),
                "channels-last, keeping memory": lambda: rival(keeping, torch.channels_last),
                "bound": bound,
                "decode": decode,
                "Pillow": pillow,
            },
        )
    speed = {
        name: [(ALONE if name in ("decode", "Pillow") else len(pixels)) / each for each in seconds]
        for name, seconds in taken.items()
    }
    for name, least in (
        ("eager", 1.0),
        ("eager, keeping memory", 1.0),
        ("channels-last, keeping memory", 0.6),
    ):
        record(
            f"screen, against the bare pass, {name}",
            "images/s",
            ours=speed["screen"],
            rival=speed[name],
            bound=least,
            higher_is_better=True,
        )
    record(
        "decode alone, one core",
        "images/s",
        ours=speed["decode"],
        rival=speed["Pillow"],
        bound=0.8,
        higher_is_better=True,
    )
    record(
        "screen, against the bound of both cores",
        "images/s",
        ours=speed["screen"],
        rival=bounds,
        bound=0.5,
        higher_is_better=True,
    )
