"""Keep the last pieces that were read of a slide that is far away."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

MOST_KEPT = 2**24  # bytes of a slide's tiles as they lie in its file

Piece = tuple[str, int, int]  # a path, and bytes from and to


class KeptRanges:
    """A filesystem that does not ask again for pieces of a file that it has read lately.

    Cells that follow one another lie in the same tiles. Several threads may ask for one piece: it
    is fetched once. Only for a file that does not change meanwhile.
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
        """Read pieces of files, those at once that are not kept; an error stands in its place."""
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
                if isinstance(content, Exception):  # the next one who asks tries again
                    del self._kept[piece]
                else:
                    self._size += len(content)
            self._forget()

    def _forget(self) -> None:
        """Forget what was not asked for longest; what is being fetched stays."""
        for piece in list(self._kept):
            if self._size <= MOST_KEPT:
                return
            if self._kept[piece].done():
                content = self._kept.pop(piece).result()
                self._size -= len(content) if isinstance(content, bytes) else 0
