from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from tasks.images.decoding import BadImageError
from tasks.images.formats import kept_tiles as module
from tasks.images.formats.kept_tiles import KeptTiles, Place
from tasks.types import Pixels


class Slide:
    """A slide whose tile at column n is n; it notes what is read, and answers when it may."""

    def __init__(self) -> None:
        self.read: list[int] = []
        self.answer = Event()
        self.answer.set()
        self.bad: set[int] = set()
        self.kept = KeptTiles(self._read)

    def _read(self, places: Sequence[Place]) -> Iterator[Pixels | BadImageError]:
        assert self.answer.wait(10)
        for _, _, column in places:
            self.read.append(column)
            if column in self.bad:
                yield BadImageError("damaged", "no")
            else:
                yield np.full((1, 2, 3), column, np.uint8)

    def tiles(self, *columns: int) -> list[int]:
        return [int(tile[0, 0, 0]) for tile in self.kept.tiles([(0, 0, n) for n in columns])]


def test_a_tile_is_read_once() -> None:
    slide = Slide()
    assert slide.tiles(1, 4) == [1, 4]
    assert slide.tiles(4, 8) == [4, 8]
    assert slide.read == [1, 4, 8]


def test_threads_that_want_the_same_tile_wait_for_one_reading() -> None:
    slide = Slide()
    slide.answer.clear()
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(slide.tiles, 2) for _ in range(8)]
        slide.answer.set()
        assert [each.result() for each in found] == [[2]] * 8
    assert slide.read == [2]


def test_what_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_KEPT", 12)
    slide = Slide()
    for column in (0, 2, 0, 4, 0, 2):
        slide.tiles(column)
    assert slide.read == [0, 2, 4, 2]


def test_the_tiles_of_a_field_are_not_kept() -> None:
    slide = Slide()
    for _ in range(2):
        assert slide.tiles(*range(17)) == list(range(17))
    assert len(slide.read) == 34


def test_an_error_is_not_kept_and_concerns_no_other_tile() -> None:
    slide = Slide()
    slide.bad = {0}
    with pytest.raises(BadImageError, match="no"):
        slide.tiles(0, 1)
    slide.bad = set()
    assert slide.tiles(1, 0) == [1, 0]
    assert slide.read == [0, 1, 0]
