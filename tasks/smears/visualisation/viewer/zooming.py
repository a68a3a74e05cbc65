"""Cut a photograph or slide into the tiles of a picture that can be zoomed, from the file itself.

Level n of the picture has a longer side of at most 2^n pixels; its tiles have `TILE` to a side.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2

from PIL import Image

from tasks.images import geometry, opened_slides
from tasks.images.manifest import Region
from tasks.smears.visualisation.page import encoded

TILE = 512
MOST_READ = 8 * TILE  # pixels to a side that are read for a tile


class NoTileError(Exception):
    """A picture has no such tile, which the message names."""


@dataclass(frozen=True)
class Pyramid:
    """Describe the levels of a picture. Below ``least`` a tile would need too much of the file."""

    picture: geometry.Slide

    @property
    def most(self) -> int:
        """Return the level that has the picture's own pixels."""
        return ceil(log2(max(self.picture.width, self.picture.height, 2)))

    @property
    def least(self) -> int:
        """Return the coarsest level of which a tile can be read at once."""
        return next(n for n in range(self.most + 1) if self._reads(n) <= MOST_READ)

    def _reads(self, level: int) -> float:
        """Compute how many pixels to a side are read for a tile of a level, at most."""
        scale = self.scale(level)
        wanted = min(TILE * scale, max(self.picture.width, self.picture.height))
        return wanted / self.picture.downsamples[self.source_level(scale)]

    def scale(self, level: int) -> int:
        """Return how many pixels of the file are one of a level, along a side."""
        return int(2 ** (self.most - level))

    def source_level(self, scale: float) -> int:
        """Choose the coarsest level of the file that is as fine as a scale."""
        return geometry.coarsest(self.picture.downsamples, lambda each: each <= scale * 1.01)

    def region(self, level: int, column: int, row: int) -> tuple[Region, tuple[int, int]]:
        """Find the part of the file that a tile shows, and the tile's width and height in pixels.

        Raises:
            NoTileError: there is none.
        """
        if not self.least <= level <= self.most:
            raise NoTileError(f"no level {level}: there are {self.least} to {self.most}")
        scale = self.scale(level)
        x, y = column * TILE * scale, row * TILE * scale
        if not (0 <= x < self.picture.width and 0 <= y < self.picture.height):
            raise NoTileError(f"no tile {column}, {row} on level {level}")
        width = min(TILE * scale, self.picture.width - x)
        height = min(TILE * scale, self.picture.height - y)
        region = Region(x, y, width, height, self.source_level(scale))
        return region, (max(1, ceil(width / scale)), max(1, ceil(height / scale)))


@lru_cache(maxsize=256)
def read_tile(source: str, stamp: str, level: int, column: int, row: int) -> bytes:
    """Read a tile as a JPEG file; ``stamp`` is the file's, so that a changed file is read again.

    Raises:
        NoTileError: there is none.
        BadImageError: the file cannot be read.
    """
    region, size = Pyramid(opened_slides.open_picture(source)).region(level, column, row)
    picture = Image.fromarray(opened_slides.read_region(source, region))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.BOX)
    return encoded(picture, "JPEG", quality=85)
