"""The units of work that turn photographs and slides into images: cells or tiles.

First every source is surveyed: what it is, and where its fields of view lie. Then every field is
searched. What cannot be read becomes a row that says why.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.batches.segmentations import (
    FIELD_SCHEMA,
    PLACE_SCHEMA,
    Cutting,
    read_places,
    read_quarantine,
    read_sources,
    write_part,
)
from storage.store import Store
from tasks.absorbance import Field
from tasks.cells import Cell, Cells, find_cells
from tasks.crops import TRAINING_DIAMETER, apart, scale_of, with_rim
from tasks.field_quality import field_quality, packed, sharpness
from tasks.images import BadImageError, decode_rgb, failure_of
from tasks.pieces import Region, address_of, digest_at, read_region
from tasks.process import keep_freed_memory
from tasks.reading import ARCHIVES, SourceError, digest_of_file, read_bytes, split_link, stamp
from tasks.slide_source import Slide, is_slide, open_slide
from tasks.sources import SCHEMA
from tasks.survey import survey

Finder = Callable[[Field, float | None], Cells]
Box = tuple[int, int, int, int]
Row = dict[str, Any]

OUTLINES = "outlines"  # the name of our own finder
ENOUGH_CELLS = 10  # of a slide's field, for their median to be better than what the slide says
GRAIN = 8  # parts of a pixel that an outline knows; it is found to a pixel or so
TILED_AT = 0.25  # microns a pixel, where a slide does not say: it need not be known for tiles


@dataclass(frozen=True)
class SurveyJob:
    """Sources ``start`` to ``stop`` of a segmentation, whose survey is its n-th."""

    store: Store
    name: str
    number: int
    start: int
    stop: int
    cutting: Cutting


@dataclass(frozen=True)
class SearchJob:
    """The n-th part of a segmentation's places."""

    store: Store
    name: str
    number: int
    cutting: Cutting


def load_finder(name: str) -> Finder:
    """The finder of cells of that name: ``outlines``, or ``module:function`` of one's own.

    It is called with a field, RGB uint8 (h, w, 3), and the diameter of a typical red cell in pixels
    or None, and returns `tasks.cells.Cells`.

    Raises:
        SourceError: there is none of that name.
    """
    if name == OUTLINES:
        return find_cells
    module, _, function = name.partition(":")
    try:
        found: Finder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SourceError(
            f"no finder of cells {name!r} ({error}): there is {OUTLINES!r}, or give "
            "module:function of your own"
        ) from None
    return found


def survey_sources(job: SurveyJob) -> int:
    """Find out where the fields of some sources lie; returns how many there are."""
    sources = read_sources(job.store, job.name, job.start, job.stop).to_pylist()
    killers = read_quarantine(job.store, job.name, "surveys", job.number)
    places = [
        place
        for row, source in enumerate(sources)
        for place in _survey_source(source, job.cutting, kills=row in killers)
    ]
    write_part(
        job.store, job.name, "surveys", job.number, pa.Table.from_pylist(places, PLACE_SCHEMA)
    )
    return len(places)


def probe_source(job: SurveyJob, row: int) -> None:
    """Survey one source as a job does, and keep nothing: does it kill this worker?"""
    source = read_sources(job.store, job.name, job.start + row, job.start + row + 1).to_pylist()[0]
    list(_survey_source(source, job.cutting))


def _survey_source(source: Row, cutting: Cutting, *, kills: bool = False) -> Iterator[Row]:
    uri = source["source_uri"] or source["uri"]
    about = {name: source[name] for name in ("slide_id", "patient_id", "label", "acquired_at")}
    about |= {"source_uri": uri, "is_slide": False}
    try:
        if kills:
            raise BadImageError("killed_worker", "this file alone kills the worker that reads it")
        about |= {"source_stamp": stamp(uri)}
        if not is_slide(uri):
            content = read_bytes(uri)
            about |= {"source_id": sha256(content).hexdigest()}
            width, height = decode_rgb(content).size
            yield about | _box((0, 0, width, height)) | {"level": 0, "kind": "field"}
            return
        about |= {"source_id": digest_of_file(uri).hex()}
        given = cutting.microns_per_pixel
        slide = open_slide(uri)
        if cutting.into == "tiles":
            given = given or slide.microns_per_pixel or TILED_AT
        found = survey(slide, given)
    except Exception as error:  # a source must never stop the others, whatever it raises
        yield about | {"failure": _reason(error)}
        return
    about |= {
        "is_slide": True,
        "level": found.level,
        "microns_per_pixel": found.microns_per_pixel,
        "diameter": found.diameter,
    }
    for place in found.places:
        box = _box((place.x, place.y, place.width, place.height))
        yield about | box | {"kind": place.kind}


def search_places(job: SearchJob) -> int:
    """Cut up the fields of one part; returns how many images there are in them."""
    keep_freed_memory()
    finder = load_finder(job.cutting.finder)
    images: list[Row] = []
    fields: list[Row] = []
    killers = read_quarantine(job.store, job.name, "fields", job.number)
    for row, place in enumerate(read_places(job.store, job.name, job.number).to_pylist()):
        field, found = _search_place(place, job.cutting, finder, kills=row in killers)
        fields.append(field)
        images += found
    # The fields last: they say that the part is complete.
    for kind, rows, schema in (("cells", images, SCHEMA), ("fields", fields, FIELD_SCHEMA)):
        write_part(job.store, job.name, kind, job.number, pa.Table.from_pylist(rows, schema))
    return len(images)


def probe_place(job: SearchJob, row: int) -> None:
    """Search one field as a job does, and keep nothing: does it kill this worker?"""
    place = read_places(job.store, job.name, job.number).to_pylist()[row]
    _search_place(place, job.cutting, load_finder(job.cutting.finder))


def _search_place(
    place: Row, cutting: Cutting, finder: Finder, *, kills: bool = False
) -> tuple[Row, list[Row]]:
    """What is known of a field, and the images in it."""
    field = {name: place.get(name) for name in FIELD_SCHEMA.names}
    if cutting.into == "cells":
        field |= {"cells": 0, "white_cells": 0, "cells_at_border": 0}
    if place["failure"] is not None:
        return field, [_failed(place, place["source_uri"])]
    try:
        if kills:
            raise BadImageError("killed_worker", "this field alone kills the worker that reads it")
        if cutting.into == "tiles":
            return field, [] if place["kind"] == "empty" else _tiles(place, cutting)
        if place["kind"] != "field":
            return field, []
        return _cells(place, field, cutting, finder)
    except Exception as error:  # a field must never stop the others, whatever a finder raises
        why = {"failure": _reason(error), "kind": None}
        region = Region(*_box_of(place), place["level"])
        uri = address_of(place["source_uri"], region) if place["is_slide"] else place["source_uri"]
        return field | why, [_failed(place | why, uri)]


def _cells(place: Row, field: Row, cutting: Cutting, finder: Finder) -> tuple[Row, list[Row]]:
    """The cells whose middle lies in a field; beyond its border, what they need is read as well."""
    expected = place["diameter"]
    around = _grown(place) if place["is_slide"] else _box_of(place)
    _refuse_changed(place)
    pixels = read_region(place["source_uri"], Region(*around, place["level"]))
    step = around[2] / pixels.shape[1]  # pixels of the source for each that was read
    seen = None if expected is None else sharpness(pixels, expected / step)
    if seen is not None and seen < cutting.least_sharpness:
        return field | {"kind": "unfocused", "sharpness": seen}, []
    if expected is not None:
        # The survey has seen the place as a whole, which may be half empty.
        thick = packed(pixels, expected / step)
        if thick > cutting.most_packed:
            return field | {"kind": "thick", "sharpness": seen, "packed": thick}, []
    found = finder(pixels, None if expected is None else expected / step)
    diameter = found.diameter * step
    if expected is not None and not len(found.cells) >= ENOUGH_CELLS:
        diameter = expected
    whole, scale, level = _size_of(place), scale_of(diameter), _level_of_cells(place, diameter)
    kept: list[Cell] = []
    rows: dict[Box, Row] = {}  # a box is a cell's name: what is found twice is kept once
    outlines = [(cell.outline + 0.5) * step - 0.5 + around[:2] for cell in found.cells]
    for cell, outline, own in zip(found.cells, outlines, apart(outlines, scale), strict=True):
        box = _box_around(with_rim(outline, scale), whole)
        points = np.round((own - box[:2]) * GRAIN) / GRAIN
        if _is_inside(box, place) and box not in rows:
            kept.append(cell)
            rows[box] = _image(
                place,
                box,
                points.ravel().tolist(),
                level=level,
                scale=scale,
                kind=cell.kind,
                touches_border=cell.touches_border,
            )
    quality = asdict(field_quality(pixels, Cells(tuple(kept), found.diameter), focus=seen))
    stain = quality.pop("stain")
    quality |= dict(zip(("stain_red", "stain_green", "stain_blue"), stain, strict=True))
    known = {name: _finite(value) for name, value in quality.items()}
    known |= {
        "diameter": _finite(diameter),
        "white_cells": sum(cell.kind == "white" for cell in kept),
        "cells_at_border": sum(cell.touches_border for cell in kept),
    }
    return field | known, list(rows.values())


def _level_of_cells(place: Row, diameter: float) -> int:
    """The coarsest level at which a cell is no smaller than the training cells, else the finest.

    Cells are searched at fewer pixels than they are diagnosed at.
    """
    if not place["is_slide"]:
        return 0
    levels = _slide(place).downsamples
    fine = [n for n, each in enumerate(levels) if diameter / each >= TRAINING_DIAMETER]
    return max(fine, key=lambda n: levels[n], default=0)


def _refuse_changed(place: Row) -> None:
    """Raise BadImageError where a source is not the file any more that was surveyed."""
    uri = place["source_uri"]
    current = stamp(uri)
    if current != place["source_stamp"] and digest_at(uri, current).hex() != place["source_id"]:
        raise BadImageError("unreadable", "the file was changed while it was cut up")


def _box_around(outline: NDArray[np.float32], size: tuple[int, int]) -> Box:
    """The box of an outline as far as it lies in its source."""
    low = np.clip(np.floor(outline.min(axis=0)), 0, np.array(size) - 1).astype(int)
    high = np.clip(np.ceil(outline.max(axis=0)), low, np.array(size) - 1).astype(int)
    return (int(low[0]), int(low[1]), int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1)


def _tiles(place: Row, cutting: Cutting) -> list[Row]:
    """The tiles of a source whose middle lies in a place; the last ones end with the source."""
    x, y, width, height = _box_of(place)
    across, down = _size_of(place)
    boxes = [
        (left, top, wide, tall)
        for top, tall in _steps(down, cutting)
        if y <= top + tall / 2 < y + height
        for left, wide in _steps(across, cutting)
        if x <= left + wide / 2 < x + width
    ]
    label = {"label": place["label"]}
    return [_image(place, box, None, level=0, scale=1.0, kind="tile") | label for box in boxes]


def _is_inside(box: Box, place: Row) -> bool:
    """Whether the middle of a box lies in a place."""
    x, y, width, height = _box_of(place)
    middle = box[0] + box[2] / 2, box[1] + box[3] / 2
    return bool(x <= middle[0] < x + width and y <= middle[1] < y + height)


def _steps(length: int, cutting: Cutting) -> list[tuple[int, int]]:
    """Where tiles begin along a side, and how long they are there.

    >>> cutting = Cutting(into="tiles", microns_per_pixel=None, tile=4, overlap=1)
    >>> _steps(9, cutting)
    [(0, 4), (3, 4), (5, 4)]
    """
    if length <= cutting.tile:
        return [(0, length)]
    starts = list(range(0, length - cutting.tile, cutting.tile - cutting.overlap))
    return [(start, cutting.tile) for start in [*starts, length - cutting.tile]]


def _image(
    place: Row,
    box: Box,
    outline: list[float] | None,
    *,
    level: int,
    scale: float,
    kind: str,
    touches_border: bool = False,
) -> Row:
    """A row of the manifest; a label of a whole field is not that of each cell in it."""
    region = Region(*box, level)
    names = ("source_uri", "source_id", "source_stamp", "slide_id", "patient_id", "acquired_at")
    return {
        **{name: place[name] for name in names},
        **_box(box),
        "uri": address_of(place["source_uri"], region),
        "level": region.level,
        "outline": outline,
        "scale": scale,
        "kind": kind,
        "touches_border": touches_border,
    }


def _failed(place: Row, uri: str) -> Row:
    names = ("slide_id", "patient_id", "acquired_at", "failure")
    return {name: place[name] for name in names} | {"uri": uri}


def _grown(place: Row) -> Box:
    """A slide's field with a cell's diameter round it, as far as the slide goes."""
    x, y, width, height = _box_of(place)
    slide, more = _slide(place), int(np.ceil(place["diameter"]))
    left, top = max(x - more, 0), max(y - more, 0)
    right, bottom = min(x + width + more, slide.width), min(y + height + more, slide.height)
    return left, top, right - left, bottom - top


def _slide(place: Row) -> Slide:
    return open_slide(place["source_uri"])


def _size_of(place: Row) -> tuple[int, int]:
    """Width and height of a place's source."""
    if place["is_slide"]:
        slide = _slide(place)
        return slide.width, slide.height
    return place["width"], place["height"]


def _box(box: Box) -> Row:
    return dict(zip(("x", "y", "width", "height"), box, strict=True))


def _box_of(place: Row) -> Box:
    return place["x"], place["y"], place["width"], place["height"]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _reason(error: Exception) -> str:
    failure = failure_of(error)
    return f"{failure.reason}: {failure}"


def name_of_slide(uri: str, root: str, by: str) -> str:
    """What a photograph's or slide's slide is called: by its own file, or by its folder.

    >>> name_of_slide("file:///night/s1/3.jpg", "/night", "file")
    's1/3'
    >>> name_of_slide("file:///night/s1/3.jpg", "/night", "folder")
    's1'

    Args:
        uri: of the photograph or slide.
        root: path of the folder of all of them, without protocol.
        by: what one slide is, ``file`` or ``folder``.
    """
    path = _path_below(uri, root)
    return str(path.parent if by == "folder" and path.parent.name else path.with_suffix(""))


def names_of_slides(uris: Sequence[str], root: str, by: str) -> list[str]:
    """`name_of_slide` of several files; two that differ in their extension alone keep it.

    >>> names_of_slides(["file:///night/1.jpg", "file:///night/1.svs"], "/night", "file")
    ['1.jpg', '1.svs']
    """
    names = [name_of_slide(uri, root, by) for uri in uris]
    times = Counter(names)
    return [
        str(_path_below(uri, root)) if by == "file" and times[name] > 1 else name
        for name, uri in zip(names, uris, strict=True)
    ]


def _path_below(uri: str, root: str) -> PurePosixPath:
    """The path of a file below the folder of all of them, or within its archive."""
    kind, _, rest = uri.partition("://")
    archived = kind in ARCHIVES.values()
    path = split_link(rest)[0] if archived else rest.removeprefix(root.rstrip("/"))
    return PurePosixPath(path.lstrip("/"))
