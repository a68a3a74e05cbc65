from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st

from storage.batches import features
from storage.batches.manifests import Batch
from storage.store import Store, StoreError

WIDTHS = {"layer2": 3, "layer1": 2}
ROWS, SHARD_ROWS, CLASSES = 10, 4, ["a", "b"]
ARRAYS = ["taps", "rows", *(f"rows/{name}" for name in features.COLUMNS)]
PARTS = ["zarr.json", *(f"{path}/zarr.json" for path in ARRAYS)]


def create(
    store: Store, manifest: str = "m", model: str = "w", widths: dict[str, int] = WIDTHS
) -> None:
    night = Batch.model_construct(
        name="night", rows=ROWS, shard_rows=SHARD_ROWS, manifest_digest=manifest
    )
    features.create_features(
        store, "tiny", night, tap_widths=widths, classes=CLASSES, digest=model, decoding=1
    )


def filled(rows: int, seed: int = 0) -> features.FeatureBlock:
    rng = np.random.default_rng(seed)
    block = features.empty_block(rows, WIDTHS, len(CLASSES))
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
    untouched = read(store).take(np.array([0, 1, 2, 3, 8, 9]))
    assert untouched.digest() == features.empty_block(6, WIDTHS, len(CLASSES)).digest()
    assert read(store, 4, 8).digest() == filled(4).digest()


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
    chunks = {path.relative_to(root).as_posix() for path in Path(root).rglob("c.1*")}
    arrays = {f"rows/{name}" for name in features.COLUMNS}
    assert {path.rpartition("/")[0] for path in chunks} == arrays
    assert chunks == {path for path in synced if not (Path(root) / path).is_dir()}
    folders = {path for path in synced if (Path(root) / path).is_dir()}
    assert folders == {"taps"} | arrays
    # First all files, then the folders that name them.
    assert set(synced[: len(chunks)]) == chunks
    print(f"{len(synced)} fsyncs a shard: {len(chunks)} chunks, {len(folders)} folders")


@pytest.mark.parametrize("damage", ["cut", "lost"])
@pytest.mark.parametrize("part", PARTS)
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
    assert read(store).logits.shape == (ROWS, len(CLASSES))


@pytest.mark.parametrize("part", PARTS)
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
        create(any_store, model="other", widths={"other": 5})

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
        **{name: np.asfortranarray(values) for name, values in block.columns().items()},
    )
    assert strided.digest() == block.digest()


def test_a_digest_is_the_same_in_every_release() -> None:
    block = filled(2)
    block.status[:] = features.SCORED
    for number, values in enumerate(block.arrays().values()):
        values[:] = number
    # Ledgers hold such digests: one that changes would have every shard extracted again.
    assert block.digest() == "544627e3a5f89f78d726facd2f107820ae6dc3e564af777d17a885e2ba324abe"


@pytest.mark.parametrize("name", [*(f"tap/{t}" for t in WIDTHS), *features.COLUMNS])
def test_a_digest_changes_with_every_array(name: str) -> None:
    block, other = filled(ROWS), filled(ROWS)
    other.arrays()[name].flat[-1] += 1
    assert block.digest() != other.digest()


def test_anybody_sees_names_and_types_of_columns_and_reads_them(store: Store) -> None:
    create(store)
    write(store, 0, filled(4))
    group = zarr.open_group(store.path("features", "tiny", "night.zarr"), mode="r")
    assert str(group.tree()).split("\n")[1:] == [
        "├── rows",
        "│   ├── colour (10, 3) float32",
        "│   ├── image_id (10, 32) uint8",
        "│   ├── label (10,) int8",
        "│   ├── logits (10, 2) float32",
        "│   ├── size (10, 2) int32",
        "│   ├── status (10,) uint8",
        "│   └── steady (10,) int8",
        "└── taps (10, 5) float32",
        "",
    ]
    for name, values in filled(4).columns().items():
        np.testing.assert_array_equal(group["rows"][name][:4], values)
    assert group.attrs["classes"] == CLASSES
    assert group.attrs["taps"] == [["layer1", 2], ["layer2", 3]]
    np.testing.assert_array_equal(group["taps"][:4, 2:], filled(4).taps["layer2"])


def test_features_of_an_older_version_are_named_and_made_again(store: Store) -> None:
    create(store)
    write(store, 0, filled(4))
    path = ("features", "tiny", "night.zarr", "zarr.json")
    metadata = store.read_json(*path)
    metadata["attributes"]["schema_version"] = 1
    store.write_json(metadata, *path)
    with pytest.raises(StoreError, match=r"night\.zarr was written by an older slidewatch"):
        read(store)
    create(store)
    assert (read(store).status == features.PENDING).all()
