"""Keep typed, strict JSON records; some describe arrays next to them, in a safetensors file."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from storage.store import AlreadyExistsError, MissingError, Store, StoreError, digest_of

Found = TypeVar("Found")
Tell = Callable[[str], None]
Share = Annotated[float, Field(ge=0, le=1)]
Arrays = dict[str, NDArray[Any]]

OWN_DIGEST = "card_digest"  # of a card's other fields, in its file alone


class NewerError(StoreError):
    """A record was written by a newer slidewatch, so it is not damaged."""


class Entry(BaseModel):
    """An entry of a record; an unknown or missing field is an error, and so is NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Record(Entry):
    """An immutable JSON document in the store."""

    schema_version: int = Field(default=1, ge=1)

    def write(self, store: Store, *parts: str, once: bool = False) -> None:
        """Write the record; the same record always has the same bytes."""
        store.write_json(self._document(), *parts, once=once)

    def kept(self, store: Store, *parts: str) -> Self:
        """Write the record unless one is there; return the one that is there now."""
        with suppress(AlreadyExistsError):
            self.write(store, *parts, once=True)
        return self.read(store, *parts)

    def _document(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def _checked(cls, data: Any, address: str) -> Any:
        """Return the fields of a document; StoreError if it was changed since it was written."""
        return data

    @classmethod
    def read(cls, store: Store, *parts: str) -> Self:
        """Read the record back; StoreError names the file and the field that is wrong."""
        data = store.read_json(*parts)
        version = data.get("schema_version") if isinstance(data, dict) else None
        known = cls.model_fields["schema_version"].default
        if isinstance(version, int) and version > known:
            raise NewerError(
                f"{store.address(*parts)} was written by a newer slidewatch (schema version "
                f"{version}, this one knows {known}): update slidewatch"
            )
        data = cls._checked(data, store.address(*parts))
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise StoreError(
                f"{store.address(*parts)} is no valid {cls.__name__}: {where}: {first['msg']}"
            ) from None

    @classmethod
    def find(cls, store: Store, *parts: str) -> Self | None:
        """Read the record back by one request; None if there is none."""
        try:
            return cls.read(store, *parts)
        except MissingError:
            return None


class Card(Record):
    """A record that describes a file of arrays next to it by its sha256, and has its own digest."""

    created_at: datetime
    digest: str

    def _document(self) -> dict[str, Any]:
        data = super()._document()
        return data | {OWN_DIGEST: _digest_of_fields(data)}

    @classmethod
    def _checked(cls, data: Any, address: str) -> Any:
        if not isinstance(data, dict):
            return data
        if OWN_DIGEST not in data:
            raise StoreError(
                f"{address} has no {OWN_DIGEST}, with which cards are written: restore it from a "
                "backup"
            )
        fields = {name: value for name, value in data.items() if name != OWN_DIGEST}
        if _digest_of_fields(fields) != data[OWN_DIGEST]:
            raise StoreError(
                f"{address} is not the card that was written (sha256 differs): restore it from a "
                "backup"
            )
        return fields

    def __hash__(self) -> int:
        """Hash by the digest, which is the key of caches of loaded files."""
        return hash(self.digest)


def _digest_of_fields(fields: dict[str, Any]) -> str:
    return digest_of(json.dumps(fields, sort_keys=True, ensure_ascii=False).encode())


def read_readable(
    read: Callable[[str], Found], names: Iterable[str], on_damage: Tell | None
) -> list[Found]:
    """Read things by name; ``on_damage`` hears of damaged ones, but NewerError is always raised."""
    things = []
    for name in names:
        try:
            things.append(read(name))
        except NewerError:
            raise
        except StoreError as error:
            if on_damage is None:
                raise
            on_damage(f"left out: {error}")
    return things


def save_described(
    store: Store, content: bytes, card: Card, *folder: str, file: str, card_file: str
) -> None:
    """Write a file and, last, its card, without which it does not count; see `freeze`."""
    if digest_of(content) != card.digest:
        raise ValueError(f"the card {card_file} does not describe this {file}")
    freeze(store, content, card, *folder, file=file, record_file=card_file)


def freeze(
    store: Store,
    content: bytes | Path,
    record: Record,
    *folder: str,
    file: str,
    record_file: str,
    replace: bool = False,
) -> None:
    """Write a file (``content``, or its stage) and, last, its record, which marks it as complete.

    Only a caller who knows that nothing builds on them may ``replace`` them. AlreadyExistsError if
    there is a record, perhaps written by another run just now; it stays unchanged.
    """
    # Checked before anything is written: a frozen file must survive a second start.
    if not replace and store.exists(*folder, record_file):
        raise AlreadyExistsError(f"{store.address(*folder)} exists already")
    if isinstance(content, Path):
        store.reveal(content, *folder, file)
    else:
        store.write_bytes(content, *folder, file)
    try:
        record.write(store, *folder, record_file, once=not replace)
    except AlreadyExistsError:
        if store.fence is None or store.is_local:
            raise
        # This run holds the lease and found no record, so a stalled run has just written one, of
        # another file. An object store refuses only late replacements.
        record.write(store, *folder, record_file)


@contextmanager
def once(taken: str) -> Iterator[None]:
    """Raise StoreError, in these words, if the block writes something that exists already."""
    try:
        yield
    except AlreadyExistsError:
        raise StoreError(taken) from None


def load_described(store: Store, card: Card, *parts: str) -> Arrays:
    """Read the arrays in a file and verify its digest against its card."""
    what = "the file that its card describes"
    return arrays_from_bytes(read_verified(store, parts, card.digest, what))


def read_verified(
    store: Store, path: Sequence[str], digest: str, what: str, remedy: str = " or make it again"
) -> bytes:
    """Read a file and verify its digest; StoreError says what to do if it differs."""
    content = store.read_bytes(*path)
    if digest_of(content) != digest:
        raise StoreError(
            f"{store.address(*path)} is not {what} (sha256 differs): restore it from a "
            f"backup{remedy}"
        )
    return content


def now() -> datetime:
    """Return the current time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def arrays_to_bytes(arrays: Arrays, **metadata: str) -> bytes:
    """Serialise named arrays with metadata as the bytes of a safetensors file."""
    whole = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    return bytes(save(whole, metadata=metadata or None))


def arrays_from_bytes(content: bytes) -> Arrays:
    """Read named arrays from their bytes; StoreError if the bytes are damaged."""
    try:
        arrays: Arrays = load(content)
    # A hostile header can make the reader raise almost anything: KeyError for a type that numpy
    # lacks, ValueError for a wrong shape, RecursionError for deep nesting.
    except (SafetensorError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise StoreError(f"damaged safetensors file: {error}") from None
    return arrays
