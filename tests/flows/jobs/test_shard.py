import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from flows.jobs import shard as shard_module
from flows.jobs.fitting import fitted_rows
from flows.jobs.networks import load_classifier, load_inference
from flows.jobs.shard import run_shard
from storage.batches.features import FAILED, SCORED, read_block, write_block
from storage.batches.known_features import verified_block
from storage.batches.ledger import Failure, complete_shards, read_shard_record
from storage.batches.manifests import read_manifest
from storage.models import classifiers, contributions, statistics
from storage.records import arrays_to_bytes
from storage.store import Store, StoreError, digest_of
from tasks.detector.calibration import leave_group_out
from tasks.detector.moments import merge_statistics, statistics_of
from tasks.images.listing import class_numbers
from tests.support.models import CLASSES, HELD_OUT, WHEN
from tests.support.shards import Night, start_spoilt


@pytest.fixture
def spoilt(store_with_model: Store, cells: Path, tmp_path: Path) -> Night:
    return start_spoilt(store_with_model, cells, tmp_path)


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "extract", lambda *_, **__: pytest.fail("images were read"))


def test_a_night_is_extracted_and_entered_into_the_ledger(night: Night) -> None:
    results = night.run()
    assert [(r.shard.start, r.shard.stop, r.reused, r.failures) for r in results] == [
        (0, 10, False, ()), (10, 20, False, ()), (20, 24, False, ()),
    ]  # fmt: skip
    assert complete_shards(night.store, night.batch, "tiny") == {0, 1, 2}
    block = read_block(night.store, "tiny", "night", 0, 24)
    assert (block.status == SCORED).all()
    assert np.bincount(block.label).tolist() == [12, 12]
    uris = read_manifest(night.store, night.batch)["uri"].to_pylist()
    wanted = [digest_of(Path(uri.removeprefix("file://")).read_bytes()) for uri in uris]
    assert [row.tobytes().hex() for row in block.image_id] == wanted
    assert (block.size > 80).all()


def test_a_shard_that_is_complete_is_not_read_again(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = night.run(fit=True)
    no_decoding(monkeypatch)
    second = night.run(fit=True)
    assert all(result.reused for result in second)
    for one, two in zip(first, second, strict=True):
        assert (one.fitted, one.held_out, one.failures) == (two.fitted, two.held_out, two.failures)
        a, b = one.statistics.to_arrays(), two.statistics.to_arrays()  # type: ignore[union-attr]
        assert {n: v.tobytes() for n, v in a.items()} == {n: v.tobytes() for n, v in b.items()}


@pytest.mark.parametrize("loss", ["lost", "damaged", "cut short", "never entered"])
def test_features_that_are_not_what_the_ledger_says_are_extracted_again(
    night: Night, loss: str
) -> None:
    night.run()
    before = read_block(night.store, "tiny", "night", 0, 24).digest()
    block = read_block(night.store, "tiny", "night", 10, 20)
    if loss == "lost":
        night.store.remove("features", "tiny", "night.zarr", "rows", "status", "c.1")
    elif loss == "never entered":  # killed between the features and the ledger
        night.store.remove("batches", "night", "ledger", "tiny", "000001.json")
    elif loss == "cut short":
        os.truncate(night.store.path("features", "tiny", "night.zarr", "taps", "c.1.0"), 9)
    else:
        block.taps["layer1"][3, 3] += 1
        write_block(night.store, "tiny", "night", 10, block)
    second = night.job(1).shard
    assert verified_block(night.store, "tiny", night.batch, second) is None
    assert [result.reused for result in night.run()] == [True, False, True]
    assert read_block(night.store, "tiny", "night", 0, 24).digest() == before


def test_held_out_patients_are_in_no_statistics(night: Night) -> None:
    results = night.run(fit=True)
    assert sum(result.fitted for result in results) == 18
    assert sum(result.held_out for result in results) == 6
    block = read_block(night.store, "tiny", "night", 0, 24)
    patients = np.array(read_manifest(night.store, night.batch)["patient_id"].to_pylist())
    for result in results:
        rows = np.arange(result.shard.start, result.shard.stop)
        rows = rows[patients[rows] != HELD_OUT]
        taken = block.take(rows)
        wanted = statistics_of(
            taken.taps, taken.label, 2, fitted_rows.keys_of_rows(rows_of(night, rows))
        )
        assert result.statistics is not None
        found = result.statistics.to_arrays()
        for name, values in wanted.to_arrays().items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def rows_of(night: Night, rows: NDArray[np.intp]) -> contributions.Rows:
    """Some rows of the night, with their patients and slides."""
    manifest = read_manifest(night.store, night.batch)
    names = (manifest[name].to_pylist() for name in ("patient_id", "slide_id"))
    return contributions.Rows("night", np.arange(manifest.num_rows), *names).take(rows)


def test_statistics_of_rows_equal_those_of_the_features_in_the_store(night: Night) -> None:
    night.run()
    rows = np.array([3, 4, 11, 20])
    taken = read_block(night.store, "tiny", "night", 0, 24).take(rows)
    part = rows_of(night, rows)
    found = fitted_rows.rows_statistics(
        fitted_rows.RowsJob(night.store, night.card, part)
    ).to_arrays()
    wanted = statistics_of(taken.taps, taken.label, 2, fitted_rows.keys_of_rows(part))
    for name, values in wanted.to_arrays().items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_shard_without_one_good_image_fails_none_but_its_own(spoilt: Night) -> None:
    results = spoilt.run(fit=True)
    assert [len(result.failures) for result in results] == [0, 10, 0]
    assert [failure.row for failure in results[1].failures] == list(range(10))
    assert {failure.reason for failure in results[1].failures} == {"damaged"}
    assert (results[1].fitted, results[1].held_out) == (0, 0)
    assert results[1].statistics is not None
    assert all((state.n == 0).all() for state in results[1].statistics.taps.values())
    block = read_block(spoilt.store, "tiny", "night", 10, 20)
    assert (block.status == FAILED).all()
    assert all(np.isnan(values).all() for values in block.taps.values())
    assert block.image_id.any(axis=1).all()
    record = read_shard_record(spoilt.store, spoilt.batch, "tiny", results[1].shard)
    assert record is not None
    images = results[1].failures
    assert record.failures == [
        Failure(row=image.row, reason=image.reason, message=image.message) for image in images
    ]
    uris = read_manifest(spoilt.store, spoilt.batch, results[1].shard)["uri"].to_pylist()
    assert [image.uri for image in images] == uris
    contents = [Path(uri.removeprefix("file://")).read_bytes() for uri in uris]
    assert [image.image_id for image in images] == [digest_of(each) for each in contents]


def test_failures_are_remembered_when_a_shard_is_used_again(
    spoilt: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = spoilt.run()
    no_decoding(monkeypatch)
    assert [result.failures for result in spoilt.run()] == [result.failures for result in first]


def test_the_colour_of_an_image_is_in_its_features_and_its_row(spoilt: Night) -> None:
    spoilt.run()
    for shard in spoilt.batch.shards():
        block = read_block(spoilt.store, "tiny", "night", shard.start, shard.stop)
        assert block.colour is not None
        assert np.array_equal(np.isnan(block.colour[:, 0]), block.status != SCORED)
        seen = block.colour[block.status == SCORED]
        assert ((seen > 16) & (seen <= 255)).all()


def test_a_label_that_is_no_class_is_no_label(night: Night) -> None:
    manifest = read_manifest(night.store, night.batch).slice(0, 3)
    column = manifest.schema.get_field_index("label")
    odd = manifest.set_column(column, "label", [["Uninfected", "Leishmania", None]])
    assert class_numbers(odd, list(CLASSES)).tolist() == [1, -1, -1]


def test_a_model_that_was_tampered_with_scores_nothing(night: Night) -> None:
    load_classifier.cache_clear()
    load_inference.cache_clear()
    night.store.write_bytes(b"other weights", "models", "tiny", "model.safetensors")
    with pytest.raises(StoreError, match=r"model\.safetensors is not the file"):
        run_shard(night.job(0))
    assert complete_shards(night.store, night.batch, "tiny") == set()


# What batches have contributed


def test_what_a_batch_contributes_leaves_out_the_held_out_failed_and_retracted(
    spoilt: Night,
) -> None:
    spoilt.run()
    made = contributions.contributed(
        spoilt.store,
        classifiers.load_card(spoilt.store, "tiny"),
        statistics.Contribution(
            batch="night",
            attempt=1,
            manifest_digest=spoilt.batch.manifest_digest,
            images=4,
            held_out=6,
            without_patients=("C101P1",),
        ),
    )
    # Rows 0-5 are retracted, 10-19 failed, 18-23 held out.
    assert made.rows.tolist() == [6, 7, 8, 9]
    assert made.patients == ["C102P2"] * 4
    assert len(made.slides) == 4


def test_a_group_is_scored_by_the_statistics_of_all_others(night: Night) -> None:
    results = night.run(fit=True)
    total = results[0].statistics
    for result in results[1:]:
        total = merge_statistics(total, result.statistics)  # type: ignore[arg-type]
    content = arrays_to_bytes(total.to_arrays())  # type: ignore[union-attr]
    lineage = statistics.Lineage(
        created_at=WHEN, digest=digest_of(content), model="tiny", version=1, parent=None,
        operation="merge", contributions=[], images={},
    )  # fmt: skip
    statistics.save_statistics(night.store, lineage, content)
    group = np.arange(6)
    parts = (rows_of(night, group[:2]), rows_of(night, group[2:]))
    found = fitted_rows.group_log_distances(fitted_rows.GroupJob(night.store, night.card, 1, parts))
    block = read_block(night.store, "tiny", "night", 0, 24).take(group)
    for column, tap in enumerate(("layer1", "layer2")):
        features = np.asarray(block.taps[tap], np.float64)
        wanted = leave_group_out(total.taps[tap], features, block.label)  # type: ignore[union-attr]
        np.testing.assert_array_equal(found[:, column], wanted)
