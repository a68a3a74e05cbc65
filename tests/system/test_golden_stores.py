"""A store that this version of slidewatch wrote is what it writes today, and means the same."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.commands.status import limits_of
from flows.smears.stages.chosen_thresholds import fitted_rates, load_error_rates
from storage.batches import ledger
from storage.batches.features import create_features, read_block, write_block
from storage.batches.known_features import verified_block
from storage.batches.manifests import Batch, load_batch
from storage.models import classifiers, detectors
from storage.models.statistics import Lineage
from storage.records import OWN_DIGEST, NewerError, Record
from storage.reports import sql
from storage.store import Store, StoreError
from tasks.detector.detector import Detector, score
from tasks.detector.slides import cell_score, night_smears, own_normal
from tasks.detector.slides.normal import slide_normal
from tests.system.golden import make_golden, stores, values

TAPS = {tap: features[:4] for tap, features in values.BLOCK.taps.items()}
CLASSES = np.ones(4, np.intp)


@pytest.fixture
def golden(tmp_path: Path) -> Store:
    return stores.newest(tmp_path)


def without_digests(value: Any) -> Any:
    """Leave out digests of Parquet files, whose bytes change with the library that writes them."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if "digest" not in k}
        return {k: without_digests(v) for k, v in kept.items()}
    return value


def contents(store: Store) -> dict[str, Any]:
    """Every file of a store by its path: its text or its bytes, in which NaN equals itself."""
    found: dict[str, Any] = {}
    for path in sorted(Path(store.root).rglob("*")):
        name = str(path.relative_to(store.root))
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path).read()
            found[name] = f"{table.schema} {table.to_pylist()}"
        elif path.suffix == ".json":
            found[name] = repr(without_digests(json.loads(path.read_text())))
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def test_the_golden_store_is_what_is_written_today(golden: Store, tmp_path: Path) -> None:
    """If it is not, give what differs a higher schema version, and make the store again."""
    today = Store(str(tmp_path / "today"))
    make_golden.write_store(today)
    before, now = contents(golden), contents(today)
    assert before.keys() == now.keys()
    assert [name for name in before if before[name] != now[name]] == []
    for path, record in WRITTEN.items():
        written = {name for name, each in record.model_fields.items() if not each.exclude}
        assert golden.read_json(path).keys() - {OWN_DIGEST} == written, path


def test_its_features_open_and_none_has_to_be_extracted_again(golden: Store) -> None:
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
    found, wanted = read_block(golden, "golden", "night", 0, 5).arrays(), values.BLOCK.arrays()
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name, strict=True)


def detector_of(store: Store, name: str | None = None) -> tuple[detectors.DetectorCard, Detector]:
    card = detectors.load_detector_card(store, name)
    return card, Detector.from_arrays(detectors.load_detector(store, card))


def test_the_detector_scores_as_it_did(golden: Store) -> None:
    card, detector = detector_of(golden)
    assert card.name == "golden"  # and not the laboratory's
    scores = score(detector, TAPS)
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
    own = detector_of(golden)[1].own
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
    card, detector = detector_of(golden)
    assert limits_of(card) == "5 altered slides"
    own = detector.own
    assert own is not None
    assert own.floor is not None
    # By hand: the median is (2, 0, 0), B + W / 3 is 10/3 I; around it the cells have squared
    # lengths of 0, 3 and 3, of three features.
    cells = np.asarray([[2.0, 0.0, 0.0], [2.0, np.sqrt(3), 0.0], [2.0, 0.0, -np.sqrt(3)]])
    found = night_smears.smear_of(own.floor, cells)
    assert found.shift == pytest.approx(4 / (10 / 3) / 3 / 2.0)
    assert found.spread == pytest.approx(1.0 / 1.5)


def test_both_witnesses_diagnose_as_they_did(golden: Store) -> None:
    card, detector = detector_of(golden)
    assert card.witnesses is not None
    known = detector.witnesses
    assert known is not None
    # By hand: 1 / 2 + 2 + 0.25 is 2.75; twice that and 1 is 6.5 (6 count); half of 3 is 1.5.
    scores = known.discriminant.scores({"layer1": np.asarray([[1.0, 2.0]])})
    assert scores.tolist() == [2.75]
    log_odds = known.scales.combine(np.asarray([3.0]), scores)
    assert (log_odds.network[0], log_odds.statistics[0], log_odds.both[0]) == (1.5, 6.5, 7.0)


def test_a_commissioned_detector_opens_and_scores_as_it_did(golden: Store) -> None:
    card, detector = detector_of(golden, values.LABORATORY)
    assert (card.name, card.parent) == (values.COMMISSIONED, "golden")
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
