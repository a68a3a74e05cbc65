"""Read whole slides as TIFF, tiled or in strips, with or without a pyramid, on any filesystem.

Only directories are kept in memory; the tiles of a region are read on request. Sizes in the file
are checked against its length and the limits below before memory is allocated.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from math import ceil, prod
from typing import Any
from xml.etree import ElementTree

import numpy as np
from fsspec.implementations.local import LocalFileSystem
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, RESUNIT, TiffFile, TiffPage
from tifffile.tifffile import svs_description_metadata

from tasks.images import geometry
from tasks.images.decoding import MOST_PIXELS, BadImageError
from tasks.images.formats.kept_tiles import KeptTiles, Place
from tasks.types import Array, Counts, Pixels

WHITE = 255  # of pixels outside the slide, or never scanned
MOST_DIRECTORIES = 200  # of levels, labels and focal planes; more are a loop of directories
MOST_TILE_PIXELS = 4096 * 4096
MOST_FETCHED = 2**25  # bytes of tiles that wait for decoding
ROUNDING = 2  # pixels by which a level's size may differ from an exact fraction
UNITS = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3}  # two signs for micro
JPEG, JPEG_2000 = {COMPRESSION.JPEG}, {COMPRESSION.APERIO_JP2000_RGB, COMPRESSION.JPEG2000}
COMPRESSIONS = {
    COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS, COMPRESSION.ZSTD, *JPEG, *JPEG_2000,
}  # fmt: skip
DEPTHS = (np.dtype(np.uint8), np.dtype(np.uint16))
COLOURS = {PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR}
REWRITE = "write it as an 8-bit RGB TIFF of JPEG tiles, as `vips tiffsave --tile` does"


@dataclass(frozen=True)
class Level:
    """A resolution of a slide: its size, its tiles' size, in pixels, and their positions.

    ``offsets`` and ``sizes`` (tiles) are in bytes; a size of 0 is a tile that was never scanned.
    A strip is a tile as wide as the level. ``planes`` of tiles follow one another, one per channel.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    planes: int
    offsets: Counts
    sizes: Counts
    compression: int
    decode: Callable[..., Any]

    @property
    def grid(self) -> tuple[int, int]:
        """Count the rows and columns of tiles."""
        return ceil(self.height / self.tile_height), ceil(self.width / self.tile_width)

    def tiles(self, row: int, column: int) -> list[int]:
        """List the tiles at a row and column, one for each plane."""
        rows, columns = self.grid
        return [(plane * rows + row) * columns + column for plane in range(self.planes)]


def _read(kept: KeptTiles, levels: Sequence[Level], box: geometry.Box, level: int) -> Pixels:
    here = levels[level]
    left, top, right, bottom = geometry.box_at(box, levels[0].width / here.width)
    out = np.full((bottom - top, right - left, 3), WHITE, np.uint8)
    rows = _tiles_between(top, bottom, here.tile_height, here.grid[0])
    columns = _tiles_between(left, right, here.tile_width, here.grid[1])
    # A tile of no bytes was never scanned.
    places = [
        (level, *place) for place in product(rows, columns) if here.sizes[here.tiles(*place)].all()
    ]
    for (_, row, column), tile in zip(places, kept.tiles(places), strict=True):
        tile_top, tile_left = row * here.tile_height, column * here.tile_width
        tile = tile[: here.height - tile_top, : here.width - tile_left]
        y0, y1 = max(top, tile_top), min(bottom, tile_top + tile.shape[0])
        x0, x1 = max(left, tile_left), min(right, tile_left + tile.shape[1])
        out[y0 - top : y1 - top, x0 - left : x1 - left] = tile[
            y0 - tile_top : y1 - tile_top, x0 - tile_left : x1 - tile_left
        ]
    return out


def _read_tiles(
    fs: Any, path: str, levels: Sequence[Level], places: Sequence[Place]
) -> Iterator[Pixels | BadImageError]:
    level = levels[places[0][0]] if places else levels[0]
    for group in _groups(level, ((row, column) for _, row, column in places)):
        wanted = [i for place in group for i in level.tiles(*place)]
        starts = level.offsets[wanted].tolist()
        ends = (level.offsets[wanted] + level.sizes[wanted]).tolist()
        # Together, because a remote filesystem answers many requests in the time of one.
        contents = fs.cat_ranges([path] * len(wanted), starts, ends)
        content = dict(zip(wanted, contents, strict=True))
        for place in group:
            try:
                planes = [_decode(level, i, content[i]) for i in level.tiles(*place)]
                yield as_rgb(np.concatenate(planes, axis=2))
            except BadImageError as error:
                yield error


def _decode(level: Level, i: int, content: bytes | Exception) -> Array:
    if isinstance(content, Exception):
        raise BadImageError("unreadable", f"{type(content).__name__}: {content}")
    try:
        if level.compression in JPEG | JPEG_2000:
            with Image.open(io.BytesIO(content), formats=("JPEG", "JPEG2000")) as image:
                width, height = image.size
            # A header may claim far more pixels than the tiles of its level have.
            if width * height > 4 * level.tile_width * level.tile_height:
                raise ValueError(f"it claims {width} x {height} pixels")
        tile: Array = level.decode(content, i)[0][0]
    # Decoders raise anything on damaged tiles, and a slide must never stop its batch.
    except Exception as error:
        where = f"tile {i} of the level of {level.width} x {level.height} pixels"
        raise damaged(f"{where}: {type(error).__name__}: {error}") from None
    return tile


def open_tiff(fs: Any, path: str) -> geometry.Slide:
    """Read the directories of a TIFF; BadImageError says why it cannot be read as a slide."""
    with _open(fs, path) as file:
        magic = file.read(4)
        if not magic:
            raise BadImageError("empty", "the file has no bytes")
        if magic[:2] not in {b"II", b"MM"}:
            raise BadImageError("not_an_image", f"no TIFF, whatever its name says: {REWRITE}")
        file.seek(0)
        try:
            with TiffFile(file, name=path) as tiff:
                return _read_directories(fs, path, tiff)
        except (BadImageError, OSError):
            raise
        # Directories can be damaged in as many ways as tiles.
        except Exception as error:
            raise damaged(f"{type(error).__name__}: {error}") from None


def is_tiled_or_large(fs: Any, path: str) -> bool:
    """Return whether a readable TIFF is too large for one picture, or made to be read by region."""
    try:
        with _open(fs, path) as file, TiffFile(file, name=path) as tiff:
            page = tiff.pages.first
            large = page.imagewidth * page.imagelength > MOST_PIXELS
            return large or page.is_tiled or bool(page.subifds)
    # Decoding it as a photograph then reports the error.
    except Exception:
        return False


def check_tile(width: int, height: int) -> None:
    """Refuse a slide whose pieces, in pixels, are too large to decode."""
    if not 0 < width * height <= MOST_TILE_PIXELS:
        raise BadImageError(
            "too_large",
            f"it lies in pieces of {width} x {height} pixels, "
            f"and one of more than {MOST_TILE_PIXELS:,} cannot be read: {REWRITE}",
        )


def _open(fs: Any, path: str) -> Any:
    blocks = {"block_size": 2**20, "cache_type": "blockcache"}
    return fs.open(path, "rb", **({} if isinstance(fs, LocalFileSystem) else blocks))


def _read_directories(fs: Any, path: str, tiff: TiffFile) -> geometry.Slide:
    pages = list(islice(_pages(tiff), MOST_DIRECTORIES))
    if not pages:
        raise damaged("it holds no image")
    base = max(pages, key=lambda page: page.imagewidth * page.imagelength)
    levels = [_level(page, tiff.filehandle.size) for page in _pyramid(base, pages)]
    downsamples = tuple(levels[0].width / level.width for level in levels)
    read = partial(_read, KeptTiles(partial(_read_tiles, fs, path, levels)), levels)
    size, microns = (levels[0].width, levels[0].height), _microns_per_pixel(tiff, base)
    return geometry.Slide(*size, downsamples, microns, read)


def _pages(tiff: TiffFile) -> Iterator[TiffPage]:
    top: Iterable[Any] = tiff.pages
    for page in top:
        yield page
        yield from page.pages or ()


def _pyramid(base: TiffPage, pages: list[TiffPage]) -> list[TiffPage]:
    """Select the largest image and its reduced copies, of the same proportions, largest first."""
    levels = {base.imagewidth: base}
    for page in pages:
        scale = base.imagewidth / page.imagewidth
        same = abs(base.imagelength / scale - page.imagelength) <= ROUNDING
        if same and page.is_tiled == base.is_tiled and page.imagewidth < base.imagewidth:
            levels.setdefault(page.imagewidth, page)
    return [levels[width] for width in sorted(levels, reverse=True)]


def _level(page: TiffPage, end: int) -> Level:
    _check_kind(page)
    if page.is_tiled:
        tile_width, tile_height = page.tilewidth, page.tilelength
    else:
        tile_width, tile_height = page.imagewidth, min(page.rowsperstrip, page.imagelength)
    check_tile(tile_width, tile_height)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    sizes = np.asarray(page.databytecounts, np.int64)
    offsets = np.asarray(page.dataoffsets, np.int64)
    sides = page.imagewidth, page.imagelength, tile_width, tile_height
    decode = partial(page.decode, jpegtables=page.jpegtables)
    level = Level(*sides, planes, offsets, sizes, int(page.compression), decode)
    size = f"the level of {level.width} x {level.height} pixels"
    tiles = planes * prod(level.grid)
    if not len(offsets) == len(sizes) == tiles:
        raise damaged(
            f"{size} lists {len(offsets)} places and {len(sizes)} sizes of tiles, where "
            f"{tiles} are needed"
        )
    cut = int(((offsets < 0) | (sizes < 0) | (offsets + sizes > end)).sum())
    if cut:
        raise damaged(
            f"the file is cut short: of {size}, {cut} of {tiles} tiles lie beyond its end"
        )
    # Twice its size at 16 bits uncompressed; compression never enlarges much.
    most = 4 * tile_width * tile_height * (page.samplesperpixel // planes) + 2**16
    if (sizes > most).any():
        raise damaged(f"{size} has a tile of {sizes.max():,} bytes")
    return level


def damaged(what: object) -> BadImageError:
    """Make the error for a slide that is damaged in some way."""
    return BadImageError("damaged", f"{what}; copy the slide again")


def _check_kind(page: TiffPage) -> None:
    kind = f"{page.bitspersample}-bit samples, {page.samplesperpixel} a pixel"
    right = page.dtype in DEPTHS and page.bitspersample in (8, 16)
    if not right or page.samplesperpixel > 4 or page.imagedepth != 1:
        raise BadImageError("not_an_image", f"it has {kind}: {REWRITE}")
    if page.photometric not in COLOURS or page.compression not in COMPRESSIONS:
        stored = f"{_name(page.photometric)} colours in {_name(page.compression)} compression"
        raise BadImageError("not_an_image", f"it has {stored}: {REWRITE}")


def _name(value: Any) -> str:
    return str(getattr(value, "name", value))


def _groups(level: Level, places: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    group: list[tuple[int, int]] = []
    size = 0
    for place in places:
        more = int(level.sizes[level.tiles(*place)].sum())
        if group and size + more > MOST_FETCHED:
            yield group
            group, size = [], 0
        group.append(place)
        size += more
    if group:
        yield group


def _tiles_between(start: int, stop: int, side: int, number: int) -> range:
    return range(max(0, start // side), max(0, min(number, ceil(stop / side))))


def as_rgb(tile: Array) -> Pixels:
    """Convert to 8-bit RGB: scale 16 bits, and put transparency on white."""
    pixels = np.asarray(tile if tile.dtype == np.uint8 else tile // 257, np.uint8)
    colours = pixels.shape[2] - (pixels.shape[2] % 2 == 0)
    if colours < pixels.shape[2]:
        alpha = pixels[..., -1:] / np.float32(255)
        pixels = np.asarray(pixels[..., :-1] * alpha + WHITE * (1 - alpha), np.uint8)
    return pixels if colours == 3 else np.repeat(pixels, 3, axis=2)


def _microns_per_pixel(tiff: TiffFile, page: TiffPage) -> float | None:
    aperio = svs_description_metadata(page.description).get("MPP") if page.is_svs else None
    for say in (_from_ome(tiff.ome_metadata), _number(aperio), _from_resolution(page)):
        if geometry.credible(say) is not None:
            return say
    return None


def _from_ome(description: str | None) -> float | None:
    if not description:
        return None
    try:
        pixels = ElementTree.fromstring(description).find(".//{*}Pixels")
    except ElementTree.ParseError:
        return None
    if pixels is None:
        return None
    unit = UNITS.get(pixels.get("PhysicalSizeXUnit", "µm"), np.nan)
    return _number(pixels.get("PhysicalSizeX")) * unit


def _from_resolution(page: TiffPage) -> float | None:
    if page.resolutionunit not in (RESUNIT.INCH, RESUNIT.CENTIMETER) or 282 not in page.tags:
        return None
    both = page.get_resolution(RESUNIT.MICROMETER)
    if not min(both) > 0 or max(both) > 1.05 * min(both):
        return None
    return 2 / sum(both)


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return np.nan
