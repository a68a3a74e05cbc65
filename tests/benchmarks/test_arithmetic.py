"""The forward pass in bfloat16, where the processor has it, against float32: why it is not used.

It is twice as fast, and moves features by more than a detector's levels allow: verdicts would
depend on which processor a worker has.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flows.jobs.detectors import load_fitted_detector
from flows.jobs.networks import load_classifier
from flows.settings import Settings
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.detector.detector import score
from tasks.images.listing import list_images
from tasks.images.regions import image_refs
from tasks.network import inference
from tasks.network.classifier import Outputs
from tasks.network.features import load_images
from tasks.network.folding import folded
from tests.support.measuring import QUICK, Record, in_turn

Run = Callable[[NDArray[np.uint8]], Outputs]
IMAGES, TIMED, ROUNDS, BATCH = (256, 64, 2, 32) if QUICK else (8000, 512, 6, 32)


def in_batches(run: Run, pixels: NDArray[np.uint8]) -> Outputs:
    """Taps and logits of all images."""
    parts = [run(pixels[start : start + BATCH]) for start in range(0, len(pixels), BATCH)]
    taps = {name: torch.cat([found[name] for found, _ in parts]) for name in parts[0][0]}
    return taps, torch.cat([logits for _, logits in parts])


@pytest.mark.benchmark
def test_bfloat16_is_faster_and_changes_verdicts(
    cells: str, fitted: Settings, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(fitted.store)
    detector_card = load_detector_card(store)
    card = load_card(store, detector_card.model)
    detector = load_fitted_detector(store, detector_card)
    classifier = load_classifier(store, card)
    manifest = list_images(cells, limit=IMAGES)
    side = classifier.spec.side
    loaded = load_images(image_refs(manifest), side, threads=2)
    pixels = np.stack([each.pixels for each in loaded if each.pixels is not None])
    network = inference._FromPixels(folded(classifier))
    exact = inference._on_processor(network)
    monkeypatch.setitem(inference._ON_PROCESSOR, "INFERENCE_PRECISION_HINT", "bf16")
    coarse = inference._on_processor(network)
    taken = in_turn(
        ROUNDS,
        {
            "float32": lambda: in_batches(exact, pixels[:TIMED]),
            "bfloat16": lambda: in_batches(coarse, pixels[:TIMED]),
        },
    )
    speeds = {name: [TIMED / s for s in seconds] for name, seconds in taken.items()}
    record(
        "forward pass of one core, beside bfloat16",
        "images/s",
        ours=speeds["float32"],
        rival=speeds["bfloat16"],
        higher_is_better=True,
    )
    verdicts = []
    for run in (exact, coarse):
        taps, logits = in_batches(run, pixels)
        scores = score(detector, {name: values.numpy() for name, values in taps.items()})
        verdicts.append(
            np.column_stack([logits.argmax(dim=1), scores.p_value < detector_card.alpha])
        )
    changed = (verdicts[0] != verdicts[1]).any(axis=1)
    name = f"verdicts that bfloat16 changes, of {len(pixels)}"
    record(name, "images", ours=[float(changed.sum())])
    if torch.cpu._is_avx512_bf16_supported() and not QUICK:
        assert changed.any(), "bfloat16 changes no verdict here: it may be used"
