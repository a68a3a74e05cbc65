from datetime import UTC, datetime

import pyarrow as pa
import pytest

from storage.smears.answers import (
    SCHEMA,
    Answer,
    Labels,
    add_answer,
    in_order,
    labelled_batch,
    latest_labels,
    next_number,
    other_labels,
    read_answers,
    save_labels,
)
from storage.store import Store, StoreError

WHEN = datetime(2026, 3, 2, 9, tzinfo=UTC)


def review(batch: str, number: int, *answers: str) -> Labels:
    rows = [
        {"image_id": f"{n:02x}", "uri": f"file:///{n}.png", "answer": answer, "answered_at": WHEN}
        for n, answer in enumerate(answers)
    ]
    return Labels(batch, number, pa.Table.from_pylist(rows, SCHEMA))


def test_nothing_is_known_before_the_first_import(store: Store) -> None:
    found = latest_labels(store, "night")
    assert (found.number, found.rows.num_rows) == (0, 0)
    assert list(other_labels(store, "night")) == []


def test_the_newest_import_is_what_is_known_and_the_older_ones_stay(store: Store) -> None:
    for number in range(1, 12):
        save_labels(store, review("night", number, *["other"] * number))
    found = latest_labels(store, "night")
    assert found.number == found.rows.num_rows == 11
    assert found.rows.schema == SCHEMA
    assert store.names("labels", "night")[0] == "0001.parquet"


def test_an_import_is_never_overwritten(store: Store) -> None:
    save_labels(store, review("night", 1, "other"))
    with pytest.raises(StoreError, match="by another run meanwhile"):
        save_labels(store, review("night", 1, "other", "other"))
    assert latest_labels(store, "night").rows.num_rows == 1


def test_answers_of_earlier_attempts_count_before_later_ones(store: Store) -> None:
    for key, reader in (("night", "Ada"), ("night~2", "Ben"), ("night~3", "Cy")):
        answer = Answer(reader=reader, image_id="00", answer="other", at=WHEN, seconds=1.0)
        add_answer(store, key, answer, next_number(store, key))
    found = in_order(dict(read_answers(store, "night~2")))
    assert [each.reader for each in found] == ["Ada", "Ben"]


def test_other_batches_are_the_others(store: Store) -> None:
    for batch in ("a", "b", "c"):
        save_labels(store, review(batch, 1, "other"))
    store.write_json({}, "labels", "lease", "0001.json")
    assert [(each.batch, each.number) for each in other_labels(store, "b")] == [
        ("a", 1),
        ("c", 1),
        ("lease", 0),
    ]


def test_a_source_of_images_is_recognised_as_answers(store: Store) -> None:
    known = store.address(*review("night", 3).path)
    assert labelled_batch(store, known) == "night"
    assert labelled_batch(store, f"file://{known}") == "night"
    for other in (
        store.address("labels", "night"),
        store.address("labels", "0001.parquet"),
        store.address("labels", "night", "deep", "0001.parquet"),
        store.address("reports", "images", "0001.parquet"),
        "zip://reviews/night::file:///0001.zip",
        "/photos",
        "/photos/manifest.parquet",
        "s3://bucket/*.png",
    ):
        assert labelled_batch(store, other) is None, other
