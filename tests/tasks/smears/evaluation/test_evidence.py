"""An evaluation sees of an image what a night sees of it."""

import numpy as np
from numpy.testing import assert_array_equal

from tasks.smears.evaluation.scored import diagnosis_of
from tasks.smears.evaluation.treated import Evidence
from tests.support.laboratories import WIDTHS

IMAGES = 40


def evidence() -> Evidence:
    rng = np.random.default_rng(0)
    taps = {tap: rng.normal(size=(IMAGES, d)).astype(np.float32) for tap, d in WIDTHS.items()}
    logits, border = rng.normal(size=(IMAGES, 2)).astype(np.float32), np.zeros(IMAGES, np.float32)
    return Evidence(taps, logits, border)


def test_a_single_witness_is_the_network() -> None:
    only = evidence()
    logits, disagree = diagnosis_of(only, None, 1.5, np.zeros(IMAGES))
    assert_array_equal(logits, only.logits)
    assert not disagree.any()
