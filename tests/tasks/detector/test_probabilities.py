import numpy as np
from numpy.testing import assert_allclose

from tasks.detector.probabilities import probabilities


def test_probabilities_are_the_softmax_of_tempered_logits() -> None:
    logits = np.float32([[1, 0, -2], [3, 3, 3]])
    powers = np.exp(np.float64(logits) / 1.7)
    assert_allclose(probabilities(logits, 1.7), powers / powers.sum(axis=1)[:, None], rtol=1e-12)


def test_large_logits_overflow_nowhere_and_missing_ones_stay_missing() -> None:
    found = probabilities(np.float32([[4000, 0], [np.nan, 0]]), 0.05)
    assert_allclose(found[0], [1, 0])
    assert np.isnan(found[1]).all()
