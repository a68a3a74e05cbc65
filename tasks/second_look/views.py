"""Turn, flip and filter images of 8 bits for a second look."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]

VIEWS = 8  # the image itself, its turns and its mirror images
ROUNDS = ((1,), (2,), (3,), (4, 5), (6, 7))  # ways, in turn, as long as a diagnosis is not settled
FILTERS = ("blur", "median")


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
    import cv2  # workers filter images; a coordinator imports this module, too

    edge = cv2.BORDER_REPLICATE
    return np.stack([cv2.blur(image, (3, 3), borderType=edge) for image in images])


def median_filtered(images: Images) -> Images:
    """Take the median of images (n, s, s, 3) over 3 x 3 pixels, for each colour."""
    import cv2

    return np.stack([cv2.medianBlur(image, 3) for image in images])
