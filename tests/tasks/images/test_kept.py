from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from tasks.images import opened_slides
from tasks.images.opened_slides import KeptRanges


class Far:
    """A file of digits; it notes what it is asked for, and answers when it may."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.answer = Event()
        self.answer.set()
        self.errors = 0

    def cat_ranges(self, paths: list[str], starts: list[int], ends: list[int]) -> list[object]:
        self.asked += starts
        assert self.answer.wait(10)
        if self.errors:
            self.errors -= 1
            return [OSError("no")] * len(starts)
        return [b"0123456789"[a:b] for a, b in zip(starts, ends, strict=True)]


def test_a_piece_is_asked_for_once() -> None:
    far = Far()
    fs = KeptRanges(far)
    assert fs.cat_ranges(["f", "f", "f"], [1, 4, 1], [3, 6, 3]) == [b"12", b"45", b"12"]
    assert fs.cat_ranges(["f", "f"], [4, 8], [6, 9]) == [b"45", b"8"]
    assert far.asked == [1, 4, 8]


def test_threads_that_want_the_same_piece_wait_for_one_request() -> None:
    far = Far()
    fs = KeptRanges(far)
    far.answer.clear()
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(fs.cat_ranges, ["f"], [2], [5]) for _ in range(8)]
        far.answer.set()
        assert [each.result() for each in found] == [[b"234"]] * 8
    assert far.asked == [2]


def test_what_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opened_slides, "MOST_KEPT", 4)
    far = Far()
    fs = KeptRanges(far)
    for start in (0, 2, 0, 4, 0, 2):
        fs.cat_ranges(["f"], [start], [start + 2])
    assert far.asked == [0, 2, 4, 2]


def test_an_error_is_not_kept() -> None:
    far = Far()
    fs = KeptRanges(far)
    far.errors = 1
    assert isinstance(fs.cat_ranges(["f"], [0], [1])[0], OSError)
    assert fs.cat_ranges(["f"], [0], [1]) == [b"0"]
