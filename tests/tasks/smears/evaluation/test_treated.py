from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tasks.bundles import join, take
from tasks.smears.evaluation.treated import (
    CLEAN,
    ImageEvidence,
    TreatedImages,
    Treatment,
)
from tasks.smears.evaluation.treatments.attacks import STRENGTHS
from tasks.smears.evaluation.treatments.corruptions import CORRUPTIONS

RNG = np.random.default_rng(0)


def some(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def evidence(n: int) -> ImageEvidence:
    taps = {"blocks.2": some(n, 3), "penultimate": some(n, 4)}
    return ImageEvidence(taps, some(n, 2), some(n), some(n, 2))


def test_a_shard_without_one_good_image_has_no_forms() -> None:
    empty = TreatedImages(np.empty(0, np.int64), np.empty((0, 32), np.uint8), np.empty(0, np.int8))
    again = TreatedImages.from_arrays(empty.to_arrays())
    assert again.forms == {}


@pytest.mark.parametrize("cuts", [[2], [1, 1, 4], [5]])
def test_a_record_that_is_cut_is_joined_again(cuts: list[int]) -> None:
    whole = evidence(5)
    pieces = [take(whole, rows) for rows in np.split(np.arange(5), cuts)]
    for name, values in join(pieces).to_arrays().items():
        assert_array_equal(values, whole.to_arrays()[name], strict=True)


def test_every_treatment_has_a_folder_of_its_own() -> None:
    treatments = [
        CLEAN,
        *(Treatment("attack", name, s) for name, made in STRENGTHS.items() for s in made),
        *(Treatment("corruption", name, float(s)) for name in CORRUPTIONS for s in range(1, 6)),
    ]
    keys = [treatment.key for treatment in treatments]
    assert len(set(keys)) == len(keys)
    assert all("/" not in key and " " not in key for key in keys)
