"""A store that this version of slidewatch wrote opens with its values."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.commands.status import limits_of, witnesses_of
from flows.smears.jobs.laboratory_slides import Added
from flows.smears.stages.chosen_thresholds import fitted_rates, load_error_rates
from flows.stages.error_counts import errors_of_version
from storage import kinds
from storage.batches import ledger
from storage.batches.features import (
    SCHEMA_VERSION,
    create_features,
    read_block,
    write_block,
)
from storage.batches.known_features import verified_block
from storage.batches.manifests import Batch, load_batch, read_manifest, verify_manifest
from storage.models import classifiers, detectors
from storage.models.statistics import Lineage, latest_statistics, load_moments
from storage.parquet import read_footer, read_table
from storage.records import OWN_DIGEST, NewerError, Record
from storage.reports import sql, tables
from storage.reports.schemas.images import image_schema
from storage.smears import learned
from storage.smears.call_seals import read_call_seal
from storage.store import Store, StoreError
from tasks.detector.detector import Detector, score
from tasks.detector.moments import ClassStatistics
from tasks.detector.slides import cell_score, night_smears, own_normal
from tasks.detector.slides.groups import GroupKey
from tasks.detector.slides.normal import slide_normal
from tasks.images.manifest import SCHEMA
from tasks.smears.reports.night.counts import summaries
from tests.system.golden import make_golden, stores, values

TAPS = {tap: features[:4] for tap, features in values.BLOCK.taps.items()}
CLASSES = np.ones(4, np.intp)


@pytest.fixture
def golden(tmp_path: Path) -> Store:
    return stores.newest(tmp_path)


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def test_the_model_opens(golden: Store) -> None:
    card = classifiers.find_card(golden, None)
    assert (card.name, card.created_at) == ("golden", values.WHEN)
    assert card.classes == values.CLASSES
    assert card.held_out == {"P2", "P3"}
    assert card.tap_widths == {"layer1": 2, "layer2": 1}
    assert (card.temperature, card.split_by, card.preprocessing) == (1.5, "patient", "RGB")
    assert_same(classifiers.load_weights(golden, card), values.WEIGHTS)


def test_the_batch_opens(golden: Store) -> None:
    batch = load_batch(golden, "night")
    assert (batch.key, batch.images, batch.limit, batch.attempt) == ("night", "night/", None, 1)
    assert (batch.rows, batch.shard_rows) == (5, 3)
    assert (batch.batch_date, batch.started_at) == (values.DAY, values.WHEN)
    verify_manifest(golden, batch)
    uris = [read_manifest(golden, batch, shard)["uri"].to_pylist() for shard in batch.shards()]
    assert uris == [values.URIS[:3], values.URIS[3:]]
    assert set(read_manifest(golden, batch)["patient_id"].to_pylist()) == {"P1"}
    assert ledger.screening_start(golden, batch, values.COMMISSIONED) == values.WHEN
    assert set(ledger.screened_by(golden, batch)) == {values.COMMISSIONED}


def test_the_ledger_opens(golden: Store) -> None:
    batch = load_batch(golden, "night")
    assert ledger.complete_shards(golden, batch, "golden") == {0, 1}
    first, second = batch.shards()
    assert ledger.read_quarantine(golden, batch, "golden", first) == []
    assert ledger.read_quarantine(golden, batch, "golden", second) == [1]
    record = ledger.read_shard_record(golden, batch, "golden", second)
    assert record is not None
    assert (record.start, record.stop, record.scored, record.tries) == (3, 5, 1, 2)
    assert record.versions == {"numpy": "2.0"}
    reason, message = values.FAILURE.split(": ")
    assert record.failures == [ledger.Failure(row=1, reason=reason, message=message)]


def test_the_features_open_and_none_has_to_be_extracted_again(golden: Store) -> None:
    found = read_block(golden, "golden", "night", 0, 5)
    assert_same(found.arrays(), values.BLOCK.arrays())
    batch = load_batch(golden, "night")
    assert all(verified_block(golden, "golden", batch, shard) for shard in batch.shards())


def make_the_features_again(store: Store) -> None:
    card = classifiers.find_card(store, "golden")
    create_features(
        store, "golden", load_batch(store, "night"), tap_widths=card.tap_widths,
        classes=card.classes, digest=card.digest, decoding=1,
    )  # fmt: skip


def test_a_batch_can_be_resumed(golden: Store) -> None:
    make_the_features_again(golden)
    write_block(golden, "golden", "night", 3, values.BLOCK.take(np.array([3, 4])))
    found = read_block(golden, "golden", "night", 0, 5)
    assert_same(found.arrays(), values.BLOCK.arrays())


def test_the_statistics_open(golden: Store) -> None:
    lineage = latest_statistics(golden, "golden")
    assert lineage is not None
    assert (lineage.version, lineage.parent, lineage.operation) == (1, None, "merge")
    assert lineage.images == {"Parasitized": 2, "Uninfected": 3}
    part = lineage.contribution("night")
    assert part is not None
    assert part.manifest_digest == load_batch(golden, "night").manifest_digest
    assert (part.attempt, part.images, part.held_out) == (1, 5, 0)
    assert (part.without_patients, part.without_slides) == (("P9",), ("S9",))
    moments = load_moments(golden, lineage)
    assert_same(moments, values.STATISTICS)
    statistics = ClassStatistics.from_arrays(moments)
    assert statistics.taps["layer1"].mean.tolist() == [[0, 1], [2, 3]]
    slides = statistics.slides
    assert slides.keys == (GroupKey("night", "P1", "S1"), GroupKey("night", "P2", "S2"))
    assert slides.n.tolist() == [[1, 1], [1, 2]]
    assert slides.means["layer2"].tolist() == [[[0], [1]], [[2], [3]]]
    assert slides.scatter["layer1"][1].tolist() == [[0.5, 0], [0, 0.5]]
    errors = errors_of_version(golden, lineage)
    assert errors.slides == ('["patient", "P2"]', '["patient", "P3"]')
    assert errors.negatives.tolist() == [40, 60]
    np.testing.assert_array_equal(errors.found[0], values.PASSING)


def test_the_detector_opens_and_scores_as_it_did(golden: Store) -> None:
    card = detectors.load_detector_card(golden)
    assert (card.name, card.model, card.statistics_version) == ("golden", "golden", 1)
    assert card.model_digest == classifiers.find_card(golden, "golden").digest
    assert (card.alpha, card.uncertain_below, card.warnings) == (0.05, 0.75, ["it is tiny"])
    assert card.taps["layer1"].shrinkage == 0.125
    arrays = detectors.load_detector(golden, card)
    assert_same(arrays, values.DETECTOR)
    scores = score(Detector.from_arrays(arrays), TAPS)
    # By hand: squared distances to the nearer mean, in units of the factor's diagonal.
    np.testing.assert_allclose(
        scores.distances, [[1 / 256, 0], [17 / 256, 1 / 16], [1 / 256, 1 / 4], [25 / 256, 9 / 16]]
    )
    np.testing.assert_allclose(scores.p_value, [1, 1, 1, 13 / 16])


def chances(own: Any, normal: cell_score.SlideNormal) -> tuple[list[float], list[float]]:
    """Squared distances that the scores of four cells are of, and their p-values."""
    deviations = cell_score.standardised_distances(normal, TAPS, CLASSES, np.zeros(4, bool))
    scores, p = cell_score.cell_scores(own.calibration, normal, deviations)
    return np.exp(scores).tolist(), p.tolist()


def test_the_detector_scores_a_slide_as_it_did(golden: Store) -> None:
    card = detectors.load_detector_card(golden)
    assert (card.slides, card.sequence) == (3, 1)
    own = Detector.from_arrays(detectors.load_detector(golden, card)).own
    assert own is not None
    # By hand: W + B is 2 I at layer1 and 1 at layer2, four cells are too few for a slide.
    normal = slide_normal(own.priors, TAPS, CLASSES)
    assert normal.level == "population"
    found, p = chances(own, normal)
    np.testing.assert_allclose(found, [1 / 32, 5 / 32, 1 / 32, 13 / 32])
    np.testing.assert_allclose(p, [13 / 16, 10 / 16, 13 / 16, 1 / 4])
    # Their mean residual is (-1/4, 0) at layer1, and B + W / 4 is 5/4 I.
    shift = own_normal.slide_shift(own, TAPS, CLASSES)
    assert shift == own_normal.Shift(4, pytest.approx(np.log(1 / 20)), 10 / 16, False, "layer1")


def test_limits_of_a_smear_measure_as_they_did(golden: Store) -> None:
    card = detectors.load_detector_card(golden)
    assert card.floor == values.FLOOR_CARD
    assert limits_of(card) == "5 altered slides"
    own = Detector.from_arrays(detectors.load_detector(golden, card)).own
    assert own is not None
    assert own.floor is not None
    # By hand: the median is (2, 0, 0), B + W / 3 is 10/3 I; around it the cells have squared
    # lengths of 0, 3 and 3, of three features.
    cells = np.asarray([[2.0, 0.0, 0.0], [2.0, np.sqrt(3), 0.0], [2.0, 0.0, -np.sqrt(3)]])
    found = night_smears.smear_of(own.floor, cells)
    assert found.shift == pytest.approx(4 / (10 / 3) / 3 / 2.0)
    assert found.spread == pytest.approx(1.0 / 1.5)


def test_both_witnesses_diagnose_as_they_did(golden: Store) -> None:
    card = detectors.load_detector_card(golden)
    assert card.witnesses == values.WITNESS_CARD
    assert witnesses_of(card) == "network, statistics"
    known = Detector.from_arrays(detectors.load_detector(golden, card)).witnesses
    assert known is not None
    # By hand: 1 / 2 + 2 + 0.25 is 2.75; twice that and 1 is 6.5; half of 3 is 1.5.
    scores = known.discriminant.scores({"layer1": np.asarray([[1.0, 2.0]])})
    assert scores.tolist() == [2.75]
    log_odds = known.scales.combine(np.asarray([3.0]), scores)
    assert (log_odds.network[0], log_odds.statistics[0], log_odds.both[0]) == (1.5, 6.5, 7.5)


def test_error_rates_open(golden: Store) -> None:
    card = detectors.load_detector_card(golden)
    assert card.counting == values.COUNTING_CARD
    rates = load_error_rates(golden, card)
    assert rates is not None
    found = rates.counting.found
    assert (rates.counting.log_odds, found.mean, found.slides) == (2.5, 0.5, 6)
    assert rates.dense.log_odds == 1.5


def test_a_commissioned_detector_opens_and_scores_as_it_did(golden: Store) -> None:
    card = detectors.load_detector_card(golden, values.LABORATORY)
    assert (card.name, card.parent) == (values.COMMISSIONED, "golden")
    assert card == detectors.load_detector_card(golden, values.COMMISSIONED)
    assert detectors.load_detector_card(golden).name == "golden"
    assert card.learned is not None
    assert (card.learned.slides, card.learned.cells) == (2, 5)
    assert card.learned.false_alarms == {"0.05": 0.0625}
    assert (card.counting, card.adaptation) == (values.COUNTING_CARD, values.ADAPTATION_CARD)
    arrays = detectors.load_detector(golden, card)
    assert_same(arrays, values.AT_LABORATORY)
    detector = Detector.from_arrays(arrays)
    assert detector.own is not None
    assert detector.reference is not None
    # By hand: S is I / 4 at layer1 and 1 at layer2.
    found, p = chances(detector.own, detector.reference)
    np.testing.assert_allclose(found, [1 / 4, 5 / 4, 1 / 4, 13 / 4])
    np.testing.assert_allclose(p, [13 / 16, 10 / 16, 13 / 16, 1 / 4])
    # The mean residual is (1/4, 0) at layer1, and B + W / 4 is I / 2.
    shift = own_normal.slide_shift(detector.own, TAPS, CLASSES)
    assert shift == own_normal.Shift(4, pytest.approx(np.log(1 / 8)), 1 / 4, True, "layer1")
    assert detector.witnesses is not None
    # By hand: 1 + 2 / 2 - 0.5 is 1.5 at the laboratory.
    scores = detector.witnesses.discriminant.scores({"layer1": np.asarray([[1.0, 2.0]])})
    assert scores.tolist() == [1.5]
    for rates in (load_error_rates(golden, card), fitted_rates(golden, card)):
        assert rates is not None
        assert rates.counting.log_odds == 2.5


def test_the_night_that_it_has_learned_opens(golden: Store) -> None:
    card = detectors.load_detector_card(golden, values.LABORATORY)
    (night,) = card.nights
    batch = load_batch(golden, night.batch, night.attempt)
    assert night.manifest_digest == batch.manifest_digest
    assert (night.slides, night.cells, night.negative) == (2, 5, ("S1",))
    arrays = learned.load_night(golden, values.LABORATORY, night)
    assert_same(arrays, values.NIGHT)
    added = Added.from_arrays(arrays)
    assert added.statistics.n.tolist() == [[1, 1], [1, 2]]
    assert added.normal is not None
    assert added.normal.rows.tolist() == [0, 1, 3]
    assert added.errors.negatives.tolist() == [40, 60]
    labelled = added.labelled
    assert (labelled.log_odds.tolist(), labelled.slides) == ([-1.0, 0.5], added.errors.slides)
    assert list(labelled.features) == ["layer1"]


def test_the_reports_and_their_seal_open(golden: Store) -> None:
    batch = load_batch(golden, "night")
    seal = ledger.read_seal(golden, batch, values.COMMISSIONED)
    assert seal is not None
    assert ledger.list_seals(golden, batch) == [seal]
    assert seal.detector == values.COMMISSIONED
    assert ledger.is_announced(golden, batch, seal)
    assert (seal.rows, seal.scored, seal.failed) == (5, 4, 1)
    assert (seal.abnormal, seal.review, seal.failures) == (1, 2, {"killed_worker": 1})
    assert seal.diagnoses == {"Parasitized": 0, "Uninfected": 4}
    assert tables.published_batch(golden, "night") == batch
    path = tables.report_path("night", values.DAY)
    assert (seal.report, seal.report_digest) == ("/".join(path), tables.report_digest(golden, path))
    images = read_table(golden, *path, columns=list(values.IMAGES))
    assert images.to_pydict() == values.IMAGES
    calls = read_call_seal(golden, batch, seal.detector)
    assert calls is not None
    assert calls.report_digest == seal.report_digest
    for kind, row in make_golden.ROW_OF.items():
        path = tables.report_path("night", values.DAY, kind)
        assert tables.report_digest(golden, path) == calls.digests[kind]
        assert read_table(golden, *path, columns=list(row)).to_pylist() == [row]
    night = summaries(read_table(golden, *path))[0]
    assert (night["light"], night["detector"], night["slides_shifted"]) == (
        "amber", values.COMMISSIONED, 1,
    )  # fmt: skip
    assert night["tap_scores"] == {"layer1": [1, 3], "layer2": [4, 0]}


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("select shift from slides join images i using (slide_id) where i.abnormal", (-2.0,)),
        ("select name, nights, cells from laboratories", (values.LABORATORY, 1, 5)),
        ("select call, call_reasons[1] as why from patients", ("unreadable", "shifted")),
    ],
)
def test_its_reports_answer(golden: Store, statement: str, row: tuple[object, ...]) -> None:
    with sql.answer(golden, statement) as found:
        assert [tuple(each.values()) for each in found.read_all().to_pylist()] == [row]


# Where it is not of today, it is to be made again.

WRITTEN: dict[str, type[Record]] = {
    "models/golden/card.json": classifiers.ModelCard,
    "batches/night/batch.json": Batch,
    "batches/night/ledger/golden/000000.json": ledger.ShardRecord,
    "batches/night/quarantine/golden/000001.json": ledger.Quarantine,
    f"batches/night/screenings/{values.COMMISSIONED}.json": ledger.Screening,
    f"batches/night/sealed/{values.COMMISSIONED}.json": ledger.Seal,
    f"batches/night/announced/{values.COMMISSIONED}.json": ledger.Announced,
    "statistics/golden/v0001/lineage.json": Lineage,
    "detectors/golden/card.json": detectors.DetectorCard,
    f"detectors/{values.COMMISSIONED}/card.json": detectors.DetectorCard,
}


def test_the_newest_golden_store_has_the_fields_and_columns_of_today(tmp_path: Path) -> None:
    store = stores.newest(tmp_path)
    for path, record in WRITTEN.items():
        data = store.read_json(path)
        assert data["schema_version"] == record.model_fields["schema_version"].default, path
        written = {name for name, each in record.model_fields.items() if not each.exclude}
        assert data.keys() - {OWN_DIGEST} == written, path
    schemas = {kind: kinds.tables()[kind].schema([], []) for kind in make_golden.ROW_OF}
    schemas[tables.IMAGES] = image_schema(values.CLASSES, ["layer1", "layer2"])
    for kind, schema in schemas.items():
        path = tables.report_path("night", values.DAY, kind)
        assert read_footer(store, *path).schema.to_arrow_schema().equals(schema), kind
    assert read_manifest(store, load_batch(store, "night")).schema.equals(SCHEMA)
    attributes = store.read_json("features/golden/night.zarr/zarr.json")["attributes"]
    assert attributes["schema_version"] == SCHEMA_VERSION


def test_records_that_a_newer_slidewatch_wrote_are_refused(tmp_path: Path) -> None:
    store = stores.newest(tmp_path)
    for path, record in WRITTEN.items():
        data = store.read_json(path)
        for strange in ({}, {"surprise": 1}):
            store.write_json(data | {"schema_version": 99} | strange, path)
            with pytest.raises(NewerError, match=f"{re.escape(path)} was written by a newer"):
                record.read(store, path)


def read_the_features(store: Store) -> None:
    read_block(store, "golden", "night", 0, 5)


@pytest.mark.parametrize("use", [read_the_features, make_the_features_again])
def test_features_that_a_newer_slidewatch_wrote_are_refused(
    tmp_path: Path, use: Callable[[Store], None]
) -> None:
    store = stores.newest(tmp_path)
    use(store)
    path = "features/golden/night.zarr/zarr.json"
    data = store.read_json(path)
    data["attributes"]["schema_version"] = 99
    store.write_json(data, path)
    with pytest.raises(StoreError, match=r"night\.zarr was written by a newer slidewatch"):
        use(store)


def test_a_model_card_without_digest_or_sequence_is_refused(tmp_path: Path) -> None:
    store = stores.newest(tmp_path)
    path = "models/golden/card.json"
    data = store.read_json(path)
    card = classifiers.ModelCard.read(store, path)
    without = {name: value for name, value in data.items() if name != OWN_DIGEST}
    store.write_json(without, path)
    with pytest.raises(StoreError, match=f"{re.escape(path)} has no {OWN_DIGEST}"):
        classifiers.ModelCard.read(store, path)
    unnumbered = {name: value for name, value in card.model_dump().items() if name != "sequence"}
    classifiers.ModelCard.model_construct(**unnumbered).write(store, path)
    with pytest.raises(StoreError, match="is no valid ModelCard: sequence"):
        classifiers.ModelCard.read(store, path)
