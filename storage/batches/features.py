"""Keep features of a batch under a model: ``features/<model>/<batch>.zarr``, in manifest order.

A shard of the batch owns whole chunks, so that two writers never share one. The arrays say what
was seen; whether a shard is complete stands in ``storage.batches.ledger``, because a zarr chunk
equal to its fill value is not written at all. `storage.batches.layout` says how the two arrays of
a group hold those of a block; in groups of before schema version 3 each is an array of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage import objects
from storage.batches.layout import ROWS, TAP, TAPS, described, pack, unpack
from storage.disk import sync_files
from storage.store import Store, StoreError

if TYPE_CHECKING:  # a command that opens no features need not wait for zarr
    from zarr.storage import FsspecStore, LocalStore

SCHEMA_VERSION = 3  # 1 had no `colour`; 1 and 2 had an array for each of a block's
PACKED = 3  # the first version with two arrays
FIRST_DECODING = 1  # how images were decoded for groups that do not say
PENDING, SCORED, FAILED = 0, 1, 2  # values of `status`
GROUPS = 16  # that a process has open


class DamagedError(StoreError):
    """The metadata of features are damaged."""


@dataclass(frozen=True)
class FeatureBlock:
    """The features of consecutive rows of a batch.

    ``taps`` maps a tap's name to float32 (n, d); ``logits`` is float32 (n, C); ``label`` int8
    (n,), -1 where unknown; ``status`` uint8 (n,); ``image_id`` uint8 (n, 32), the sha256 of the
    file's bytes; ``size`` int32 (n, 2), width and height in pixels; ``colour`` float32 (n, 3), mean
    red, green and blue of the pixels that are not black, or None in batches of schema version 1.
    Rows that failed have NaN features.
    """

    taps: dict[str, NDArray[np.float32]]
    logits: NDArray[np.float32]
    label: NDArray[np.int8]
    status: NDArray[np.uint8]
    image_id: NDArray[np.uint8]
    size: NDArray[np.int32]
    colour: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.status)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Map paths in the zarr group to the arrays, in a fixed order."""
        return {
            **{f"{TAP}{name}": values for name, values in sorted(self.taps.items())},
            "logits": self.logits,
            "label": self.label,
            "status": self.status,
            "image_id": self.image_id,
            "size": self.size,
            **({} if self.colour is None else {"colour": self.colour}),
        }

    def take(self, rows: NDArray[np.intp]) -> "FeatureBlock":
        """Take some of the rows as another block."""
        return FeatureBlock(
            taps={name: values[rows] for name, values in self.taps.items()},
            logits=self.logits[rows],
            label=self.label[rows],
            status=self.status[rows],
            image_id=self.image_id[rows],
            size=self.size[rows],
            colour=None if self.colour is None else self.colour[rows],
        )

    @staticmethod
    def joined(blocks: Sequence["FeatureBlock"]) -> "FeatureBlock":
        """Join blocks of one batch, at least one, in their order."""
        arrays = [block.arrays() for block in blocks]
        return FeatureBlock.of(
            {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
        )

    @staticmethod
    def of(arrays: Mapping[str, NDArray[Any]]) -> "FeatureBlock":
        """Make a block of its arrays by path."""
        return FeatureBlock(
            taps={name.removeprefix(TAP): a for name, a in arrays.items() if name.startswith(TAP)},
            **{name: a for name, a in arrays.items() if not name.startswith(TAP)},
        )

    def digest(self) -> str:
        """Compute the sha256 over names, shapes and values, the same on every machine."""
        total = sha256()
        for name, values in self.arrays().items():
            total.update(f"{name}{values.dtype.str}{values.shape}".encode())
            total.update(np.ascontiguousarray(values).data)
        return total.hexdigest()


def empty_block(rows: int, tap_widths: dict[str, int], classes: int) -> FeatureBlock:
    """Make a block of pending rows, to be filled in."""
    return FeatureBlock(
        taps={t: np.full((rows, d), np.nan, np.float32) for t, d in tap_widths.items()},
        logits=np.full((rows, classes), np.nan, np.float32),
        label=np.full(rows, -1, np.int8),
        status=np.full(rows, PENDING, np.uint8),
        image_id=np.zeros((rows, 32), np.uint8),
        size=np.zeros((rows, 2), np.int32),
        colour=np.full((rows, 3), np.nan, np.float32),
    )


def create_features(
    store: Store,
    model: str,
    batch: str,
    *,
    rows: int,
    shard_rows: int,
    tap_widths: dict[str, int],
    classes: int,
    digests: dict[str, str],
    decoding: int = FIRST_DECODING,
) -> None:
    """Preallocate the group from the manifest's length; only the coordinator calls this.

    Nothing happens where the group is there already with the same digests. A group whose making
    was cut short, or whose metadata are damaged, is made anew: the ledger's digests then say that
    its shards are not complete. ``decoding`` is the version of how images are decoded.
    """
    attributes = {"shard_rows": shard_rows, **digests}
    if store.exists("features", model, f"{batch}.zarr", "zarr.json"):
        have = _whole_attributes(store, model, batch)
        if have and {**have, **attributes} == have:
            return
        if have:
            raise StoreError(
                f"{store.address('features', model, f'{batch}.zarr')} belongs to another "
                "manifest or model; remove it or choose another batch name"
            )
    arrays = empty_block(1, tap_widths, classes).arrays()
    attributes |= {"schema_version": SCHEMA_VERSION, "decoding": decoding, **described(arrays)}
    template = pack(arrays)
    if not store.is_local:
        if store.fence:
            store.fence.check()  # one object each, and an object store removes under no condition
        _make_group(_zarr_store(store, model, batch), template, rows, shard_rows, attributes)
        return
    from zarr.storage import LocalStore

    # Not through the fence's own stage: zarr makes the folders above its files.
    with Store(store.url).stage() as stage:
        _make_group(LocalStore(stage), template, rows, shard_rows, attributes)
        store.reveal_folder(stage, "features", model, f"{batch}.zarr")


def _make_group(
    there: "LocalStore | FsspecStore",
    template: dict[str, NDArray[Any]],
    rows: int,
    shard_rows: int,
    attributes: dict[str, Any],
) -> None:
    """Make a group and its arrays of so many rows, shaped like a template's single one."""
    import zarr

    group = zarr.create_group(there, zarr_format=3, overwrite=True)
    for name, values in template.items():
        group.create_array(
            name,
            shape=(rows, *values.shape[1:]),
            chunks=(shard_rows, *values.shape[1:]),
            dtype=values.dtype,
            fill_value=np.nan if values.dtype.kind == "f" else 0,
            compressors=None,
        )
    # The attributes come last: a group without them is one whose making was cut short.
    group.update_attributes(attributes)


def _whole_attributes(store: Store, model: str, batch: str) -> dict[str, Any] | None:
    """Read a group's attributes; None where its metadata or those of an array are damaged."""
    try:
        _arrays.cache_clear()
        return _open(store, model, batch, "r")[1]
    except DamagedError:
        return None


def write_block(store: Store, model: str, batch: str, start: int, block: FeatureBlock) -> str:
    """Write the rows of one shard; they must be exactly whole chunks, or ValueError.

    Returns:
        The digest that the same rows will have when they are read.
    """
    arrays, attributes = _open(store, model, batch, "r+")
    shard_rows, rows = int(attributes["shard_rows"]), next(iter(arrays.values())).shape[0]
    stop = start + len(block)
    if start % shard_rows or stop > rows or not (len(block) == shard_rows or stop == rows):
        raise ValueError(f"rows {start}:{stop} of {rows} are not whole chunks of {shard_rows}")
    if _is_of_first(attributes):
        block = replace(block, colour=None)
    found = pack(block.arrays()) if ROWS in arrays else block.arrays()

    def write(name: str) -> None:
        arrays[name][start:stop] = found[name]

    with store.saying_if_full():
        with store.together() as pool:
            list(pool.map(write, found))
        if store.is_local:
            _sync_chunks(store, model, batch, arrays, start // shard_rows)
    return block.digest()


def _sync_chunks(store: Store, model: str, batch: str, arrays: dict[str, Any], number: int) -> None:
    """Sync the n-th chunk of each array, so that what the ledger says survives a power cut."""
    root = Path(store.path("features", model, f"{batch}.zarr"))
    keys = {
        name: array.metadata.encode_chunk_key((number, *(0 for _ in array.shape[1:])))
        for name, array in arrays.items()
    }
    sync_files([root / name / key for name, key in keys.items()], root)


def read_block(
    store: Store,
    model: str,
    batch: str,
    start: int,
    stop: int,
    *,
    taps: bool = True,
    remembered: bool = False,
) -> FeatureBlock:
    """Read rows ``start`` to ``stop`` of a batch, with their taps or without.

    ``remembered`` spares a request for metadata that this process has read before; they may have
    changed since, so it is for who compares the block with a digest.
    """
    try:
        opened = _OPENED.get((store, model, batch)) if remembered else None
        arrays, attributes = opened or _open(store, model, batch, "r")
        wanted = [n for n in sorted(arrays) if taps or not (n == TAPS or n.startswith(TAP))]
        with store.together() as pool:
            found = dict(
                zip(wanted, pool.map(lambda n: arrays[n][start:stop], wanted), strict=True)
            )
        if ROWS not in found:
            return FeatureBlock.of(found)
        arrays = unpack(found, attributes)
        for values in arrays.values():
            if values.dtype.kind == "f":
                values[arrays["status"] == PENDING] = np.nan  # a record that was not written is 0
        return FeatureBlock.of(arrays)
    # What is said of an array that is not there, of a chunk that has too few bytes, and of fields
    # that are none.
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"rows {start}:{stop} of {store.address('features', model, f'{batch}.zarr')} are "
            f"damaged ({error}): restore them from a backup, or extract them again"
        ) from None


def made_by(store: Store, model: str, batch: str) -> str | None:
    """Read the digest of the model that made a batch's features; StoreError where there are none.

    A model is known by its name, but another one may have been put in its place.
    """
    _, attributes = _open(store, model, batch, "r")
    digest: str | None = attributes.get("model")
    return digest


def decoded_by(store: Store, model: str, batch: str) -> int:
    """Read by which version of decoding a batch's features were made; StoreError without any."""
    _, attributes = _open(store, model, batch, "r")
    return int(attributes.get("decoding", FIRST_DECODING))


def _open(
    store: Store, model: str, batch: str, mode: Literal["r", "r+"]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Open the arrays of a group by path, and read its attributes."""
    address = store.address("features", model, f"{batch}.zarr")
    try:
        metadata = store.read_bytes("features", model, f"{batch}.zarr", "zarr.json")
    except StoreError as error:
        raise StoreError(
            f"{error}: the features of batch {batch} under model {model} were never extracted"
        ) from None
    try:
        attributes: dict[str, Any] = json.loads(metadata).get("attributes", {})
    except (ValueError, AttributeError) as error:
        raise DamagedError(_damage(address, error)) from None
    version = attributes.get("schema_version", 0)
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{address} was written by a newer slidewatch (schema version {version}, this one "
            f"knows {SCHEMA_VERSION}): update slidewatch"
        )
    try:
        opened = _arrays(store, model, batch, mode, metadata), attributes
    # What zarr says of JSON that is cut or flipped, of fields and of arrays that are not there.
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedError(_damage(address, error)) from None
    if len(_OPENED) >= GROUPS:
        _OPENED.clear()
    _OPENED[store, model, batch] = opened
    return opened


_OPENED: dict[tuple[Store, str, str], tuple[dict[str, Any], dict[str, Any]]] = {}


def _damage(address: str, error: Exception) -> str:
    return (
        f"the metadata of {address} are damaged ({error}): restore them from a backup, or extract "
        "the batch again"
    )


@lru_cache(maxsize=GROUPS)
def _arrays(
    store: Store, model: str, batch: str, mode: Literal["r", "r+"], _metadata: bytes
) -> dict[str, Any]:
    """Open the arrays of a group, once a process for all its shards, as the arrays never change.

    A group that was made anew from another manifest or model has other metadata.
    """
    import zarr

    # Told the format, zarr asks an object store for one file and not for those of others.
    group: Any = zarr.open_group(
        _zarr_store(store, model, batch), mode=mode, zarr_format=3, use_consolidated=False
    )
    if group.attrs.get("schema_version", 0) >= PACKED:
        return {name: group[name] for name in (TAPS, ROWS)}
    taps = {f"{TAP}{name}": array for name, array in group["tap"].arrays()}
    others = ["logits", "label", "status", "image_id", "size"]
    if not _is_of_first(group.attrs):
        others.append("colour")
    return taps | {name: group[name] for name in others}


def _is_of_first(attributes: Mapping[str, Any]) -> bool:
    """Tell whether a group is of the first schema version, which knew no colour."""
    return int(attributes.get("schema_version", 0)) < 2


def _zarr_store(store: Store, model: str, batch: str) -> "LocalStore | FsspecStore":
    from zarr.storage import FsspecStore, LocalStore

    path = store.path("features", model, f"{batch}.zarr")
    if store.is_local:
        return LocalStore(path)
    options = objects.one_request(store.fs)
    made = FsspecStore.from_url(str(store.fs.unstrip_protocol(path)), options)
    # fsspec gives the same filesystem again, with the listings that it remembers.
    made.fs.invalidate_cache()
    return made


def image_ids(block: FeatureBlock) -> list[str | None]:
    """List the digests of a block's images in hexadecimal, None where a file could not be read."""
    return [row.tobytes().hex() if row.any() else None for row in block.image_id]
