"""The golden store knows what a smear can be."""

from pathlib import Path

import numpy as np
import pytest

from storage.models.detectors import load_detector, load_detector_card
from storage.parquet import read_table
from storage.reports.tables import BATCHES, SLIDES, report_path
from tasks.detector.detector import Detector
from tasks.detector.slides.floor import smear_of
from tests.system.golden import floors
from tests.system.golden import make_golden as golden
from tests.system.golden.stores import VERSIONS, copied


@pytest.mark.parametrize("version", VERSIONS)
def test_limits_of_a_smear_open_and_measure_as_they_did(version: str, tmp_path: Path) -> None:
    store = copied(version, tmp_path)
    card = load_detector_card(store)
    assert card.floor == floors.CARD
    own = Detector.from_arrays(load_detector(store, card)).own
    assert own is not None
    assert own.floor is not None
    # By hand: the median is (2, 0, 0), B + W / 3 is 10/3 I; around it the cells have squared
    # lengths of 0, 3 and 3, of three features.
    cells = np.asarray([[2.0, 0.0, 0.0], [2.0, np.sqrt(3), 0.0], [2.0, 0.0, -np.sqrt(3)]])
    found = smear_of(own.floor, cells)
    assert found.shift == pytest.approx(4 / (10 / 3) / 3 / 2.0)
    assert found.spread == pytest.approx(1.0 / 1.5)
    for kind, values in ((SLIDES, floors.SLIDE), (BATCHES, floors.BATCH)):
        path = report_path("night", golden.DAY, kind)
        assert read_table(store, *path, columns=list(values)).to_pydict() == values
