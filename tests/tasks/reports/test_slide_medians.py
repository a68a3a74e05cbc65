"""Medians of slides' values, which wait in a file."""

import numpy as np
import pytest

from tasks.reports import slide_medians
from tasks.reports.slide_medians import SlideMedians


def test_medians_are_those_of_all_values_however_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slide_medians, "KEPT", 7)
    rng = np.random.default_rng(0)
    slides, places = rng.integers(0, 12, 100), np.floor(rng.normal(0, 50, 100))
    places[::9] = np.nan
    places[slides == 3] = np.inf
    medians = SlideMedians(0.5)
    for some in np.array_split(np.arange(100), 8):
        medians.count(slides[some], places[some])
    for slide, found in enumerate(medians.of(13)):
        own = places[(slides == slide) & np.isfinite(places)]
        assert found == ((np.median(own) + 0.5) * 0.5 if len(own) else None)
    assert medians.of(13) == medians.of(13)
