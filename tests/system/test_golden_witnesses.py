"""The golden store has two witnesses, at a laboratory too."""

from pathlib import Path

import numpy as np
import pytest

from flows.commands.status import witnesses_of
from flows.jobs.laboratory_slides import Added
from flows.jobs.verified import load_detector_at
from storage.models.detectors import load_detector, load_detector_card
from storage.models.laboratories import load_laboratory, load_night
from storage.parquet import read_table
from storage.reports.sql import answer
from storage.reports.tables import report_path
from tasks.detector.detector import Detector
from tests.system.golden import make_golden as golden
from tests.system.golden import slides, witnesses
from tests.system.golden.stores import VERSIONS, copied


@pytest.mark.parametrize("version", VERSIONS)
def test_witnesses_open_and_say_what_they_said(version: str, tmp_path: Path) -> None:
    store = copied(version, tmp_path)
    card = load_detector_card(store)
    assert card.witnesses == witnesses.CARD
    assert witnesses_of(card) == "network, statistics"
    known = Detector.from_arrays(load_detector(store, card)).witnesses
    assert known is not None
    # By hand: 1 / 2 + 2 + 0.25 is 2.75; twice that and 1 is 6.5; half of 3 is 1.5.
    scores = known.discriminant.scores({"layer1": np.asarray([[1.0, 2.0]])})
    assert scores.tolist() == [2.75]
    said = known.scales.testify(np.asarray([3.0]), scores)
    assert (said.network[0], said.statistics[0], said.both[0]) == (1.5, 6.5, 7.5)
    path = report_path("night", golden.DAY)
    assert read_table(store, *path, columns=list(witnesses.IMAGE)).to_pydict() == witnesses.IMAGE


@pytest.mark.parametrize("version", VERSIONS)
def test_a_laboratory_opens_with_a_discriminant_of_its_own(version: str, tmp_path: Path) -> None:
    store = copied(version, tmp_path)
    laboratory = load_laboratory(store, slides.LABORATORY)
    assert laboratory.adaptation is not None
    assert laboratory.adaptation.statistics
    labelled = Added.from_arrays(
        load_night(store, slides.LABORATORY, laboratory.nights[0])
    ).labelled
    assert list(labelled.features) == ["layer1"]
    known = load_detector_at(store, load_detector_card(store), laboratory).witnesses
    assert known is not None
    # By hand: 1 + 2 / 2 - 0.5 is 1.5 at the laboratory.
    scores = known.discriminant.scores({"layer1": np.asarray([[1.0, 2.0]])})
    assert scores.tolist() == [1.5]


@pytest.mark.parametrize("version", VERSIONS)
def test_reports_answer_for_both_witnesses(version: str, tmp_path: Path) -> None:
    store = copied(version, tmp_path)
    statement = "select count(*) as n from images where network_probability is not null"
    with answer(store, statement) as found:
        assert found.read_all().to_pylist() == [{"n": 4}]
