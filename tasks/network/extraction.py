"""Extract features: threads read and decode files while the network runs."""

from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tasks.images import decoding, regions
from tasks.images.access import addresses, files
from tasks.types import Mask, Pixels, Single

if TYPE_CHECKING:
    from tasks.network.inference import Inference
    from tasks.network.spec import Computed


# Of the network's input: an attack does not survive this blur, and diagnoses of cells do.
BLUR = 1.2  # pixels, deviation of a Gaussian
# A second look costs a pass: the images for each one that is looked at again, and the least number
# that is, in a batch of few.
LOOKED_AT, LEAST_LOOKED_AT = 50, 48
SURE = 2.2  # lead of a class in log-odds, nine to one; a doubtful diagnosis may turn by itself
UNKNOWN, TURNED, STEADY = -1, 0, 1  # values of `Features.steady`
NEAR = 8  # images that a thread loads before it is given more
AT_ONCE = 16  # simultaneous requests to a server; each takes tens of milliseconds


@dataclass(frozen=True)
class Loaded:
    """A loaded image: its digest if it could be read, and its pixels or its failure.

    ``size`` is width and height in pixels, ``colour`` the mean red, green and blue; ``pixels`` are
    uint8 (side, side, 3). An image that was ``known`` by its digest was not decoded.
    """

    image_id: bytes | None = None
    size: tuple[int, int] | None = None
    colour: tuple[float, float, float] | None = None
    pixels: Pixels | None = None
    failure: decoding.BadImageError | None = None
    known: bool = False


@dataclass(frozen=True)
class Reading:
    """The options of reading images: rows that have ``failed`` already are skipped.

    Images with a digest in ``known`` are not decoded; ``check`` refuses files of several cells.
    """

    failed: Mapping[int, decoding.BadImageError] = field(default_factory=dict)
    known: Container[bytes] = ()
    check: decoding.Check | None = None


EVERYTHING = Reading()


def load_image(ref: regions.ImageRef, side: int, reading: Reading = EVERYTHING) -> Loaded:
    """Read an image and decode it unless it is known; an error becomes its failure."""
    image_id = None
    try:
        regions.refuse_slide(ref)
        file = regions.find(ref)
        image_id = file.image_id
        if image_id in reading.known:
            return Loaded(image_id, known=True)
        picture = file.picture(side, reading.check)
    except Exception as error:  # an image must never stop its shard, whatever the error
        return Loaded(image_id, failure=decoding.failure_of(error))
    size, colour = (picture.width, picture.height), decoding.mean_colour(picture.pixels)
    return Loaded(image_id, size, colour, picture.pixels)


def load_images(
    refs: Sequence[regions.ImageRef], side: int, threads: int, reading: Reading = EVERYTHING
) -> Iterator[Loaded]:
    """Read and decode images in threads, ahead of their use, in order."""
    together = NEAR
    one_of_a_kind = {ref.source.partition("://")[0]: ref.source for ref in refs}.values()
    if any(files.is_far(source) and not addresses.in_archive(source) for source in one_of_a_kind):
        threads, together = max(threads, AT_ONCE), 1

    def load(row: int) -> Loaded:
        if row in reading.failed:
            return Loaded(failure=reading.failed[row])
        return load_image(refs[row], side, reading)

    starts = range(0, len(refs), together)
    rows = (range(len(refs))[start : start + together] for start in starts)
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        for some in pool.map(lambda part: list(map(load, part)), rows):
            yield from some


@dataclass(frozen=True)
class Features:
    """Taps (n, d) and logits (n, C), float32, and the images, without their pixels.

    The values of an image that failed or was known are NaN. ``steady`` int8 (n,) is `STEADY` or
    `TURNED` where the diagnosis of the blurred image is the same, or another; else `UNKNOWN`, as
    where the network is not sure.
    """

    taps: dict[str, Single]
    logits: Single
    images: list[Loaded]
    steady: NDArray[np.int8]


def extract(
    inference: "Inference",
    refs: Sequence[regions.ImageRef],
    *,
    tap_widths: dict[str, int],
    reading: Reading = EVERYTHING,
    looked_at: Container[int] = (),
) -> Features:
    """Compute the features of images, in one pass over files and network.

    Batches are filled with good images in order, so the same files always share a batch, and their
    features are the same to the last bit. ``tap_widths`` has d of every tap. Images at rows in
    ``looked_at`` are diagnosed a second time, blurred.
    """
    spec = inference.spec
    blurred: dict[int, Pixels] = {}
    waiting: list[tuple[int, Pixels]] = []
    # One pass behind the next, so that a GPU computes while results are kept.
    begun: deque[tuple[list[int], Callable[[], Computed]]] = deque()
    images: list[Loaded] = []
    taps = {t: np.full((len(refs), d), np.nan, np.float32) for t, d in tap_widths.items()}
    logits = np.full((len(refs), len(spec.classes)), np.nan, np.float32)

    def forward() -> None:
        rows, pixels = [row for row, _ in waiting], np.stack([each for _, each in waiting])
        begun.append((rows, inference.device.begin(pixels)))
        waiting.clear()
        if len(begun) > 1:
            keep()

    def keep() -> None:
        rows, wait = begun.popleft()
        values, logits[rows] = wait()
        for name, of_tap in values.items():
            taps[name][rows] = of_tap

    for row, loaded in enumerate(load_images(refs, spec.side, inference.device.threads, reading)):
        images.append(replace(loaded, pixels=None))
        if loaded.pixels is not None:
            waiting.append((row, loaded.pixels))
            if row in looked_at:
                blurred[row] = blur(loaded.pixels)
        if len(waiting) == inference.device.batch:
            forward()
    if waiting:
        forward()
    while begun:
        keep()
    steady = _steady(inference, logits, blurred)
    outputs, logits = inference.as_fitted((taps, logits), cut_out_by_us(refs))
    return Features({tap: outputs[tap] for tap in taps}, logits, images, steady)


def rows_looked_at(start: int, stop: int, images: int) -> range:
    """Choose the rows of a shard of a batch's ``images`` to be looked at again, whatever it is."""
    every = min(max(images // LEAST_LOOKED_AT, 1), LOOKED_AT)
    return range(-start % every, stop - start, every)


def blur(pixels: Pixels) -> Pixels:
    """Blur an image (side, side, 3)."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(BLUR)))


def _steady(
    inference: "Inference", logits: Single, blurred: Mapping[int, Pixels]
) -> NDArray[np.int8]:
    steady = np.full(len(logits), UNKNOWN, np.int8)
    left = iter(blurred)
    while some := list(islice(left, inference.device.batch)):
        _, again = inference.run(np.stack([blurred[row] for row in some]))
        before = np.sort(logits[some], axis=1)
        same = again.argmax(axis=1) == logits[some].argmax(axis=1)
        steady[some] = np.where(before[:, -1] - before[:, -2] >= SURE, same, UNKNOWN)
    return steady


def cut_out_by_us(refs: Sequence[regions.ImageRef]) -> Mask:
    """Mark the images (n,) that slidewatch cuts out of a photograph along an outline."""
    return np.asarray([ref.outline is not None for ref in refs], bool)
