"""Measure the share of cells of real fields that are found, and the time that it takes.

The defaults were tuned on the fields with even numbers. No value was chosen by those with odd
numbers, but six of them were looked at, and showed that outlines of white cells were too small.
The boxes of these fields miss many cells, so that a precision against all of them is a lower bound:
a second one counts only what is found where some box is. That, too, counts as wrong a cell that no
box marks but a neighbour's box touches: of 40 such red cells of the even numbers, drawn by chance
and looked at, 22 are cells, 11 are none or are cut wrongly, and 7 are doubtful.
"""

import io
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment
from skimage.feature import peak_local_max
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops
from skimage.morphology import binary_opening, disk
from skimage.segmentation import watershed

from tasks.smears.segmentation.finding import Cells, Kind, find_cells, find_roughly
from tests.benchmarks import laboratories
from tests.support.boxes import Boxes, overlap
from tests.support.measuring import QUICK, Record, in_turn
from tests.support.needs import needs_data
from tests.support.paths import DATA

LEAST_AREA = 500  # pixels; fewer are no cell
NOWHERE = 0.1  # intersection over union with a box, below which a cell lies where no box is

FIELDS_LEFT_OUT = 3 if QUICK else 38

pytestmark = [pytest.mark.benchmark, pytest.mark.usefixtures("as_a_job"), needs_data("fields.zip")]


@dataclass(frozen=True)
class Annotated:
    """A field and its boxes, left, top, right and bottom in pixels, (n, 4) each."""

    number: int
    image: Image.Image
    red: Boxes
    white: Boxes


@pytest.fixture(scope="module")
def fields() -> list[Annotated]:
    with zipfile.ZipFile(DATA / "fields.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        names = names[::8] if QUICK else names
        return [_read(archive, name) for name in names]


def _read(archive: zipfile.ZipFile, name: str) -> Annotated:
    image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
    tree = ElementTree.fromstring(archive.read(name.replace(".jpg", ".xml")))
    boxes: dict[str, list[list[float]]] = {"RBC": [], "WBC": [], "Platelets": []}
    for thing in tree.iter("object"):
        corners = [
            float(thing.findtext(f"bndbox/{c}", "")) for c in ("xmin", "ymin", "xmax", "ymax")
        ]
        boxes[thing.findtext("name", "")].append(corners)
    red, white = (np.array(boxes[kind]).reshape(-1, 4) for kind in ("RBC", "WBC"))
    return Annotated(int(name[-9:-4]), image, red, white)


def resized(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC
    )


def brighter(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda image: image.point(lambda level: min(255, level * factor))


def other_hue(degrees: int) -> Callable[[Image.Image], Image.Image]:
    def turn(image: Image.Image) -> Image.Image:
        hue = np.array(image.convert("HSV"))
        hue[..., 0] += np.uint8(degrees * 256 // 360 % 256)
        return Image.fromarray(hue, "HSV").convert("RGB")

    return turn


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": resized(0.5),
    "twice the size": resized(2),
    "hue + 60 degrees": other_hue(60),
    "hue - 40 degrees": other_hue(-40),
    "brightness x .7": brighter(0.7),
    "brightness x 1.2": brighter(1.2),
    "blur of 2 pixels": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


CHANGED = 4  # every fourth field is changed: all of them take minutes, and show the same
LEAST_CHANGED = 0.7  # recall of red cells after the strongest change
# The aims are .85, .87, .98 and .90; these floors say that it has got worse. Outlines of cells that
# are half covered are kept, because laboratories left out have parasites there: see below.
FLOORS = [
    ("recall of red cells", "red found", "red", 0.8),
    ("precision where boxes are", "right among boxes", "called among boxes", 0.72),
    ("recall of white cells", "white found", "white", 0.93),
    ("precision of white cells", "white found", "called white", 0.9),
]
# The boxes of these laboratories miss few cells. With as clear an edge for a covered cell as until
# 0.7 (`LEAST_EDGE_COVERED` .58 instead of .45), .675 instead of .740 of the parasites of BBBC041
# were found, .826 instead of .847 of its healthy cells, and precision were .946 instead of .932; at
# IML as many parasites, .945 instead of .950 of the healthy cells, .938 instead of .933.
LEFT_OUT = {
    "iml": [
        ("recall of healthy cells", "healthy", 0.93),
        ("recall of parasites", "parasites", 0.93),
    ],
    "bbbc041": [
        ("recall of healthy cells", "healthy", 0.82),
        ("recall of parasites", "parasites", 0.70),
    ],
}
LEAST_RIGHT = 0.91  # of what is found where some box is


@pytest.mark.parametrize("half", ["even", "odd"])
def test_fields_as_they_are(fields: list[Annotated], half: str, record: Record) -> None:
    kept = [each for each in fields if each.number % 2 == (half == "odd")]
    hold_floors(measure(kept), f"{half} numbers", record)


def hold_floors(found: "Tally", fields: str, record: Record) -> None:
    for what, part, whole, floor in FLOORS:
        share = found.share(part, whole)
        record(f"{what}, {fields}", "", ours=[share], limit=floor, bound=1.0, higher_is_better=True)


def test_fields_of_known_magnification(fields: list[Annotated], record: Record) -> None:
    hold_floors(measure(fields, told=95), "the diameter told", record)


@pytest.mark.parametrize(
    "laboratory",
    [
        pytest.param("iml", marks=needs_data("vivax_fields.zip")),
        pytest.param("bbbc041", marks=needs_data("laboratories.zip")),
    ],
)
def test_laboratories_left_out(laboratory: str, tmp_path: Path, record: Record) -> None:
    files = sorted(laboratories.unpacked(tmp_path, laboratory).iterdir())
    files = files[:: len(files) // FIELDS_LEFT_OUT]
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    typical = float(np.nanmedian([find_roughly(image).diameter for image in images[::4]]))
    known, total = laboratories.boxes_of(laboratory), Tally()
    for file, image in zip(files, images, strict=True):
        cells = known[file.name]
        left, top, width, height = np.array([cell[1:] for cell in cells], float).T
        boxes = np.stack([left, top, left + width, top + height], axis=1)
        found = boxes_of(find_cells(image, typical), "red")
        right, true = matches(found, boxes)
        among = (overlap(found, boxes) > NOWHERE).any(axis=1)
        total.update({"among": int(among.sum()), "right": int(among[right].sum())})
        for kind, names in (
            ("healthy", laboratories.WITHOUT),
            ("parasites", laboratories.PARASITES),
        ):
            those = np.array([cell[0] in names for cell in cells])
            total.update({kind: int(those.sum()), f"{kind} found": int(those[true].sum())})
    shares = [
        (what, total.share(f"{of} found", of), least) for what, of, least in LEFT_OUT[laboratory]
    ]
    shares.append(("precision where boxes are", total.share("right", "among"), LEAST_RIGHT))
    for what, share, least in shares:
        record(f"{what}, {laboratory}", "", ours=[share], limit=least, bound=1.0,
               higher_is_better=True)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_changed_fields(fields: list[Annotated], change: str, record: Record) -> None:
    share = measure(fields[::CHANGED], CHANGES[change]).share("red found", "red")
    record(f"recall of red cells, {change}", "", ours=[share], limit=LEAST_CHANGED, bound=1.0,
           higher_is_better=True)  # fmt: skip


def watershed_boxes(pixels: NDArray[np.uint8], diameter: float = 90) -> Boxes:
    """Find what scikit-image's recipe finds: Otsu's threshold, distances, watershed from peaks."""
    green = pixels[..., 1]
    mask = binary_opening(green < threshold_otsu(green), disk(3))
    distance = distance_transform_edt(mask)
    peaks = peak_local_max(distance, min_distance=round(diameter / 3), labels=label(mask))
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    regions = regionprops(watershed(-distance, markers, mask=mask))
    found = [region.bbox for region in regions if region.area >= LEAST_AREA]
    return np.array(found, np.float64).reshape(-1, 4)[:, [1, 0, 3, 2]]


def contour_boxes(pixels: NDArray[np.uint8]) -> Boxes:
    """Find what OpenCV's outlines of Otsu's threshold enclose: cells that touch are one."""
    _, mask = cv2.threshold(pixels[..., 1], 0, 255, cv2.THRESH_BINARY_INV | cv2.THRESH_OTSU)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    rows = [cv2.boundingRect(each) for each in outlines if cv2.contourArea(each) >= LEAST_AREA]
    found = np.array(rows, np.float64).reshape(-1, 4)
    return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)


def test_beside_other_finders(fields: list[Annotated], record: Record) -> None:
    """Cells of any kind, of the odd numbers; the peers' sizes are those of the cells in all fields.

    Each runs on one core.
    """
    odd = [field for field in fields if field.number % 2]
    images = [np.asarray(field.image) for field in odd]
    typical = float(np.nanmedian([find_roughly(image).diameter for image in images[::4]]))

    def ours(pixels: NDArray[np.uint8]) -> Boxes:
        found = find_cells(pixels, typical)
        return np.concatenate([boxes_of(found, "red"), boxes_of(found, "white")])

    finders = {"ours": ours, "scikit-image": watershed_boxes, "OpenCV": contour_boxes}
    found: dict[str, list[Boxes]] = {}

    def run(name: str) -> None:
        found[name] = [finders[name](image) for image in images]

    seconds = in_turn(1 if QUICK else 3, {name: partial(run, name) for name in finders})
    shares = {name: _recall_and_precision(odd, boxes) for name, boxes in found.items()}
    right = {name: recall * _boxes(odd) for name, (recall, _) in shares.items()}
    for peer in ("scikit-image", "OpenCV"):
        for number, what in enumerate(("recall", "precision where boxes are")):
            record(f"{what} of all cells, beside {peer}", "", ours=[shares["ours"][number]], rival=[
                shares[peer][number]], bound=1.0, higher_is_better=True)  # fmt: skip
        record(
            f"cells found a second on a core, beside {peer}", "cells/s",
            ours=[right["ours"] / s for s in seconds["ours"]],
            rival=[right[peer] / s for s in seconds[peer]],
            bound=1.0 if peer == "scikit-image" else None, higher_is_better=True,
        )  # fmt: skip


def _boxes(fields: list[Annotated]) -> int:
    return sum(len(field.red) + len(field.white) for field in fields)


def _recall_and_precision(fields: list[Annotated], found: list[Boxes]) -> tuple[float, float]:
    true, right, called = 0, 0, 0
    for field, boxes in zip(fields, found, strict=True):
        everything = np.concatenate([field.red, field.white])
        mine, theirs = matches(boxes, everything)
        among = (overlap(boxes, everything) > NOWHERE).any(axis=1)
        true, right, called = (
            true + len(theirs),
            right + int(among[mine].sum()),
            called + int(among.sum()),
        )
    return true / _boxes(fields), right / called


class Tally(Counter[str]):
    """Count boxes and cells by what became of them."""

    def share(self, part: str, whole: str) -> float:
        return self[part] / self[whole] if self[whole] else float("nan")


def measure(
    fields: list[Annotated],
    change: Callable[[Image.Image], Image.Image] = lambda image: image,
    told: float | None = None,
) -> Tally:
    """Find the cells of the changed fields, and count them by whether some box matches.

    ``told`` is the diameter of a typical cell in pixels, where it need not be measured.
    """
    total = Tally()
    for field in fields:
        image = change(field.image)
        found = find_cells(np.asarray(image), told)
        total.update(tally(field, found, image.width / field.image.width))
    return total


def tally(field: Annotated, found: Cells, scale: float) -> Tally:
    """Count boxes and found cells by whether they match, at an intersection over union of .5."""
    red, white = (boxes_of(found, kind) / scale for kind in ("red", "white"))
    right, true = matches(red, field.red)
    among = (overlap(red, np.concatenate([field.red, field.white])) > NOWHERE).any(axis=1)
    return Tally(
        {
            "red": len(field.red),
            "red found": len(true),
            "called among boxes": int(among.sum()),
            "right among boxes": int(among[right].sum()),
            "white": len(field.white),
            "white found": len(matches(white, field.white)[1]),
            "called white": len(white),
        }
    )


def boxes_of(found: Cells, kind: Kind) -> Boxes:
    boxes = [cell.box for cell in found.cells if cell.kind == kind]
    x, y, width, height = np.array(boxes, np.float64).reshape(-1, 4).T
    return np.stack([x, y, x + width, y + height], axis=1)


def matches(found: Boxes, true: Boxes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The largest matching of boxes that overlap by half; which of both are matched."""
    close = overlap(found, true) >= 0.5
    rows, columns = linear_sum_assignment(close, maximize=True)
    good = close[rows, columns]
    return rows[good], columns[good]
