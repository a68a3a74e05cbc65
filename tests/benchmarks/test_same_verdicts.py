"""What is fast says the same: scores and verdicts of real cells beside those of plain PyTorch."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest
import torch

from flows.jobs.networks import load_classifier
from flows.jobs.verified import load_detector
from flows.settings import Settings
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.detector.detector import score
from tasks.detector.verdict import VerdictRule
from tasks.images.listing import list_images
from tasks.images.regions import image_refs
from tasks.network.classifier import to_pixels
from tasks.network.conversion import inference
from tasks.network.extraction import extract
from tasks.network.spec import Computed
from tasks.reports.image_columns import Provenance
from tasks.reports.image_rows import Diagnoses, ImagesRead, image_rows
from tests.support.measuring import QUICK, Record
from tests.support.networks import StandIn

IMAGES = 256 if QUICK else 5000
TOLERANCE = 1e-3  # of the abnormality, which counts deviations over calibration patients


@pytest.mark.benchmark
def test_scores_and_verdicts_are_those_of_the_plain_network(
    cells: str, fitted: Settings, record: Record
) -> None:
    store = Store(fitted.store)
    detector_card = load_detector_card(store)
    card = load_card(store, detector_card.model)
    detector = load_detector(store, detector_card)
    classifier = load_classifier(store, card)
    classifier.spec = replace(classifier.spec, arithmetic="float32")
    manifest = list_images(cells, limit=IMAGES)
    network = inference(classifier)

    def plain(pixels: np.ndarray) -> Callable[[], Computed]:
        with torch.inference_mode():
            taps, logits = classifier.features(to_pixels(pixels))
        return lambda: ({tap: values.numpy() for tap, values in taps.items()}, logits.numpy())

    rows = []
    for each in (network, replace(network, device=StandIn(plain))):
        features = extract(each, image_refs(manifest), tap_widths=card.tap_widths)
        rows.append(
            image_rows(
                manifest,
                ImagesRead(
                    [image.image_id.hex() for image in features.images if image.image_id],
                    np.asarray([image.size for image in features.images]),
                    np.full((len(features.images), 3), np.nan, np.float32),
                    {},
                ),
                Diagnoses(card.classes, features.logits, card.temperature, features.steady),
                score(detector, features.taps),
                taps=detector.taps,
                rule=VerdictRule(detector_card.alpha, detector_card.uncertain_below),
                made_by=Provenance("m", "d", "b", date(2026, 1, 31), datetime.now(UTC)),
            )
        )
    ours, wanted = rows
    # A p-value moves in steps, the weight of a calibration image.
    for column in ("abnormality", f"probability_{card.classes[0]}"):
        apart = np.abs(ours[column].to_numpy() - wanted[column].to_numpy())
        record(f"largest difference of {column}", "", ours=[float(apart.max())], limit=TOLERANCE)
        assert apart.max() < TOLERANCE
    changed = [
        sum(a != b for a, b in zip(ours[c].to_pylist(), wanted[c].to_pylist(), strict=True))
        for c in ("diagnosis", "abnormal", "verdict", "review_reason")
    ]
    record(f"verdicts that changed, of {IMAGES}", "images", ours=[float(sum(changed))], limit=0)
    assert changed == [0, 0, 0, 0]
