"""Stores that older versions of slidewatch wrote must open for ever, with the values they had."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.batches.features import (
    SCHEMA_VERSION,
    create_features,
    read_block,
    write_block,
)
from storage.batches.known_features import verified_block
from storage.batches.ledger import (
    Announced,
    Failure,
    Quarantine,
    Screening,
    Seal,
    ShardRecord,
    complete_shards,
    list_seals,
    read_quarantine,
    read_seal,
    read_shard_record,
    screening_start,
)
from storage.batches.manifests import Batch, load_batch, read_manifest, verify_manifest
from storage.models.classifiers import ModelCard, find_card, load_weights
from storage.models.detectors import DetectorCard, load_detector, load_detector_card
from storage.models.laboratories import LaboratoryCard
from storage.models.statistics import Lineage, latest_statistics, load_moments
from storage.parquet import read_footer, read_table
from storage.records import OWN_DIGEST, Record
from storage.reports.publication import SCHEMAS
from storage.reports.schemas.images import image_schema
from storage.reports.tables import (
    BATCHES,
    PATIENTS,
    SLIDES,
    published_batch,
    report_digest,
    report_path,
)
from storage.store import Store, StoreError
from tasks.detector.detector import Detector, score
from tasks.detector.moments import ClassStatistics
from tasks.images.decoding import DECODING
from tasks.images.manifest import SCHEMA
from tasks.types import nested
from tests.system.golden import counts, floors, slides, witnesses
from tests.system.golden import make_golden as golden
from tests.system.golden.stores import (
    PATH,
    STRANGE,
    VERSIONS,
    assert_newer_is_refused,
    assert_same,
    copied,
    copies,
    key,
)

old = copies(VERSIONS)


def block(old: Store) -> dict[str, Any]:
    """The features that a golden store holds; version 1 knew no colour, and 3 no platelet."""
    arrays = golden.BLOCK.arrays()
    version = old.read_json("features/golden/night.zarr/zarr.json")["attributes"]["schema_version"]
    since = {"colour": 2, "platelet": 4}
    return {name: a for name, a in arrays.items() if version >= since.get(name, 1)}


def test_the_model_opens(old: Store) -> None:
    card = find_card(old, None)
    assert (card.name, card.created_at) == ("golden", golden.WHEN)
    assert card.classes == golden.CLASSES
    assert card.held_out == {"P2", "P3"}
    assert card.tap_widths == {"layer1": 2, "layer2": 1}
    assert (card.temperature, card.split_by, card.preprocessing) == (1.5, "patient", "RGB")
    assert_same(load_weights(old, card), golden.WEIGHTS)


def test_the_batch_opens(old: Store) -> None:
    batch = load_batch(old, "night")
    assert (batch.key, batch.images, batch.limit, batch.attempt) == ("night", "night/", None, 1)
    assert (batch.rows, batch.shard_rows) == (5, 3)
    assert (batch.batch_date, batch.started_at) == (golden.DAY, golden.WHEN)
    verify_manifest(old, batch)
    uris = [read_manifest(old, batch, shard)["uri"].to_pylist() for shard in batch.shards()]
    assert uris == [golden.URIS[:3], golden.URIS[3:]]
    assert set(read_manifest(old, batch)["patient_id"].to_pylist()) == {"P1"}
    assert screening_start(old, batch, key(old)) == golden.WHEN


def test_the_ledger_opens(old: Store) -> None:
    batch = load_batch(old, "night")
    assert complete_shards(old, batch, "golden") == {0, 1}
    first, second = batch.shards()
    assert read_quarantine(old, batch, "golden", first) == []
    assert read_quarantine(old, batch, "golden", second) == [1]
    record = read_shard_record(old, batch, "golden", second)
    assert record is not None
    assert (record.start, record.stop, record.scored, record.tries) == (3, 5, 1, 2)
    reason, message = golden.FAILURE.split(": ")
    assert record.failures == [Failure(row=1, reason=reason, message=message)]


def test_the_features_open_and_none_has_to_be_extracted_again(old: Store) -> None:
    assert_same(read_block(old, "golden", "night", 0, 5).arrays(), block(old))
    batch = load_batch(old, "night")
    assert all(verified_block(old, "golden", batch, shard) for shard in batch.shards())


def make_the_features_again(store: Store) -> None:
    create_features(
        store, "golden", "night", rows=5, shard_rows=3, tap_widths={"layer1": 2, "layer2": 1},
        classes=2, digests={
            "manifest": load_batch(store, "night").manifest_digest,
            "model": find_card(store, "golden").digest,
        },
    )  # fmt: skip


def test_a_batch_can_be_gone_on_with(old: Store) -> None:
    make_the_features_again(old)
    write_block(old, "golden", "night", 3, golden.BLOCK.take(np.array([3, 4])))
    assert_same(read_block(old, "golden", "night", 0, 5).arrays(), block(old))


def test_the_statistics_open(old: Store) -> None:
    lineage = latest_statistics(old, "golden")
    assert lineage is not None
    assert (lineage.version, lineage.parent, lineage.operation) == (1, None, "merge")
    assert lineage.images == {"Parasitized": 2, "Uninfected": 3}
    part = lineage.contribution("night")
    assert part is not None
    assert part.manifest_digest == load_batch(old, "night").manifest_digest
    assert (part.attempt, part.images, part.held_out) == (1, 5, 0)
    assert (part.without_patients, part.without_slides) == (("P9",), ("S9",))
    own = nested("slides", slides.SLIDES) | counts.ERRORS
    assert_same(load_moments(old, lineage), golden.MOMENTS | own)
    statistics = ClassStatistics.from_arrays(load_moments(old, lineage))
    assert statistics.taps["layer1"].mean.tolist() == [[0, 1], [2, 3]]


def test_the_detector_opens_and_scores_as_it_did(old: Store) -> None:
    card = load_detector_card(old)
    assert (card.name, card.model, card.statistics_version) == ("golden", "golden", 1)
    assert card.model_digest == find_card(old, "golden").digest
    assert (card.alpha, card.uncertain_below, card.warnings) == (0.05, 0.75, ["it is tiny"])
    assert card.taps["layer1"].shrinkage == 0.125
    arrays = load_detector(old, card)
    own = slides.OWN if old.exists("laboratories") else {}
    own |= counts.RATES if card.counting else {}
    own |= floors.FLOOR if card.floor else {}
    own |= witnesses.WITNESSES if card.witnesses else {}
    assert_same(arrays, golden.DETECTOR | own)
    scores = score(Detector.from_arrays(arrays), {t: v[:4] for t, v in golden.BLOCK.taps.items()})
    # By hand: squared distances to the nearer mean, in units of the factor's diagonal.
    np.testing.assert_allclose(
        scores.distances, [[1 / 256, 0], [17 / 256, 1 / 16], [1 / 256, 1 / 4], [25 / 256, 9 / 16]]
    )
    np.testing.assert_allclose(scores.p_value, [1, 1, 1, 13 / 16])


def test_the_report_and_its_seal_open(old: Store) -> None:
    batch = load_batch(old, "night")
    seal = read_seal(old, batch, key(old))
    assert seal is not None
    assert list_seals(old, batch) == [seal]
    assert seal.report_digest == report_digest(old, PATH)
    assert seal.report == "/".join(PATH)
    assert (seal.rows, seal.scored, seal.failed) == (5, 4, 1)
    assert (seal.abnormal, seal.review, seal.failures) == (1, 2, {"killed_worker": 1})
    assert seal.diagnoses == {"Parasitized": 0, "Uninfected": 4}
    assert read_table(old, *PATH, columns=list(golden.REPORT)).to_pydict() == golden.REPORT
    assert published_batch(old, "night") == batch


# The newest store

WRITTEN: dict[str, type[Record]] = {
    "models/golden/card.json": ModelCard,
    "batches/night/batch.json": Batch,
    "batches/night/ledger/golden/000000.json": ShardRecord,
    "batches/night/quarantine/golden/000001.json": Quarantine,
    f"batches/night/screenings/{slides.KEY}.json": Screening,
    f"batches/night/sealed/{slides.KEY}.json": Seal,
    f"batches/night/announced/{slides.KEY}.json": Announced,
    "statistics/golden/v0001/lineage.json": Lineage,
    "detectors/golden/card.json": DetectorCard,
    "laboratories/kampala/v0001/card.json": LaboratoryCard,
}


@pytest.fixture
def newest(tmp_path: Path) -> Store:
    """A copy of the newest golden store: where it is not of today, the next one is to be made."""
    return copied(VERSIONS[-1], tmp_path)


@pytest.mark.parametrize("path", WRITTEN)
def test_the_newest_golden_store_has_the_fields_of_today(newest: Store, path: str) -> None:
    fields = WRITTEN[path].model_fields
    data = newest.read_json(path)
    assert data["schema_version"] == fields["schema_version"].default
    assert data.keys() - {OWN_DIGEST} == fields.keys()


def test_the_newest_golden_store_has_the_columns_of_today(newest: Store) -> None:
    schemas = {"images": image_schema(golden.CLASSES, ["layer1", "layer2"])}
    schemas |= {kind: SCHEMAS[kind]() for kind in (SLIDES, PATIENTS, BATCHES)}
    for kind, schema in schemas.items():
        path = report_path("night", golden.DAY, kind)
        assert read_footer(newest, *path).schema.to_arrow_schema().equals(schema), kind
    manifest = read_manifest(newest, load_batch(newest, "night"))
    assert manifest.schema.equals(SCHEMA)
    attributes = newest.read_json("features/golden/night.zarr/zarr.json")["attributes"]
    assert (attributes["schema_version"], attributes["decoding"]) == (SCHEMA_VERSION, DECODING)


# Stores from the future

RECORDS: dict[str, Callable[[Store], object]] = {
    "models/golden/card.json": lambda store: find_card(store, "golden"),
    "batches/night/batch.json": lambda store: load_batch(store, "night"),
    "batches/night/ledger/golden/000000.json": lambda store: [
        read_shard_record(store, load_batch(store, "night"), "golden", shard)
        for shard in load_batch(store, "night").shards()
    ],
    "batches/night/quarantine/golden/000001.json": lambda store: [
        read_quarantine(store, load_batch(store, "night"), "golden", shard)
        for shard in load_batch(store, "night").shards()
    ],
    "batches/night/screenings/{key}.json": lambda store: screening_start(
        store, load_batch(store, "night"), key(store)
    ),
    "batches/night/sealed/{key}.json": lambda store: list_seals(store, load_batch(store, "night")),
    "statistics/golden/v0001/lineage.json": lambda store: latest_statistics(store, "golden"),
    "detectors/golden/card.json": lambda store: load_detector_card(store),
}


@pytest.mark.parametrize("path", RECORDS)
@STRANGE
def test_what_a_newer_slidewatch_wrote_is_refused(
    old: Store, path: str, strange: dict[str, int]
) -> None:
    assert_newer_is_refused(old, path, RECORDS[path], strange)


def read_the_features(store: Store) -> None:
    read_block(store, "golden", "night", 0, 5)


@pytest.mark.parametrize("use", [read_the_features, make_the_features_again])
def test_features_that_a_newer_slidewatch_wrote_are_refused(
    old: Store, use: Callable[[Store], None]
) -> None:
    use(old)
    path = "features/golden/night.zarr/zarr.json"
    data = old.read_json(path)
    data["attributes"]["schema_version"] = 99
    old.write_json(data, path)
    with pytest.raises(StoreError, match=r"night\.zarr was written by a newer slidewatch"):
        use(old)
