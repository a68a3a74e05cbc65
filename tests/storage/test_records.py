from datetime import UTC, datetime

import numpy as np
import pytest

from storage import records
from storage.store import Store, StoreError, digest_of

CONTENT = records.arrays_to_bytes({"thing": np.arange(3)})
WHEN = datetime(2026, 1, 3, 8, tzinfo=UTC)


class Leaf(records.Entry):
    count: int


class Thing(records.Record):
    name: str
    leaves: list[Leaf]


THING = Thing(name="größer 🩸", leaves=[Leaf(count=1), Leaf(count=2)])


def card(content: bytes = CONTENT) -> records.Card:
    return records.Card(created_at=WHEN, digest=digest_of(content))


def save(store: Store, made: records.Card, content: bytes = CONTENT) -> None:
    records.save_described(store, content, made, "folder", file="file", card_file="card.json")


def test_a_record_comes_back_equal_and_with_the_same_bytes(any_store: Store) -> None:
    THING.write(any_store, "a.json")
    back = Thing.read(any_store, "a.json")
    back.write(any_store, "b.json")
    assert back == THING
    assert any_store.read_bytes("a.json") == any_store.read_bytes("b.json")
    assert "größer 🩸" in any_store.read_bytes("a.json").decode()


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"name": "n", "leaves": [], "surprise": 1}, "surprise"),
        ({"name": "n"}, "leaves"),
        ({"name": 7, "leaves": []}, "name"),
        ({"name": "n", "leaves": [{"count": 1}, {"count": "many"}]}, r"leaves\.1\.count"),
        ({"name": "n", "leaves": [{"count": 1, "surprise": 2}]}, r"leaves\.0\.surprise"),
        (["name"], ""),
    ],
)
def test_a_wrong_record_names_its_file_and_field(
    any_store: Store, data: object, field: str
) -> None:
    any_store.write_json(data, "folder", "thing.json")
    with pytest.raises(StoreError, match=rf"folder/thing\.json is no valid Thing: {field}: "):
        Thing.read(any_store, "folder", "thing.json")


def test_a_file_that_is_not_the_cards_is_refused(any_store: Store) -> None:
    save(any_store, card())
    any_store.write_bytes(b"tampered with", "folder", "file")
    with pytest.raises(StoreError, match=r"folder/file is not the file that its card describes"):
        records.load_described(any_store, card(), "folder", "file")


def test_a_card_of_other_content_is_refused_before_anything_is_written(any_store: Store) -> None:
    with pytest.raises(ValueError, match=r"card\.json does not describe this file"):
        save(any_store, card(b"other"))
    assert any_store.names("folder") == []


def test_arrays_keep_shape_kind_and_bytes() -> None:
    arrays = {
        "b": np.arange(6, dtype=np.int64).reshape(2, 3).T,
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float32),
        "a": np.array([np.nan, -0.0, np.inf]),
    }
    content = records.arrays_to_bytes(arrays)
    assert digest_of(content) == digest_of(records.arrays_to_bytes(dict(reversed(arrays.items()))))
    back = records.arrays_from_bytes(content)
    assert {name: (a.shape, a.dtype) for name, a in back.items()} == {
        name: (a.shape, a.dtype) for name, a in arrays.items()
    }
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("content", [b"", b"not safetensors", bytes(100)])
def test_damaged_arrays_are_a_store_error(content: bytes) -> None:
    with pytest.raises(StoreError, match="damaged safetensors"):
        records.arrays_from_bytes(content)
