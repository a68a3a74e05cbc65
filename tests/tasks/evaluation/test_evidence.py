"""An evaluation sees of an image what a night sees of it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from tasks.detector.probabilities import Adaptation, log_odds
from tasks.detector.witnesses import Classes, Scales, Witnesses
from tasks.evaluation.evidence import gather_evidence, to_images
from tasks.evaluation.scored import diagnosis_of
from tasks.evaluation.treated import Evidence
from tasks.evaluation.treatments.attacks import Target
from tasks.images.platelets import PLATELET
from tasks.network.spec import NetworkSpec
from tests.support.laboratories import WIDTHS, detector, statistics_at
from tests.support.networks import drawn

IMAGES = 40


def test_suspected_cells_are_examined_for_platelets_in_every_batch(
    spec: NetworkSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = drawn(spec).requires_grad_(False)
    target = Target(classifier, replace(detector(), gaussians={}), 0.0)
    pixels = torch.rand(IMAGES, 3, 32, 32)
    logits = gather_evidence(pixels, target, odin=False).logits
    leads = logits[:, 0] - logits[:, 1]
    bright = np.asarray([image.mean() for image in to_images(pixels)])
    suspected, middle = float(np.median(leads)), float(np.median(bright))
    monkeypatch.setattr("tasks.network.extraction.SUSPECTED", suspected)
    monkeypatch.setattr("tasks.network.extraction.has_platelet", lambda p: p.mean() > middle)
    found = gather_evidence(pixels, target, odin=False).platelet
    assert found is not None
    assert 0 < found.sum() < IMAGES
    assert_array_equal(found, (leads > suspected) & (bright > middle))


def evidence(platelet: np.ndarray | None) -> Evidence:
    rng = np.random.default_rng(0)
    taps = {tap: rng.normal(size=(IMAGES, d)).astype(np.float32) for tap, d in WIDTHS.items()}
    logits, border = rng.normal(size=(IMAGES, 2)).astype(np.float32), np.zeros(IMAGES, np.float32)
    return Evidence(taps, logits, border, platelet=platelet)


def test_a_platelet_lowers_the_diagnosis_as_in_a_night_and_is_no_disagreement() -> None:
    slides = statistics_at(0, "first", 30).slides
    assert slides is not None
    known = Witnesses(0, Classes.of(slides, 0).discriminant(), Scales(*[Adaptation()] * 3))
    marked, leans = np.arange(IMAGES) % 3 == 0, np.linspace(-1, 1, IMAGES)
    without, disagree = diagnosis_of(evidence(None), known, 1.5, leans)
    lower, still = diagnosis_of(evidence(marked), known, 1.5, leans)
    fallen = log_odds(without, 1.5, 0) - log_odds(lower, 1.5, 0)
    assert_allclose(fallen, np.where(marked, PLATELET, 0.0), atol=1e-9)
    assert_array_equal(disagree, still)


def test_a_single_witness_is_the_network() -> None:
    only = evidence(None)
    logits, disagree = diagnosis_of(only, None, 1.5, np.zeros(IMAGES))
    assert_array_equal(logits, only.logits)
    assert not disagree.any()
