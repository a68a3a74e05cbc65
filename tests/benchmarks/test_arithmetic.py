"""Compare the forward pass in the arithmetic that `train` chooses here with that in float32.

A detector is fitted and calibrated in the arithmetic in which it screens, so what counts is not how
many verdicts differ under one detector, but how good each is under its own. That was measured by
nights: `README.md` has the figures.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from flows.jobs.networks import load_classifier
from flows.settings import Settings
from flows.stages.training.recipes import EXAMPLES
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.images.listing import list_images
from tasks.images.regions import image_refs
from tasks.network.conversion import in_int8, inference
from tasks.network.extraction import load_images
from tasks.network.inference import Inference, fastest_arithmetic, outputs_of
from tests.support.measuring import QUICK, Record, in_turn

IMAGES, ROUNDS = (64, 2) if QUICK else (512, 6)


@pytest.mark.benchmark
def test_the_forward_pass_in_the_chosen_arithmetic_beside_float32(
    cells: str, fitted: Settings, record: Record
) -> None:
    store = Store(fitted.store)
    classifier = load_classifier(store, load_card(store, load_detector_card(store).model))
    spec = classifier.spec
    refs = image_refs(list_images(cells, limit=IMAGES))
    loaded = load_images(refs, spec.side, threads=2)
    pixels = np.stack([each.pixels for each in loaded if each.pixels is not None])
    rows = np.arange(len(pixels))
    chosen, networks = fastest_arithmetic(), dict[str, Inference]()
    for arithmetic in ("float32", chosen):
        classifier.spec = replace(spec, arithmetic=arithmetic)
        graph = in_int8(classifier, pixels[:EXAMPLES]) if arithmetic == "int8" else None
        networks[arithmetic] = inference(classifier, graph)
    classifier.spec = spec

    def pass_of(name: str) -> Callable[[], object]:
        return lambda: outputs_of(networks[name], pixels, rows)

    taken = in_turn(ROUNDS, {name: pass_of(name) for name in networks})
    speeds = {name: [len(pixels) / s for s in seconds] for name, seconds in taken.items()}
    record(
        f"forward pass of one core in {chosen}, beside float32",
        "images/s",
        ours=speeds[chosen],
        rival=speeds["float32"],
        bound=1.0,
        higher_is_better=True,
    )
