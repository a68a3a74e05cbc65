"""Files are joined to one whose rows, statistics and filters are theirs."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.joining import join_files, shifted
from storage.parquet import read_table, write_parts
from storage.store import MissingError, Store, StoreError, digest_of

ROWS = 6_000
RNG = np.random.default_rng(3)
TABLE = pa.table(
    {
        "id": [RNG.bytes(16).hex() for _ in range(ROWS)],
        "kind": pa.array(["red", None, "white"] * (ROWS // 3)).dictionary_encode(),
        "score": RNG.random(ROWS),
        "reasons": pa.array([["a"] * (row % 3) for row in range(ROWS)], pa.list_(pa.string())),
        **{f"more{number}": np.arange(ROWS) for number in range(20)},
    }
).replace_schema_metadata({b"slidewatch.attempt": b"2"})
LENGTHS = ([5_000, 1_000], [1], [], [0, 2_000])  # of the row groups of each file


def pieces(store: Store) -> tuple[list[tuple[tuple[str, ...], str]], pa.Table]:
    """Write files, and return them with their digests, and all of their rows."""
    written, start = [], 0
    for number, lengths in enumerate(LENGTHS):
        groups = []
        for length in lengths:
            groups.append(TABLE.slice(start % ROWS, length))
            start += length
        path = ("pieces", f"{number}.parquet")
        bloom = {"id": {"ndv": ROWS, "fpp": 0.001}}
        written.append((path, write_parts(store, TABLE.schema, groups, *path, bloom=bloom)))
    return written, pa.concat_tables(read_table(store, *path) for path, _ in written)


def test_the_rows_of_all_files_follow_each_other(any_store: Store, tmp_path: Path) -> None:
    written, expected = pieces(any_store)
    joined = tmp_path / "joined.parquet"
    assert join_files(joined, any_store, written) == digest_of(joined.read_bytes())
    with pq.ParquetFile(joined, page_checksum_verification=True) as file:
        assert file.read().equals(expected, check_metadata=True)
        assert [file.metadata.row_group(n).num_rows for n in range(4)] == [5_000, 1_000, 1, 2_000]
        statistics = file.metadata.row_group(3).column(4).statistics
        assert (statistics.min, statistics.max) == (1, 2_000)
    for row in (0, 5_500, 7_000):
        found = duckdb.execute(
            "SELECT score FROM read_parquet($1) WHERE id = $2",
            [str(joined), expected["id"][row].as_py()],
        ).fetchall()
        assert (expected["score"][row].as_py(),) in found
    probed = duckdb.execute(
        "SELECT bloom_filter_excludes FROM parquet_bloom_probe($1, 'id', $2)",
        [str(joined), expected["id"][7_000].as_py()],
    ).fetchall()
    assert probed == [(False,), (True,), (True,), (False,)]  # the last file repeats rows


def test_one_file_is_joined_to_an_equal_one(store: Store, tmp_path: Path) -> None:
    written, _ = pieces(store)
    for path, digest in written:
        assert join_files(tmp_path / "joined", store, [(path, digest)]) == digest


def test_a_footer_is_shifted_and_back(store: Store) -> None:
    ((path, _), *_), _ = pieces(store)
    content = store.read_bytes(*path)
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    for by in (1, 200, 2**21, 2**40):
        far = shifted(footer, by)
        assert len(far) >= len(footer)
        assert shifted(far, -by) == footer


def test_a_damaged_or_missing_file_is_not_joined(store: Store, tmp_path: Path) -> None:
    written, _ = pieces(store)
    content = bytearray(store.read_bytes(*written[1][0]))
    content[40] ^= 1
    store.write_bytes(bytes(content), *written[1][0])
    with pytest.raises(StoreError, match=r"1\.parquet is not what a worker wrote .* run the same"):
        join_files(tmp_path / "joined", store, written)
    store.remove(*written[1][0])
    with pytest.raises(MissingError, match=r"1\.parquet does not exist"):
        join_files(tmp_path / "joined", store, written)
