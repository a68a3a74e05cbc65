"""Runs that stall while another one takes their lease over."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from storage import disk, objects
from storage.leases import Lease, lease
from storage.store import Store

NEVER = 1e6


@contextmanager
def taken_over(store: Store, *what: str) -> Iterator[Lease]:
    """Hold a lease that another run holds, as whoever has waited for its renewal in vain."""
    with lease(Store(store.url), *what, wait=True, lifetime=0.0, beat=NEVER, poll=0.001) as held:
        yield held


class Moments:
    """The moments of a run at which what it wrote is to appear or to be removed, counted.

    At moment ``at`` ``happening`` happens first, in which moments are not counted.
    """

    def __init__(self, at: int | None = None, happening: Any = None, each: Any = None) -> None:
        self.count = 0
        self._at = at
        self._happening = happening
        self._each = each
        self._busy = False

    def __call__(self) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            if self._each:
                self._each()
            if self.count == self._at:
                self._happening()
            self.count += 1
        finally:
            self._busy = False

    @contextmanager
    def watched(self) -> Iterator["Moments"]:
        """Watch every rename, link, conditional PUT and removal of a run in the block."""
        with (
            mock.patch.object(disk, "appear", self._after(disk.appear)),
            mock.patch.object(disk, "appear_folder", self._after(disk.appear_folder)),
            mock.patch.object(disk, "discard", self._after(disk.discard)),
            mock.patch.object(objects, "put", self._after(objects.put)),
            mock.patch.object(objects, "put_if", self._after(objects.put_if)),
        ):
            yield self

    def _after(self, call: Any) -> Any:
        def wrapped(*arguments: Any) -> Any:
            self()
            return call(*arguments)

        return wrapped
