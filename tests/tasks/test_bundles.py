from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.bundles import KEPT_AS, Bundle, join, take
from tasks.types import Float


@dataclass(frozen=True)
class Inner(Bundle):
    values: Float
    share: float


@dataclass(frozen=True)
class Outer(Bundle):
    names: tuple[str, ...]
    by_tap: Mapping[str, Float] = field(metadata={KEPT_AS: "tap"})
    by_size: Mapping[float, Mapping[str, Float]]
    inner: Mapping[str, Inner]
    one: Inner
    maybe: Inner | None = None
    rows: NDArray[np.int64] | None = None


def outer(maybe: Inner | None = None) -> Outer:
    numbers = np.arange(2.0)
    one = Inner(numbers, 0.5)
    taps = {"a/b": numbers, "c": numbers + 1}
    return Outer(("x", "y"), taps, {0.01: taps, 0.002: taps}, {"k": one}, one, maybe)


@pytest.mark.parametrize("maybe", [None, Inner(np.zeros(1), 1.0)])
def test_a_bundle_is_read_back(maybe: Inner | None) -> None:
    kept = outer(maybe).to_arrays()
    found = Outer.from_arrays(kept)
    again = found.to_arrays()
    assert again.keys() == kept.keys()
    for name, values in kept.items():
        np.testing.assert_array_equal(again[name], values)
    assert list(found.by_size) == [0.002, 0.01]
    assert (found.names, found.one.share, found.rows) == (("x", "y"), 0.5, None)
    assert (found.maybe is None) == (maybe is None)


def test_an_absent_array_is_an_error_but_an_empty_mapping_is_not() -> None:
    kept = outer().to_arrays()
    without = {name: v for name, v in kept.items() if not name.startswith("by_size/")}
    assert Outer.from_arrays(without).by_size == {}
    with pytest.raises(KeyError, match="values"):
        Outer.from_arrays({name: v for name, v in kept.items() if name != "one/values"})


@dataclass(frozen=True)
class Rows:
    names: tuple[str, ...]
    values: Float
    by_tap: Mapping[str, Float]
    more: Float | None = None


def test_rows_are_taken_and_joined_with_their_names() -> None:
    rows = Rows(("x", "y"), np.arange(2.0), {"a": np.ones((2, 3))})
    some = take(rows, np.asarray([1]))
    assert (some.names, some.values.tolist(), some.by_tap["a"].shape) == (("y",), [1.0], (1, 3))
    both = join([some, rows])
    assert (both.names, both.values.tolist(), both.more) == (("y", "x", "y"), [1.0, 0.0, 1.0], None)
    assert take(rows, np.asarray([], np.intp)).names == ()
