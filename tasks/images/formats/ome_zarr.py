"""Read whole slides as OME-Zarr, a folder of chunks on any filesystem, with the zarr library.

See the OME-NGFF specification, 0.4 (of zarr 2) and 0.5 (of zarr 3). The chunks of a region are read
on request.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import zarr
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from tasks.images import decoding, geometry
from tasks.images.formats.tiff import UNITS, WHITE, as_rgb, check_tile, damaged
from tasks.types import Pixels

FULL_NAMES = {"nanometer": "nm", "micrometer": "µm", "millimeter": "mm"}
COLOURS = (1, 3, 4)


def _read(levels: Sequence[zarr.Array[Any]], axes: str, box: geometry.Box, level: int) -> Pixels:
    across, here = axes.index("x"), levels[level]
    downsample = levels[0].shape[across] / here.shape[across]
    left, top, right, bottom = geometry.box_at(box, downsample)
    out = np.full((bottom - top, right - left, 3), WHITE, np.uint8)
    within = {"x": slice(max(left, 0), max(right, 0)), "y": slice(max(top, 0), max(bottom, 0))}
    whole = {"c": slice(None)}
    try:
        chosen = here[tuple((within | whole).get(axis, 0) for axis in axes)]
    # Codecs raise anything on damaged chunks, and a slide must never stop its batch.
    except Exception as error:
        raise damaged(f"{type(error).__name__}: {error}") from None
    kept = [axis for axis in axes if axis in "cyx"]
    pixels = np.asarray(chosen)
    if "c" not in kept:
        pixels, kept = pixels[np.newaxis], ["c", *kept]
    image = as_rgb(pixels.transpose([kept.index(axis) for axis in "yxc"]))
    y0, x0 = within["y"].start - top, within["x"].start - left
    out[y0 : y0 + image.shape[0], x0 : x0 + image.shape[1]] = image
    return out


def open_ome_zarr(fs: Any, path: str) -> geometry.Slide:
    """Open a folder of OME-Zarr; BadImageError says why it cannot be read as a slide."""
    store: Store
    if isinstance(fs, LocalFileSystem):
        store = LocalStore(path, read_only=True)
    else:
        store = FsspecStore.from_url(str(fs.unstrip_protocol(path)), read_only=True)
    try:
        return _opened(zarr.open_group(store, mode="r"))
    except decoding.BadImageError:
        raise
    # Foreign metadata may be wrong in any field.
    except Exception as error:
        raise decoding.BadImageError(
            "not_an_image", f"it cannot be read as OME-Zarr ({type(error).__name__}: {error})"
        ) from None


def _opened(group: zarr.Group) -> geometry.Slide:
    about = _multiscales(group)
    inner = group.get("0")
    if about is None and isinstance(inner, zarr.Group):  # as bioformats2raw lays out an image
        group, about = inner, _multiscales(inner)
    if about is None:
        raise decoding.BadImageError("not_an_image", "its metadata name no multiscales of OME-Zarr")
    axes = "".join(each["name"] for each in about["axes"])
    levels = tuple(_level(group, each["path"], axes) for each in about["datasets"])
    shapes = [dict(zip(axes, level.shape, strict=True)) for level in levels]
    width, height = shapes[0]["x"], shapes[0]["y"]
    downsamples = tuple(width / shape["x"] for shape in shapes)
    read = partial(_read, levels, axes)
    return geometry.Slide(width, height, downsamples, _microns_per_pixel(about), read)


def _multiscales(group: zarr.Group) -> Mapping[str, Any] | None:
    held: Any = group.attrs.asdict()
    multiscales = held.get("ome", held).get("multiscales")  # of 0.5 or of 0.4
    return multiscales[0] if multiscales else None


def _level(group: zarr.Group, path: str, axes: str) -> zarr.Array[Any]:
    level = group[path]
    if not isinstance(level, zarr.Array):
        raise decoding.BadImageError("not_an_image", f"its level {path} is no array")
    shape = dict(zip(axes, level.shape, strict=True))
    chunks = dict(zip(axes, level.shards or level.chunks, strict=True))
    if not {"x", "y"} <= set(axes) <= set("tczyx"):
        raise decoding.BadImageError("not_an_image", f"its axes are {axes}, not some of tczyx")
    if shape.get("t", 1) * shape.get("z", 1) > 1:
        raise decoding.BadImageError(
            "several_pictures",
            f"it holds {shape.get('t', 1)} moments of {shape.get('z', 1)} planes, of which one "
            "alone would be seen: save each as a folder of its own",
        )
    if level.dtype not in (np.uint8, np.uint16) or shape.get("c", 1) not in COLOURS:
        raise decoding.BadImageError(
            "not_an_image",
            f"it has {shape.get('c', 1)} channels of {level.dtype}: write it as 8-bit RGB",
        )
    check_tile(chunks["x"], chunks["y"])
    return level


def _microns_per_pixel(about: Mapping[str, Any]) -> float | None:
    scales: Sequence[float] = [1.0] * len(about["axes"])
    for each in about["datasets"][0].get("coordinateTransformations", ()):
        scales = each.get("scale", scales)
    both = [
        scale * UNITS.get(FULL_NAMES.get(axis.get("unit", ""), axis.get("unit", "")), np.nan)
        for axis, scale in zip(about["axes"], scales, strict=True)
        if axis["name"] in ("x", "y")
    ]
    if not min(both) > 0 or max(both) > 1.05 * min(both):
        return None
    return geometry.credible(sum(both) / 2)
