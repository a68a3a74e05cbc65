"""Turn, flip and filter images of 8 bits for a second look."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]

VIEWS = 8  # the image itself, its turns and its mirror images
ROUNDS = ((1,), (2,), (3,), (4, 5), (6, 7))  # ways, in turn, as long as a diagnosis is not settled
FILTERS = ("blur", "median")

# Pairs of nine values to sort, one after the other, so that the fifth is the median (Paeth 1990;
# Devillard 1998).
_EXCHANGES = (
    (1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3),
    (5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2),
)  # fmt: skip


def turned(images: Images, ways: Sequence[int]) -> Images:
    """Turn and flip square images (n, s, s, 3) in some ways, (ways x n, s, s, 3), way after way.

    Way 0 is the image itself, 1 to 3 are its turns, 4 to 7 the turns of its mirror image. They are
    the symmetries of a square: a cell has no up and no left.
    """
    mirrored = images[:, :, ::-1]
    found = [np.rot90(mirrored if way >= 4 else images, way % 4, (1, 2)) for way in ways]
    return np.concatenate(found)


def filtered(images: Images) -> dict[str, Images]:
    """Filter images (n, s, s, 3) by each of `FILTERS`."""
    return {"blur": blurred(images), "median": median_filtered(images)}


def blurred(images: Images) -> Images:
    """Average images (n, s, s, 3) over 3 x 3 pixels, rounded; the edge is repeated."""
    total = sum(part.astype(np.uint16) for part in _neighbourhood(images))
    return np.asarray((np.asarray(total) + 4) // 9, np.uint8)


def median_filtered(images: Images) -> Images:
    """Take the median of images (n, s, s, 3) over 3 x 3 pixels, for each colour."""
    values = list(_neighbourhood(images))
    for low, high in _EXCHANGES:
        a, b = values[low], values[high]
        values[low], values[high] = np.minimum(a, b), np.maximum(a, b)
    return values[4]


def _neighbourhood(images: Images) -> list[Images]:
    """List images (n, s, s, 3) moved by up to one pixel each way, the edge repeated."""
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    return [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
