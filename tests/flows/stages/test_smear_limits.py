"""Whose cells teach the limits of a smear."""

from collections import Counter

import numpy as np

from flows.stages.smear_limits import SLIDES, _owners
from storage.models.contributions import Rows


def test_laboratories_take_turns_however_many_small_groups_one_has() -> None:
    def cells(number: int) -> list[Rows]:
        return [Rows("batch", np.arange(number), [None] * number, [None] * number)]

    small = {f"a::{number}": cells(3) for number in range(2 * SLIDES)}
    owners = _owners({**small, "a::large": cells(40), "b::1": cells(10), "b::2": cells(90)})
    half = SLIDES // 2
    assert Counter(owners) == {"a::large": half, "b::1": half // 2, "b::2": half // 2}
    assert _owners(small) == []
