"""Join Parquet files of one schema without decoding them: their row groups follow each other.

A footer is a struct of Thrift's compact protocol
(https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). It gives the
offset of each column from the start of the file, so all offsets grow by the size of the files
before.
"""

from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from storage.parquet import naming_damage
from storage.store import PIECE, Store, StoreError

MAGIC = b"PAR1"
TAIL = 4 + len(MAGIC)  # bytes after the footer: its length, and the magic number
# Fields that are offsets, by the path of their numbers in `parquet.thrift`: of a row group, of a
# column's chunk and its indexes, and of its pages and Bloom filter.
_GROUP = (4,)
_CHUNK = (*_GROUP, 1)
OFFSETS = {(*_GROUP, 5), (*_CHUNK, 2), (*_CHUNK, 4), (*_CHUNK, 6)}
OFFSETS |= {(*_CHUNK, 3, number) for number in (9, 10, 11, 14)}


def join_files(stage: Path, store: Store, pieces: Iterable[tuple[tuple[str, ...], str]]) -> str:
    """Write the row groups of some files (at least one), each with its sha256, to a local file.

    Return the sha256 of the new file.

    Raises:
        StoreError: a file differs from its sha256.
    """
    made, joined = sha256(MAGIC), None
    with stage.open("wb") as out, ThreadPoolExecutor(1) as hashing:
        out.write(MAGIC)
        for path, digest in pieces:
            footer = _copied(store, path, digest, out, made, hashing)
            if joined is None:
                joined = footer
            else:
                joined.append_row_groups(footer)
        assert joined is not None
        end = BytesIO()
        joined.write_metadata_file(end)
        rest = end.getvalue()[len(MAGIC) :]
        out.write(rest)
        made.update(rest)
    return made.hexdigest()


def _copied(
    store: Store, path: tuple[str, ...], digest: str, out: Any, made: Any, hashing: Executor
) -> pq.FileMetaData:
    """Copy a file's row groups to ``out`` and into the digest ``made``; return its new footer.

    Its own digest is computed by ``hashing``, which has one thread.
    """
    read, by = sha256(), out.tell() - len(MAGIC)
    with naming_damage(store, *path), store.open(*path) as file:
        size = file.seek(0, 2)
        file.seek(size - TAIL)
        end = size - TAIL - int.from_bytes(file.read(4), "little")
        file.seek(0)
        read.update(file.read(len(MAGIC)))
        while piece := file.read(min(PIECE, end - file.tell())):
            hashing.submit(read.update, piece)
            out.write(piece)
            made.update(piece)
        rest = file.read()
    hashing.submit(read.update, rest)
    if hashing.submit(read.hexdigest).result() != digest:
        raise StoreError(
            f"{store.address(*path)} is not what a worker wrote (sha256 differs): run the same "
            "command again"
        )
    footer = shifted(rest[:-TAIL], by)
    return pq.read_metadata(BytesIO(MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC))


def shifted(footer: bytes, by: int) -> bytes:
    """Return a footer whose offsets are larger by ``by`` bytes."""
    return _Shift(footer, by).made()


class _Shift:
    """Copies a footer; ``at`` is the place that is read next, ``kept`` the first not copied."""

    def __init__(self, footer: bytes, by: int) -> None:
        self._footer, self._by = footer, by
        self._at = self._kept = 0
        self._out = bytearray()

    def made(self) -> bytes:
        self._value(12, ())
        return bytes(self._out + self._footer[self._kept :])

    def _value(self, kind: int, path: tuple[int, ...]) -> None:
        """Read a value of a type of the protocol; a boolean is in the header of its field."""
        if kind in (3, 7):  # a byte, a number of eight bytes
            self._at += 1 if kind == 3 else 8
        elif kind in (4, 5, 6):
            self._number(path in OFFSETS)
        elif kind == 8:
            size = self._varint()
            self._at += size
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                self._value(head & 15, path)
        elif kind == 12:
            number = 0
            while head := self._byte():
                # Of a field far from the last one, the number follows, in zigzag.
                number = number + (head >> 4) if head >> 4 else self._varint() >> 1
                self._value(head & 15, (*path, number))

    def _number(self, is_offset: bool) -> None:
        start = self._at
        number = self._varint()
        if is_offset and number:  # 0: there is none
            self._out += self._footer[self._kept : start] + _varint(number + 2 * self._by)
            self._kept = self._at

    def _byte(self) -> int:
        self._at += 1
        return self._footer[self._at - 1]

    def _varint(self) -> int:
        number = shift = 0
        while (byte := self._byte()) >= 128:
            number |= (byte & 127) << shift
            shift += 7
        return number | byte << shift


def _varint(number: int) -> bytes:
    made = bytearray()
    while number >= 128:
        made.append(number & 127 | 128)
        number >>= 7
    return bytes([*made, number])
