"""Keep recently decoded tiles of a slide, because consecutive cells are in the same ones."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future

from tasks.images.decoding import BadImageError
from tasks.types import Pixels

MOST_KEPT = 2**24  # bytes of pixels
FEW = 16  # tiles; a region of more is a field, whose tiles are not needed again

Place = tuple[int, int, int]  # level, row and column of a tile
Read = Callable[[Sequence[Place]], Iterator[Pixels | BadImageError]]
Missing = dict[Place, Future[Pixels | BadImageError]]


class KeptTiles:
    """The tiles of a slide, as ``read`` reads them; one that several threads want is read once."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._kept: OrderedDict[Place, Future[Pixels | BadImageError]] = OrderedDict()
        self._size = 0

    def tiles(self, places: Sequence[Place]) -> Iterator[Pixels]:
        """Yield the tiles at places of one level; BadImageError says why there is none."""
        tiles = self._read(places) if len(places) > FEW else self._found(places)
        for tile in tiles:
            if isinstance(tile, BadImageError):
                raise BadImageError(tile.reason, str(tile))
            yield tile

    def _found(self, places: Sequence[Place]) -> Iterator[Pixels | BadImageError]:
        with self._lock:
            missing: Missing = {p: Future() for p in places if p not in self._kept}
            self._kept |= missing
            wanted = [self._kept[place] for place in places]
            for place in places:
                self._kept.move_to_end(place)
        if missing:
            self._fetch(missing)
        yield from (each.result() for each in wanted)

    def _fetch(self, missing: Missing) -> None:
        try:
            found = list(self._read(list(missing)))
        except BaseException as error:
            with self._lock:
                for place in missing:
                    del self._kept[place]
            for each in missing.values():
                each.set_exception(error)
            raise
        with self._lock:
            for (place, each), tile in zip(missing.items(), found, strict=True):
                each.set_result(tile)
                if isinstance(tile, BadImageError):  # the next request tries again
                    del self._kept[place]
                else:
                    self._size += tile.nbytes
            self._forget()

    def _forget(self) -> None:
        for place in list(self._kept):
            if self._size <= MOST_KEPT:
                return
            if self._kept[place].done():
                tile = self._kept.pop(place).result()
                assert not isinstance(tile, BadImageError)
                self._size -= tile.nbytes
