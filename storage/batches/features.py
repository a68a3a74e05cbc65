"""Store a batch's features under a model, in manifest order: ``features/<model>/<batch>.zarr``.

A shard owns whole chunks, so two writers never share one. Whether it is complete is in
`storage.batches.ledger`, because zarr writes no chunk that equals its fill value, "pending".

A group has one array ``taps`` float32 (n, D), all taps side by side, and in the group ``rows`` an
array for each of `COLUMNS`, all with the same chunks. Its attributes name each tap with its width,
and the classes of the logits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage import objects
from storage.batches.manifests import Batch
from storage.disk import sync_files
from storage.records import Arrays
from storage.store import Store, StoreError

if TYPE_CHECKING:  # a command that opens no features does not wait for zarr
    from zarr.storage import FsspecStore, LocalStore

SCHEMA_VERSION = 2
PENDING, SCORED, FAILED = 0, 1, 2  # values of `status`
TAPS, ROWS = "taps", "rows"  # an array and a group in the features of a batch
COLUMNS = ("logits", "label", "status", "image_id", "size", "colour", "steady")  # of the rows
TAP = "tap/"  # prefix of a tap's name among the arrays of a block
GROUPS = 16  # kept open in a process


class UnreadableError(StoreError):
    """The metadata of a features group are damaged, or of an older version."""


@dataclass(frozen=True)
class FeatureBlock:
    """The features of consecutive rows of a batch; rows that failed have NaN.

    ``taps`` maps names to float32 (n, d); ``logits`` float32 (n, C); ``label`` int8 (n,), -1
    unknown; ``status`` uint8 (n,); ``image_id`` uint8 (n, 32), the sha256 of the file's bytes;
    ``size`` int32 (n, 2), width and height; ``colour`` float32 (n, 3), mean red, green and blue of
    pixels that are not black; ``steady`` int8 (n,), 1 if the diagnosis stays when the image is
    blurred, 0 if not, -1 unknown.
    """

    taps: dict[str, NDArray[np.float32]]
    logits: NDArray[np.float32]
    label: NDArray[np.int8]
    status: NDArray[np.uint8]
    image_id: NDArray[np.uint8]
    size: NDArray[np.int32]
    colour: NDArray[np.float32]
    steady: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.status)

    def columns(self) -> Arrays:
        """Map `COLUMNS` to their arrays, each (n, ...)."""
        return {name: getattr(self, name) for name in COLUMNS}

    def arrays(self) -> Arrays:
        """Map names to the arrays, in a fixed order."""
        taps = {f"{TAP}{name}": values for name, values in sorted(self.taps.items())}
        return taps | self.columns()

    def take(self, rows: NDArray[np.intp]) -> "FeatureBlock":
        """Take some of the rows as another block."""
        return FeatureBlock.of({name: values[rows] for name, values in self.arrays().items()})

    @staticmethod
    def joined(blocks: Sequence["FeatureBlock"]) -> "FeatureBlock":
        """Join blocks of one batch, at least one, in their order."""
        arrays = [block.arrays() for block in blocks]
        return FeatureBlock.of(
            {name: np.concatenate([each[name] for each in arrays]) for name in arrays[0]}
        )

    @staticmethod
    def of(arrays: Mapping[str, NDArray[Any]]) -> "FeatureBlock":
        """Make a block from its arrays by name."""
        taps = {n.removeprefix(TAP): a for n, a in arrays.items() if n.startswith(TAP)}
        return FeatureBlock(taps=taps, **{name: arrays[name] for name in COLUMNS})

    def digest(self) -> str:
        """Compute the sha256 over names, shapes and values, the same on every machine."""
        total = sha256()
        for name, values in self.arrays().items():
            total.update(f"{name}{values.dtype.str}{values.shape}".encode())
            total.update(np.ascontiguousarray(values).data)
        return total.hexdigest()

    def stored(self) -> Arrays:
        """Map the names of stored arrays to their values: the taps side by side, and the rows."""
        taps = [values for _, values in sorted(self.taps.items())]
        return {TAPS: np.concatenate(taps, axis=1)} | self.columns()


def empty_block(rows: int, tap_widths: dict[str, int], classes: int) -> FeatureBlock:
    """Make a block of pending rows."""
    return FeatureBlock(
        taps={t: np.full((rows, d), np.nan, np.float32) for t, d in tap_widths.items()},
        logits=np.full((rows, classes), np.nan, np.float32),
        label=np.full(rows, -1, np.int8),
        status=np.full(rows, PENDING, np.uint8),
        image_id=np.zeros((rows, 32), np.uint8),
        size=np.zeros((rows, 2), np.int32),
        colour=np.full((rows, 3), np.nan, np.float32),
        steady=np.full(rows, -1, np.int8),
    )


def create_features(
    store: Store,
    model: str,
    batch: Batch,
    *,
    tap_widths: dict[str, int],
    classes: Sequence[str],
    digest: str,
    decoding: int,
) -> None:
    """Preallocate the group from the manifest's length; only the coordinator calls this.

    One of the same manifest and model (``digest``) stays. An unfinished, damaged or older one is
    replaced: the ledger's digests then show that its shards are incomplete. ``decoding`` is the
    version of the image decoding.
    """
    folder = f"{batch.key}.zarr"
    attributes: dict[str, Any] = {"shard_rows": batch.shard_rows, "model": digest}
    attributes["manifest"] = batch.manifest_digest
    if store.exists("features", model, folder, "zarr.json"):
        try:
            _arrays.cache_clear()
            have = _open(store, model, batch.key, "r")[1]
        except UnreadableError:
            have = {}
        if have and {**have, **attributes} == have:
            return
        if have:
            raise StoreError(
                f"{store.address('features', model, folder)} belongs to another manifest or model; "
                "remove it or choose another batch name"
            )
    attributes |= {
        "schema_version": SCHEMA_VERSION,
        "decoding": decoding,
        "classes": list(classes),
        TAPS: sorted(tap_widths.items()),
    }
    pending = empty_block(1, tap_widths, len(classes))
    if not store.is_local:
        if store.fence:
            store.fence.check()  # one object each; object stores have no conditional removal
        _make_group(_zarr_store(store, model, batch.key), pending, batch.rows, attributes)
        return
    from zarr.storage import LocalStore

    # Not through the fence's own stage: zarr makes the folders above its files.
    with Store(store.url).stage() as stage:
        _make_group(LocalStore(stage), pending, batch.rows, attributes)
        store.reveal_folder(stage, "features", model, folder)


def _make_group(
    there: "LocalStore | FsspecStore", pending: FeatureBlock, rows: int, attributes: dict[str, Any]
) -> None:
    import zarr

    group = zarr.create_group(there, zarr_format=3, overwrite=True)
    columns = group.create_group(ROWS)
    for name, values in pending.stored().items():
        (group if name == TAPS else columns).create_array(
            name,
            shape=(rows, *values.shape[1:]),
            chunks=(attributes["shard_rows"], *values.shape[1:]),
            dtype=values.dtype,
            fill_value=values.flat[0],
            compressors=None,
            # A chunk is a file in its array's folder, and has no folder of its own to be synced.
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=("image", name)[: values.ndim],
        )
    # The attributes come last: a group without them is unfinished.
    group.update_attributes(attributes)


def write_block(store: Store, model: str, batch: str, start: int, block: FeatureBlock) -> str:
    """Write the rows of one shard, whole chunks or ValueError; return the digest of these rows."""
    arrays, attributes = _open(store, model, batch, "r+")
    shard_rows, rows = int(attributes["shard_rows"]), arrays[TAPS].shape[0]
    stop = start + len(block)
    if start % shard_rows or stop > rows or not (len(block) == shard_rows or stop == rows):
        raise ValueError(f"rows {start}:{stop} of {rows} are not whole chunks of {shard_rows}")
    stored = block.stored()

    def write(name: str) -> None:
        arrays[name][start:stop] = stored[name]

    with store.explaining():
        with store.together() as pool:
            list(pool.map(write, stored))
        if store.is_local:
            _sync_chunks(store, model, batch, arrays, start // shard_rows)
    return block.digest()


def _sync_chunks(store: Store, model: str, batch: str, arrays: dict[str, Any], number: int) -> None:
    """Sync the n-th chunk of each array, so that the ledger's claims survive a power cut."""
    root = Path(store.path("features", model, f"{batch}.zarr"))
    keys = [
        f"{array.path}/{array.metadata.encode_chunk_key((number, *(0 for _ in array.shape[1:])))}"
        for array in arrays.values()
    ]
    sync_files(root / key for key in keys)


def read_block(
    store: Store, model: str, batch: str, start: int, stop: int, *, taps: bool = True
) -> FeatureBlock:
    """Read rows ``start`` to ``stop`` of a batch, with or without their taps."""
    names = (TAPS, *COLUMNS) if taps else COLUMNS
    return FeatureBlock.of(read_columns(store, model, batch, start, stop, names))


def read_columns(
    store: Store, model: str, batch: str, start: int, stop: int, names: Sequence[str]
) -> Arrays:
    """Read some of `COLUMNS` (n, ...) of rows ``start`` to ``stop``; `TAPS` are ``tap/<tap>``."""
    try:
        arrays, attributes = _open(store, model, batch, "r")
        with store.together() as pool:
            values = pool.map(lambda name: arrays[name][start:stop], names)
            found = dict(zip(names, values, strict=True))
        if TAPS not in found:
            return found
        ends = np.cumsum([width for _, width in attributes[TAPS]])
        if ends[-1] != found[TAPS].shape[1]:
            raise ValueError(f"taps have {found[TAPS].shape[1]} numbers a row, not {ends[-1]}")
        parts = np.split(found.pop(TAPS), ends[:-1], axis=1)
        return found | {
            f"{TAP}{tap}": np.ascontiguousarray(part)
            for (tap, _), part in zip(attributes[TAPS], parts, strict=True)
        }
    # Raised for a missing array, a chunk with too few bytes, and malformed fields.
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"rows {start}:{stop} of {store.address('features', model, f'{batch}.zarr')} are "
            f"damaged ({error}): restore them from a backup, or extract them again"
        ) from None


def made_by(store: Store, model: str, batch: str) -> tuple[str, int]:
    """Read the model's digest and the version of the decoding that made a batch's features."""
    _, attributes = _open(store, model, batch, "r")
    return attributes["model"], attributes["decoding"]


def _open(
    store: Store, model: str, batch: str, mode: Literal["r", "r+"]
) -> tuple[dict[str, Any], dict[str, Any]]:
    address = store.address("features", model, f"{batch}.zarr")
    try:
        metadata = store.read_bytes("features", model, f"{batch}.zarr", "zarr.json")
    except StoreError as error:
        raise StoreError(
            f"{error}: the features of batch {batch} under model {model} were never extracted"
        ) from None
    try:
        attributes: dict[str, Any] = json.loads(metadata).get("attributes", {})
        version = attributes.get("schema_version", 0)
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{address} was written by a newer slidewatch (schema version {version}, this one "
                f"knows {SCHEMA_VERSION}): update slidewatch"
            )
        if 0 < version < SCHEMA_VERSION:
            raise UnreadableError(
                f"{address} was written by an older slidewatch (schema version {version}, this one "
                f"reads {SCHEMA_VERSION}): extract the batch again"
            )
        if missing := {"model", "decoding", "shard_rows", TAPS} - attributes.keys():
            raise KeyError(*sorted(missing))
        return _arrays(store, model, batch, mode, metadata), attributes
    # Truncated or corrupt JSON, and missing fields and arrays.
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise UnreadableError(
            f"the metadata of {address} are damaged ({error}): restore them from a backup, or "
            "extract the batch again"
        ) from None


@lru_cache(maxsize=GROUPS)
def _arrays(
    store: Store, model: str, batch: str, mode: Literal["r", "r+"], _metadata: bytes
) -> dict[str, Any]:
    """Open the arrays of a group once per process, and again if its metadata have changed."""
    import zarr

    # With the format given, zarr requests only that format's file from an object store.
    group: Any = zarr.open_group(
        _zarr_store(store, model, batch), mode=mode, zarr_format=3, use_consolidated=False
    )
    with store.together() as pool:
        columns = dict(zip(COLUMNS, pool.map(group[ROWS].__getitem__, COLUMNS), strict=True))
        return {TAPS: group[TAPS]} | columns


def _zarr_store(store: Store, model: str, batch: str) -> "LocalStore | FsspecStore":
    from zarr.storage import FsspecStore, LocalStore

    path = store.path("features", model, f"{batch}.zarr")
    if store.is_local:
        return LocalStore(path)
    options = objects.one_request(store.fs)
    made = FsspecStore.from_url(str(store.fs.unstrip_protocol(path)), options)
    # fsspec returns the same filesystem object, with its cached listings.
    made.fs.invalidate_cache()
    return made


def image_ids(block: FeatureBlock) -> list[str | None]:
    """List the digests of a block's images in hexadecimal; None for an unreadable file."""
    return [row.tobytes().hex() if row.any() else None for row in block.image_id]
