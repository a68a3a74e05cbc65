"""Keep recently read pieces of a remote slide."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

MOST_KEPT = 2**24  # bytes of a slide's tiles as stored in its file

Piece = tuple[str, int, int]  # a path, and bytes from and to


class KeptRanges:
    """A filesystem that keeps recently read pieces of files, which must not change.

    Consecutive cells are in the same tiles. A piece that several threads request is fetched once.
    """

    def __init__(self, fs: Any) -> None:
        self._fs = fs
        self._lock = threading.Lock()
        self._kept: OrderedDict[Piece, Future[bytes | Exception]] = OrderedDict()
        self._size = 0

    def open(self, path: str, *options: Any, **named: Any) -> Any:
        """Open a file of the filesystem."""
        return self._fs.open(path, *options, **named)

    def cat_ranges(
        self, paths: Sequence[str], starts: Sequence[int], ends: Sequence[int]
    ) -> list[bytes | Exception]:
        """Read pieces of files, missing ones in one request; errors are returned in their place."""
        pieces: list[Piece] = list(zip(paths, starts, ends, strict=True))
        with self._lock:
            missing = [piece for piece in dict.fromkeys(pieces) if piece not in self._kept]
            for piece in missing:
                self._kept[piece] = Future()
            answers = {piece: self._kept[piece] for piece in pieces}
            for piece in answers:
                self._kept.move_to_end(piece)
        if missing:
            self._fetch(missing, answers)
        return [answers[piece].result() for piece in pieces]

    def _fetch(
        self, missing: list[Piece], answers: dict[Piece, "Future[bytes | Exception]"]
    ) -> None:
        try:
            contents = self._fs.cat_ranges(*(list(each) for each in zip(*missing, strict=True)))
        except BaseException as error:
            with self._lock:
                for piece in missing:
                    del self._kept[piece]
            for piece in missing:
                answers[piece].set_exception(error)
            raise
        for piece, content in zip(missing, contents, strict=True):
            answers[piece].set_result(content)
        with self._lock:
            for piece, content in zip(missing, contents, strict=True):
                if isinstance(content, Exception):  # the next request tries again
                    del self._kept[piece]
                else:
                    self._size += len(content)
            self._forget()

    def _forget(self) -> None:
        """Drop the least recently used pieces, but none that is being fetched."""
        for piece in list(self._kept):
            if self._size <= MOST_KEPT:
                return
            if self._kept[piece].done():
                content = self._kept.pop(piece).result()
                self._size -= len(content) if isinstance(content, bytes) else 0
