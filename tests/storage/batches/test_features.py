from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st

from storage.batches import features
from storage.store import Store, StoreError

WIDTHS = {"layer2": 3, "layer1": 2}
ROWS, SHARD_ROWS, CLASSES = 10, 4, 2
DIGESTS = {"manifest": "m", "model": "w"}


def create(store: Store, rows: int = ROWS, **digests: str) -> None:
    features.create_features(
        store,
        "tiny",
        "night",
        rows=rows,
        shard_rows=SHARD_ROWS,
        tap_widths=WIDTHS,
        classes=CLASSES,
        digests=DIGESTS | digests,
    )


def filled(rows: int, seed: int = 0) -> features.FeatureBlock:
    rng = np.random.default_rng(seed)
    block = features.empty_block(rows, WIDTHS, CLASSES)
    for values in block.arrays().values():
        values[:] = rng.integers(0, 100, values.shape)
    return block


def write(store: Store, start: int, block: features.FeatureBlock) -> None:
    features.write_block(store, "tiny", "night", start, block)


def read(store: Store, start: int = 0, stop: int = ROWS) -> features.FeatureBlock:
    return features.read_block(store, "tiny", "night", start, stop)


def test_blocks_written_by_shards_are_read_as_one(any_store: Store) -> None:
    create(any_store)
    whole = filled(ROWS)
    for start in (8, 0, 4):
        write(any_store, start, whole.take(np.arange(start, min(start + SHARD_ROWS, ROWS))))
    assert read(any_store).digest() == whole.digest()
    assert read(any_store, 3, 9).digest() == whole.take(np.arange(3, 9)).digest()


def test_rows_that_nobody_wrote_are_pending_and_not_a_number(store: Store) -> None:
    create(store)
    write(store, 4, filled(4))
    block = read(store)
    untouched = [0, 1, 2, 3, 8, 9]
    assert (block.status[untouched] == features.PENDING).all()
    for values in (*block.taps.values(), block.logits):
        assert np.isnan(values[untouched]).all()
        assert np.isfinite(values[4:8]).all()


@given(start=st.integers(0, 14), length=st.integers(0, 14))
@example(start=8, length=4)  # a whole chunk, but beyond the last row
def test_only_whole_chunks_are_written(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int
) -> None:
    store = Store(str(tmp_path_factory.getbasetemp() / "chunks"))
    create(store)
    begins_a_chunk, stop = start % SHARD_ROWS == 0, start + length
    if begins_a_chunk and ((length == SHARD_ROWS and stop <= ROWS) or stop == ROWS):
        write(store, start, filled(length))
        return
    before = read(store).digest()
    with pytest.raises(ValueError, match=f"rows {start}:{stop} of 10 are not whole chunks of 4"):
        write(store, start, filled(length, seed=1))
    assert read(store).digest() == before


def test_the_chunks_of_a_shard_are_synced_and_no_others(store: Store, synced: list[str]) -> None:
    """The ledger says next that they are there, also after a power cut."""
    create(store)
    root = store.path("features", "tiny", "night.zarr")
    write(store, 0, filled(SHARD_ROWS))
    synced.clear()
    block = filled(SHARD_ROWS)
    for values in block.taps.values():
        values[:] = np.nan  # equal to the fill value, so there is no chunk
    write(store, SHARD_ROWS, block)
    synced[:] = [path.removeprefix(f"{root}/") for path in synced]
    found = [path for pattern in ("**/c/1", "**/c/1/*") for path in Path(root).glob(pattern)]
    chunks = {path.relative_to(root).as_posix() for path in found if path.is_file()}
    assert chunks == {"rows/c/1/0"}
    assert chunks == {path for path in synced if not (Path(root) / path).is_dir()}
    folders = {path for path in synced if (Path(root) / path).is_dir()}
    assert {"rows/c/1", "rows/c", "rows", "taps/c", "taps"} <= folders
    # First all files, then the folders that name them.
    assert set(synced[: len(chunks)]) == chunks
    print(f"{len(synced)} fsyncs a shard: {len(chunks)} chunks, {len(folders)} folders")


@pytest.mark.parametrize("damage", ["cut", "lost"])
@pytest.mark.parametrize("part", ["zarr.json", "rows/zarr.json", "taps/zarr.json"])
def test_a_group_whose_metadata_are_damaged_is_made_anew(
    store: Store, part: str, damage: str
) -> None:
    create(store)
    path = Path(store.path("features", "tiny", "night.zarr", part))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:20])
    else:
        path.unlink()
    create(store)
    assert read(store).logits.shape == (ROWS, CLASSES)


@pytest.mark.parametrize("part", ["zarr.json", "rows/zarr.json", "taps/zarr.json"])
def test_a_group_whose_metadata_are_damaged_is_named(store: Store, part: str) -> None:
    create(store)
    path = Path(store.path("features", "tiny", "night.zarr", part))
    path.write_bytes(path.read_bytes().replace(b'"', b"\xa2"))
    with pytest.raises(StoreError, match=r"the metadata of \S+/night\.zarr are damaged"):
        read(store)


def test_a_group_that_another_process_made_anew_is_read_anew(any_store: Store) -> None:
    create(any_store)
    assert read(any_store).taps.keys() == WIDTHS.keys()

    def make_anew() -> None:
        any_store.remove("features", "tiny", "night.zarr")
        features.create_features(
            any_store, "tiny", "night", rows=ROWS, shard_rows=SHARD_ROWS, tap_widths={"other": 5},
            classes=CLASSES, digests=DIGESTS | {"model": "other"},
        )  # fmt: skip

    # fsspec has a filesystem for each thread.
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(make_anew).result()
    assert read(any_store).taps.keys() == {"other"}


def test_nothing_of_a_group_that_is_made_anew_is_left(any_store: Store) -> None:
    create(any_store)
    assert len(read(any_store)) == ROWS
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(write, any_store, 0, filled(4)).result()
    any_store.write_json(
        {"zarr_format": 3, "node_type": "group", "attributes": {}},
        *("features", "tiny", "night.zarr", "zarr.json"),
    )
    create(any_store)
    assert (read(any_store).status == features.PENDING).all()


@pytest.mark.parametrize("other", [{"manifest": "other"}, {"model": "other"}])
def test_features_of_another_manifest_or_model_are_refused_and_kept(
    store: Store, other: dict[str, str]
) -> None:
    create(store)
    write(store, 0, filled(4))
    with pytest.raises(StoreError, match=r"night\.zarr belongs to another manifest or model"):
        create(store, **other)
    assert read(store, 0, 4).digest() == filled(4).digest()


def test_features_that_were_never_extracted_are_named(store: Store) -> None:
    with pytest.raises(StoreError, match="batch night under model tiny were never extracted"):
        read(store)


def test_a_digest_is_that_of_the_values_wherever_they_lie() -> None:
    block = filled(ROWS)
    strided = features.FeatureBlock(
        taps={n: np.asfortranarray(v) for n, v in reversed(block.taps.items())},
        **{
            name: None if values is None else np.asfortranarray(values)
            for name, values in vars(block).items()
            if name != "taps"
        },
    )
    assert strided.digest() == block.digest()


def test_a_digest_is_the_same_in_every_release() -> None:
    # As slidewatch 0.5 made them.
    block = replace(filled(2), platelet=np.zeros(2, np.uint8), steady=None)
    block.status[:] = features.SCORED
    for number, values in enumerate(block.arrays().values()):
        values[:] = number
    # Ledgers hold such digests: one that changes would have every shard extracted again.
    assert block.digest() == "02cc3d3202a128977e69c4ea898fffbfcab1d06941185a028cce55c17910a739"


@pytest.mark.parametrize("name", [*(f"tap/{t}" for t in WIDTHS), "logits", "label", "status"])
def test_a_digest_changes_with_every_array(name: str) -> None:
    block, other = filled(ROWS), filled(ROWS)
    other.arrays()[name].flat[-1] += 1
    assert block.digest() != other.digest()


def test_records_are_read_without_this_library(store: Store) -> None:
    create(store)
    write(store, 0, filled(4))
    group = zarr.open_group(store.path("features", "tiny", "night.zarr"), mode="r")
    fields = [(name, kind, tuple(shape)) for name, kind, shape in group.attrs["rows"]]
    records = group["rows"][:4].view(np.dtype(fields))[:, 0]
    np.testing.assert_array_equal(records["image_id"], filled(4).image_id)
    assert group.attrs["taps"] == [["layer1", 2], ["layer2", 3]]
    np.testing.assert_array_equal(group["taps"][:4, 2:], filled(4).taps["layer2"])
