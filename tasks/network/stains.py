"""Group patients by the colour of their cells, because stains and cameras differ between them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

CLUSTERS = 3


def mean_absorbance(pixels: NDArray[np.uint8], batch: int = 512) -> NDArray[np.float64]:
    """Average -log(pixel / 255) over pixels that are not black: (n, 3) of images (n, side, side,
    3).

    It is 0 for an image that is all black.
    """
    table = -np.log(np.maximum(np.arange(256), 1) / 255.0)
    absorbance = np.zeros((len(pixels), 3))
    for start in range(0, len(pixels), batch):
        some = np.asarray(pixels[start : start + batch])
        lit = some.max(axis=3) > 0
        total = (table[some] * lit[..., None]).sum(axis=(1, 2))
        absorbance[start : start + batch] = total / np.maximum(lit.sum(axis=(1, 2)), 1)[:, None]
    return absorbance


def stain_clusters(
    absorbance: NDArray[np.float64], patients: Sequence[str], count: int = CLUSTERS
) -> NDArray[np.intp]:
    """Number the stain of each image by k-means over the mean absorbance of patients.

    Args:
        absorbance: (n, 3) of images.
        patients: of each image; a patient has one stain.
        count: number of stains; fewer if there are fewer patients.

    Returns:
        (n,) numbers from 0, the palest stain first.
    """
    _, of_row = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    cells = np.bincount(of_row)
    means = np.stack([np.bincount(of_row, channel) / cells for channel in absorbance.T], axis=1)
    distinct = min(count, len(np.unique(means, axis=0)))
    fitted = KMeans(distinct, n_init=10, random_state=0).fit(means)
    palest_first = np.argsort(np.argsort(fitted.cluster_centers_.sum(axis=1)))
    numbers: NDArray[np.intp] = palest_first[fitted.labels_][of_row]
    return numbers
