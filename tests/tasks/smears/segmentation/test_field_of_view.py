from types import SimpleNamespace

import numpy as np
import pytest

from tasks.smears.segmentation.field_of_view import _found_like_others, _level_of_cells
from tasks.smears.segmentation.finding import Cells
from tests.support.fields import ground


@pytest.mark.parametrize(("diameter", "level"), [(60, 0), (130, 0), (259, 0), (260, 1), (900, 2)])
def test_cells_are_read_at_the_training_cells_resolution_where_the_slide_has_it(
    diameter: float, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = SimpleNamespace(downsamples=(1.0, 2.0, 4.0))
    monkeypatch.setattr("tasks.images.opened_slides.open_slide", lambda uri: slide)
    assert _level_of_cells({"is_slide": True, "source_uri": "any"}, diameter) == level
    assert _level_of_cells({"is_slide": False}, diameter) == 0


@pytest.mark.parametrize(
    ("others", "own", "asked"),
    [
        (95, 90, [95]),
        *((95, n, [95, None]) for n in (60, np.nan)),
        (None, 9, [None]),
        (7, 9, [None]),
    ],
    ids=["alike", "another magnification", "no cells", "none measured", "too small to be right"],
)
def test_a_photograph_is_searched_as_others_unless_its_cells_differ(
    others: float | None, own: float, asked: list[float | None]
) -> None:
    told = list[float | None]()

    def finder(field: object, diameter: float | None) -> Cells:
        told.append(diameter)
        return Cells((), own)

    _found_like_others(finder, ground(), others)
    assert told == asked
