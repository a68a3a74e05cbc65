"""Find features that the store already has, by an image's digest, instead of recomputing them."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from storage.batches import ledger
from storage.batches.features import SCORED, FeatureBlock, made_by, read_block, read_columns
from storage.batches.manifests import Batch, Shard, load_batch_of_key
from storage.store import Store, StoreError


@dataclass(frozen=True)
class ImageIndex:
    """The positions (n,) in ``batches`` and their rows of images with sorted ``image_ids`` (n,)."""

    batches: tuple[Batch, ...]
    image_ids: NDArray[np.bytes_]
    batch: NDArray[np.int32]
    row: NDArray[np.int64]

    def find(self, image_id: bytes) -> int | None:
        """Find the position of an image, or None."""
        at = int(np.searchsorted(self.image_ids, np.frombuffer(image_id, "S32")[0]))
        return at if self.image_ids[at : at + 1].tobytes() == image_id else None

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, bytes) and self.find(image_id) is not None


@lru_cache(maxsize=2)
def index_images(
    store: Store, model: str, model_digest: str, keys: tuple[str, ...], decoding: int
) -> ImageIndex:
    """Index the images of batches that have features of a model and version of the decoding."""
    batches: list[Batch] = []
    image_ids, numbers, rows = [np.empty((0, 32), np.uint8)], [], []
    for key in keys:
        try:
            batch = load_batch_of_key(store, key)
            # A model that replaced another of the same name has other features.
            if made_by(store, model, key) != (model_digest, decoding):
                continue
            columns = read_columns(store, model, key, 0, batch.rows, ("status", "image_id"))
        except StoreError:  # never extracted under this model, or removed
            continue
        good = np.flatnonzero(columns["status"] == SCORED)
        image_ids.append(columns["image_id"][good])
        numbers.append(np.full(len(good), len(batches), np.int32))
        rows.append(good)
        batches.append(batch)
    ids = np.concatenate(image_ids).view("S32")[:, 0]
    order = np.argsort(ids, kind="stable")
    return ImageIndex(
        tuple(batches),
        ids[order],
        np.concatenate([*numbers, np.empty(0, np.int32)])[order],
        np.concatenate([*rows, np.empty(0, np.int64)])[order],
    )


def copy_features(
    store: Store, model: str, index: ImageIndex, wanted: Mapping[int, bytes], block: FeatureBlock
) -> bool:
    """Fill rows of a block, except labels, from earlier batches; False if they are damaged.

    ``wanted`` maps rows of the block to digests of images that are in the index.
    """
    places: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for row, image_id in wanted.items():
        at = index.find(image_id)
        assert at is not None
        number, source = int(index.batch[at]), int(index.row[at])
        shard, offset = divmod(source, index.batches[number].shard_rows)
        places[number, shard].append((row, offset))
    for (number, shard), pairs in places.items():
        batch = index.batches[number]
        verified = verified_block(store, model, batch, batch.shard(shard))
        if verified is None:
            return False
        rows, offsets = (list(column) for column in zip(*pairs, strict=True))
        source_arrays = verified[0].arrays()
        for name, values in block.arrays().items():
            if name != "label":  # which is the image's own batch's
                values[rows] = source_arrays[name][offsets]
    return True


def verified_block(
    store: Store, model: str, batch: Batch, shard: Shard
) -> tuple[FeatureBlock, ledger.ShardRecord] | None:
    """Read a shard's features and their record; None if they do not match the ledger."""
    record = ledger.read_shard_record(store, batch, model, shard)
    if record is None:
        return None
    # A clean-up or a partial restore may lose or damage features without the ledger.
    try:
        block = read_block(store, model, batch.key, shard.start, shard.stop)
    except StoreError:
        return None
    return (block, record) if block.digest() == record.digest else None


def fitted_block(store: Store, model: str, batch: Batch, shard: Shard) -> FeatureBlock:
    """Read a shard's features, which cannot be recomputed here; StoreError if they are damaged."""
    verified = verified_block(store, model, batch, shard)
    if verified is None:
        features = store.address("features", model, f"{batch.key}.zarr")
        raise StoreError(
            f"the features of rows {shard.start} to {shard.stop} of batch {batch.name} are not "
            f"those that the ledger knows (sha256 differs): restore {features} and "
            f"{store.address('batches', batch.key, 'ledger', model)} from a backup "
            "(slidewatch verify lists all that is damaged)"
        )
    return verified[0]
