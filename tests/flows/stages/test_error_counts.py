"""Error counts kept with the statistics: merged and retracted exactly."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.special import logit

from flows.fit import FitOutcome, fit
from flows.jobs.fitting import unseen
from flows.options.flows import Fit, Retract
from flows.retract import retract
from flows.settings import Settings
from flows.smears.stages.chosen_thresholds import load_error_rates, measured_on
from flows.stages import error_counts
from flows.stages.error_counts import errors_of_version
from storage.batches.features import image_ids, read_block
from storage.batches.manifests import load_batch, read_manifest
from storage.models import classifiers, detectors, statistics
from storage.store import Store
from tasks.detector.error_counts import ErrorCounts
from tasks.smears.counting.negative import Measured
from tests.support.fitted import CELLS
from tests.support.images import write_cells


def newest(settings: Settings) -> tuple[statistics.Lineage, ErrorCounts]:
    store = Store(settings.store)
    lineage = statistics.latest_statistics(store, "m")
    assert lineage is not None
    return lineage, errors_of_version(store, lineage)


def more(folder: Path, patients: int, seed: int = 9) -> str:
    write_cells(folder, patients, 9, seed=seed, first=50, parasitized=0.4)
    return str(folder)


def test_errors_are_counted_on_patients_that_training_has_not_seen(
    fitted: tuple[Settings, FitOutcome],
) -> None:
    settings, _ = fitted
    card = classifiers.load_card(Store(settings.store), "m")
    _, counts = newest(settings)
    assert set(counts.slides) == {json.dumps(["patient", key]) for key in card.held_out}
    assert (counts.negatives + counts.positives).sum() == len(card.held_out) * CELLS


def test_errors_merge_and_are_taken_out_exactly_and_make_a_counting_threshold(
    ready: Settings, tmp_path: Path
) -> None:
    _, before = newest(ready)
    first = detectors.load_detector_card(Store(ready.store))
    assert first.counting is None
    assert any("error rates unknown" in warning for warning in first.warnings)
    assert load_error_rates(Store(ready.store), first) is None
    fit.fn(Fit(images=more(tmp_path / "extra", 5), batch="second"), ready)
    _, both = newest(ready)
    assert len(both.slides) == len(before.slides) + 5
    card = classifiers.load_card(Store(ready.store), "m")

    detector = detectors.load_detector_card(Store(ready.store))
    rates = load_error_rates(Store(ready.store), detector)
    assert rates is not None
    assert detector.counting is not None
    assert detector.counting.counting.log_odds == rates.counting.log_odds >= 0
    assert detector.counting.diagnosis.log_odds == 0
    assert detector.counting.counting.sensitivity.slides == rates.counting.found.slides

    (held_out, *_) = sorted(card.held_out)
    outcome = retract.fn(Retract(patient=held_out), ready)
    assert f"{CELLS} held-out ones out of the error counts" in outcome.changed
    _, left = newest(ready)
    assert set(both.slides) - set(left.slides) == {json.dumps(["patient", held_out])}
    retract.fn(Retract(batch="second"), ready)
    _, left = newest(ready)
    assert set(left.slides) == set(before.slides) - {json.dumps(["patient", held_out])}


@pytest.mark.slow
def test_a_detector_of_several_laboratories_was_measured_at_none(
    ready: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.detector.error_counts.LEAST_CELLS", 1)

    def measured(**other: str) -> Measured | None:
        card = detectors.load_detector_card(Store(ready.store))
        assert card.counting
        counting = card.counting.model_copy(update={"least_size": 10.0})
        known = card.model_copy(update={"counting": counting, **other})
        return measured_on(Store(ready.store), known)

    fit.fn(Fit(images=more(tmp_path / "extra", 5), batch="second"), ready)
    fitted, card = newest(ready)[1].least_size(), classifiers.load_card(Store(ready.store), "m")
    assert fitted
    # Healthy slides of a laboratory say nothing of parasites in cells smaller than fitted ones.
    sizes = [each and each.least_size for each in (measured(), measured(parent="m-d1"))]
    assert sizes == [10, min(fitted, card.network["side"])]
    fit.fn(Fit(images=f"other={more(tmp_path / 'other', 5, seed=10)}", batch="third"), ready)
    assert measured() is None


def test_where_a_model_was_cross_validated_all_patients_are_counted_by_their_folds(
    fitted: tuple[Settings, FitOutcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(fitted[0].store)
    card, (lineage, _) = classifiers.load_card(store, "m"), newest(fitted[0])
    batch = load_batch(store, "first")
    ids = image_ids(read_block(store, "m", batch.key, 0, batch.rows, taps=False))
    manifest = read_manifest(store, batch, columns=["patient_id", "label"])
    table = manifest.append_column("image_id", pa.array(ids)).slice(10)
    chances = np.where(np.arange(len(table)) % 2, 1.0, 0.02)
    odds = np.clip(logit(chances), -40, 40)
    columns = {"probability": chances, "network": odds, "statistics": odds}
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    unseen.out_of_fold.cache_clear()
    monkeypatch.setattr(unseen, "load_out_of_fold", lambda *_: table)
    counts = error_counts.errors_of_batch(store, card, lineage.contributions[0])
    unseen.out_of_fold.cache_clear()
    # Ten cells are in no table: those of them that training has seen are left out.
    early = manifest["patient_id"].to_pylist()[:10]
    left_out = sum(each in card.split["train"] for each in early)
    assert (counts.negatives + counts.positives).sum() == batch.rows - left_out
    sure = counts.false[:, -1].sum() + counts.found[:, -1].sum()
    assert sure == (chances == 1.0).sum()
