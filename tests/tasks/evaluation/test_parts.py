from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tasks.bundles import join, take
from tasks.evaluation.baselines import Evidence, Residual
from tasks.evaluation.parts import (
    COMPUTED,
    FILE,
    FORMS,
    NOISE,
    Norms,
    Pictures,
    Transfer,
    TreatedPart,
)

RNG = np.random.default_rng(0)


def some(*shape: int) -> Any:
    return RNG.normal(size=shape).astype(np.float32)


def evidence(n: int, magnitudes: tuple[float, ...] = ()) -> Evidence:
    return Evidence(
        taps={"blocks.2": some(n, 3), "penultimate": some(n, 4)},
        logits=some(n, 2),
        border=some(n),
        odin={magnitude: some(n, 2) for magnitude in magnitudes},
        moved={magnitude: {"blocks.2": some(n, 3)} for magnitude in magnitudes},
    )


def attacked(n: int) -> TreatedPart:
    return TreatedPart(
        rows=np.arange(n),
        image_ids=RNG.integers(0, 256, (n, 32), np.uint8),
        label=np.arange(n, dtype=np.int8) % 2,
        forms={
            FILE: evidence(n, (0.0014, 1e-05)),
            COMPUTED: evidence(n),
            NOISE: evidence(n, (0.0014, 1e-05)),
        },
        norms={FILE: Norms(some(n), some(n)), COMPUTED: Norms(some(n), some(n))},
        transfer=Transfer(some(n, 2), some(n, 2)),
        pictures=Pictures(np.ones((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)),
    )


def same(a: TreatedPart, b: TreatedPart) -> None:
    one, other = a.to_arrays(), b.to_arrays()
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert_array_equal(values, other[name], err_msg=name, strict=True)


def test_a_part_comes_back_from_its_arrays() -> None:
    part = attacked(5)
    again = TreatedPart.from_arrays(dict(sorted(part.to_arrays().items(), reverse=True)))
    same(part, again)
    assert list(again.forms) == list(FORMS)
    assert list(again.forms[FILE].odin) == [1e-05, 0.0014]
    assert list(again.forms[FILE].moved) == [1e-05, 0.0014]
    assert again.forms[FILE].taps.keys() == {"blocks.2", "penultimate"}
    assert again.forms[COMPUTED].odin == {}


def test_a_part_without_one_good_image_has_no_forms() -> None:
    empty = TreatedPart(np.empty(0, np.int64), np.empty((0, 32), np.uint8), np.empty(0, np.int8))
    again = TreatedPart.from_arrays(empty.to_arrays())
    assert (again.forms, again.norms, again.transfer) == ({}, {}, None)
    assert again.pictures == Pictures()


def test_the_names_of_the_arrays_are_those_of_evaluations_that_were_cut_off_before() -> None:
    names = set(attacked(2).to_arrays())
    assert names >= {
        "rows", "image_id", "label", "file/tap/blocks.2", "file/logits", "file/border",
        "file/odin/0.0014", "file/moved/0.0014/blocks.2", "computed/logits", "noise/odin/0.0014",
        "file/l2", "file/linf", "computed/l2", "other/clean", "other/file", "pictures/clean",
        "pictures/changed",
    }  # fmt: skip
    assert not {name for name in names if name.startswith(("computed/odin", "noise/l2"))}


@pytest.mark.parametrize("cuts", [[2], [1, 1, 4], [5]])
def test_a_record_that_is_cut_is_joined_again(cuts: list[int]) -> None:
    whole = evidence(5, (0.0014,))
    pieces = [take(whole, rows) for rows in np.split(np.arange(5), cuts)]
    for name, values in join(pieces).to_arrays().items():
        assert_array_equal(values, whole.to_arrays()[name], strict=True)
    assert join([None, None]) is None


def test_a_residual_comes_back_from_its_arrays() -> None:
    residual = Residual(np.arange(3.0), np.eye(3), 0.1)
    again = Residual.from_arrays(residual.to_arrays())
    assert again.scale == 0.1
    assert_array_equal(again.directions, residual.directions)
    assert_array_equal(again.origin, residual.origin)
