from collections.abc import Iterator
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.batches import manifests
from storage.parquet import table_to_bytes
from storage.store import Store, StoreError
from tests.support.batches import freeze, manifest
from tests.support.models import WHEN


def test_a_frozen_batch_comes_back(store: Store) -> None:
    batch = freeze(store, manifest(10))
    assert manifests.load_batch(store, "night") == manifests.find_batch(store, "night") == batch
    assert manifests.read_manifest(store, batch).equals(manifest(10))


def test_a_batch_of_several_sources_comes_back_and_one_is_kept_as_before(store: Store) -> None:
    for name, images in (("one", "cells"), ("two", ["cells", "more"])):
        freeze(store, manifest(3), name, images=images)
        assert store.read_json("batches", name, "batch.json")["images"] == images
    assert manifests.load_batch(store, "one").images == "cells"
    assert manifests.load_batch(store, "two").images == ("cells", "more")


@pytest.mark.parametrize("name", ["..", "a/b", "", "night\n", "🩸"])
def test_a_batch_name_that_is_no_folder_is_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="is no batch name"):
        freeze(store, manifest(1), name)
    with pytest.raises(StoreError, match="is no batch name"):
        manifests.find_batch(store, name)


@pytest.mark.parametrize(("rows", "wanted"), [(0, 8), (1, 8), (24, 8), (25, 16), (1000, 16)])
def test_a_large_night_has_larger_shards(
    store: Store, rows: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "SHARDS", 3)
    assert freeze(store, manifest(rows), shard_rows=8).shard_rows == wanted


@given(rows=st.integers(1, 40), shard_rows=st.integers(1, 45))
def test_shards_cover_every_row_once_in_whole_chunks_and_read_their_slice_of_the_manifest(
    tmp_path_factory: pytest.TempPathFactory, rows: int, shard_rows: int
) -> None:
    store = Store(str(tmp_path_factory.getbasetemp() / "slices"))
    store.remove("batches")
    batch = freeze(store, manifest(rows), shard_rows=shard_rows)
    shards = list(batch.shards())
    assert [row for s in shards for row in range(s.start, s.stop)] == list(range(rows))
    assert [s.number for s in shards] == list(range(len(shards)))
    assert all(s.start % shard_rows == 0 for s in shards)
    assert all(s.stop - s.start == shard_rows for s in shards[:-1])
    for shard in shards:
        wanted = manifest(rows).slice(shard.start, shard.stop - shard.start)
        assert manifests.read_manifest(store, batch, shard).equals(wanted)


def test_a_shard_reads_only_the_columns_it_asks_for(store: Store) -> None:
    batch = freeze(store, manifest(10))
    read = manifests.read_manifest(store, batch, manifests.Shard(2, 8, 10), columns=["uri"])
    assert read.equals(manifest(10).select(["uri"]).slice(8))


def test_a_lost_manifest_is_named(store: Store) -> None:
    batch = freeze(store, manifest(10))
    store.remove("batches", "night", "manifest.parquet")
    with pytest.raises(StoreError, match="batch night has lost its manifest"):
        manifests.read_manifest(store, batch)


def test_an_unknown_batch_is_answered_with_those_that_there_are(store: Store) -> None:
    with pytest.raises(StoreError, match=r"no batch 'x' in .*; there are: none"):
        manifests.load_batch(store, "x")
    freeze(store, manifest(1), "second", started_at=WHEN + timedelta(days=1))
    freeze(store, manifest(1), "zeroth")
    assert [batch.name for batch in manifests.list_batches(store)] == ["zeroth", "second"]
    with pytest.raises(StoreError, match=r"there are: zeroth, second$"):
        manifests.load_batch(store, "x")


def test_a_stray_folder_hides_no_batch(store: Store) -> None:
    batch = freeze(store, manifest(1))
    store.write_bytes(b"", "batches", "lost+found", "file")
    assert manifests.list_batches(store) == [batch]


class InParts:
    """A table in parts of three rows."""

    def __init__(self, table: pa.Table) -> None:
        self.rows, self._table = table.num_rows, table

    def parts(self) -> Iterator[pa.Table]:
        return (self._table.slice(start, 3) for start in range(0, max(1, self.rows), 3))


@pytest.mark.parametrize("rows", [1, 8, 11])
def test_a_manifest_in_parts_is_the_file_that_the_whole_is(store: Store, rows: int) -> None:
    batch = freeze(store, InParts(manifest(rows)))
    content = store.read_bytes("batches", "night", "manifest.parquet")
    assert content == table_to_bytes(manifest(rows), batch.shard_rows)
    assert batch.rows == rows
    assert freeze(store, InParts(manifest(0)), "none").rows == 0


def test_a_long_manifest_has_few_row_groups_of_whole_shards(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.batches.manifests.GROUPS", 3)
    table = manifest(25)  # seven shards of four rows
    batch = freeze(store, InParts(table))
    file = pq.ParquetFile(store.path("batches", "night", "manifest.parquet"))
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [12, 12, 1]
    parts = [manifests.read_manifest(store, batch, shard) for shard in batch.shards()]
    assert [part.num_rows for part in parts] == [4] * 6 + [1]
    assert pa.concat_tables(parts).equals(table)
    assert [start for start, _ in manifests.iterate_manifest(store, batch)] == [0, 12, 24]
    uris = table["uri"].to_pylist()
    assert manifests.find_rows(store, batch, [uris[24], uris[3]])["uri"].to_pylist() == [
        uris[3],
        uris[24],
    ]


def test_rows_are_found_by_their_numbers_in_any_order(store: Store) -> None:
    batch = freeze(store, manifest(20))
    uris = manifest(20)["uri"].to_pylist()
    wanted = [17, 3, 8, 3, 0, 19]
    assert manifests.rows_at(store, batch, wanted)["uri"].to_pylist() == [
        uris[row] for row in wanted
    ]
    assert manifests.rows_at(store, batch, []).num_rows == 0
