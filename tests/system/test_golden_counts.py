"""The golden store counts errors, whose values must open for ever."""

from pathlib import Path

import numpy as np
import pytest

from flows.jobs.laboratory_slides import Added
from flows.stages.counting.chosen_thresholds import load_error_rates, load_laboratory_rates
from flows.stages.counting.error_counts import kept_errors
from storage.batches.ledger import read_seal
from storage.batches.manifests import load_batch
from storage.models.detectors import load_detector_card
from storage.models.laboratories import load_laboratory, load_night
from storage.models.statistics import latest_statistics
from storage.parquet import read_table
from storage.reports.sql import answer
from storage.reports.tables import BATCHES, PATIENTS, SLIDES, report_digest, report_path
from tests.system.golden import counts, slides
from tests.system.golden import make_golden as golden
from tests.system.golden.stores import VERSIONS, copied


@pytest.mark.parametrize("version", VERSIONS)
def test_error_counts_and_rates_open(version: str, tmp_path: Path) -> None:
    store = copied(version, tmp_path)
    lineage = latest_statistics(store, "golden")
    assert lineage is not None
    errors = kept_errors(store, lineage)
    assert errors is not None
    assert errors.slides == ('["patient", "P2"]', '["patient", "P3"]')
    assert errors.negatives.tolist() == [40, 60]
    np.testing.assert_array_equal(errors.found[0], counts.PASSING)
    card = load_detector_card(store)
    assert card.counting == counts.CARD
    rates = load_error_rates(store, card)
    assert rates is not None
    found = rates.counting.found
    assert (rates.counting.log_odds, found.mean, found.slides) == (2.5, 0.5, 6)
    assert rates.dense.log_odds == 1.5


@pytest.mark.parametrize("version", VERSIONS)
def test_what_a_laboratory_knows_of_its_errors_opens(version: str, tmp_path: Path) -> None:
    store = copied(version, tmp_path)
    laboratory = load_laboratory(store, slides.LABORATORY)
    (night,) = laboratory.nights
    added = Added.from_arrays(load_night(store, slides.LABORATORY, night))
    errors, labelled = added.errors, added.labelled
    rates = load_laboratory_rates(store, laboratory)
    assert (laboratory.counting, night.negative) == (counts.CARD, ("S1",))
    assert errors.negatives.tolist() == [40, 60]
    assert rates is not None
    assert rates.counting.log_odds == 2.5
    assert laboratory.adaptation is not None
    assert laboratory.adaptation.model_copy(update={"statistics": False}) == counts.ADAPTATION
    assert (labelled.log_odds.tolist(), labelled.slides) == ([-1.0, 0.5], errors.slides)


@pytest.mark.parametrize("version", VERSIONS)
def test_reports_with_calls_open(version: str, tmp_path: Path) -> None:
    store = copied(version, tmp_path)
    seal = read_seal(store, load_batch(store, "night"), slides.KEY)
    assert seal is not None
    path = report_path("night", golden.DAY, PATIENTS)
    assert seal.patients_digest == report_digest(store, path)
    tables = {SLIDES: counts.COUNTED, PATIENTS: counts.PATIENT, BATCHES: counts.BATCH}
    for kind, values in tables.items():
        path = report_path("night", golden.DAY, kind)
        assert read_table(store, *path, columns=list(values)).to_pydict() == values
    with answer(store, "select call, call_reasons[1] as why from patients") as found:
        assert found.read_all().to_pylist() == [{"call": "unreadable", "why": "shifted"}]
