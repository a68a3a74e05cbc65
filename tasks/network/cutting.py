"""Measure how features change where a cell is cut out within its outline, and not along blocks.

The NIH cells were cut out along blocks of pixels, with corners of bright ground. Cells that
slidewatch cuts out of a photograph lie within their outline, where the network of another
laboratory finds more parasites. That moves all their features in one direction. The shift is
measured on training cells that are cut out again, and taken from the taps of cells that slidewatch
has cut out, so that distances compare them with fitted cells.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tasks.network.classifier import Outputs

Pixels = NDArray[np.uint8]
Shift = Mapping[str, NDArray[np.float32]]

MEASURED = 2000  # cells: more change nothing
LEAST_MEASURED = 20
AT_ONCE = 32
SMOOTHED = 3 / 96  # of the side: deviation of the blur that rounds off blocks
RIM = 2 / 96  # of the side: what is taken from the rim, as wide as the ground there


def cutting_shift(run: Callable[[Pixels], "Outputs"], pixels: Pixels) -> Shift:
    """Measure the mean change (d,) of each tap where cells are cut out again.

    It is 0 if fewer than `LEAST_MEASURED` cells have black surroundings.

    Args:
        run: the pass of a network.
        pixels: training cells as they were given, (n, side, side, 3).
    """
    chosen = pixels[np.linspace(0, len(pixels) - 1, min(len(pixels), MEASURED)).astype(np.intp)]
    chosen = np.stack([cell for cell in chosen if not cell.any(axis=2).all()] or [chosen[0]])
    again = np.stack([cut_again(cell) for cell in chosen])
    before, after = _taps(run, chosen), _taps(run, again)
    known = len(chosen) >= LEAST_MEASURED
    return {
        tap: (after[tap].mean(axis=0) - before[tap].mean(axis=0)) * np.float32(known)
        for tap in before
    }


def cut_again(cell: Pixels) -> Pixels:
    """Cut a cell (side, side, 3) on black out again, without corners and without its rim."""
    # Only a training needs it; whoever reads features does without.
    import cv2

    side = len(cell)
    margin = side // 8
    framed = np.pad(cell.any(axis=2).astype(np.float32), margin)
    smooth = (cv2.GaussianBlur(framed, (0, 0), SMOOTHED * side) > 0.5).astype(np.uint8)
    width = 2 * round(RIM * side) + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    mask = cv2.erode(smooth, disc)[margin : margin + side, margin : margin + side]
    y, x = np.nonzero(mask)
    if not len(y):
        return cell
    tight = np.s_[y.min() : y.max() + 1, x.min() : x.max() + 1]
    small = cell[tight] * mask[tight][..., np.newaxis]
    return np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)


def without_shift(
    taps: Mapping[str, NDArray[np.float32]], shift: Shift | None, cut: NDArray[np.bool_]
) -> dict[str, NDArray[np.float32]]:
    """Take the shift from the taps of cells that slidewatch has cut out.

    Args:
        taps: (n, d) by name, or maps (n, d, h, w); those without a shift are left as they are.
        shift: of `cutting_shift`; None for a model made before 0.4.
        cut: (n,) which cells are cut out.
    """
    moved = {tap: values.copy() for tap, values in taps.items()}
    if shift is not None and cut.any():
        for tap in moved.keys() & shift.keys():
            moved[tap][cut] -= shift[tap].reshape(-1, *[1] * (moved[tap].ndim - 2))
    return moved


def _taps(run: Callable[[Pixels], "Outputs"], pixels: Pixels) -> dict[str, NDArray[np.float32]]:
    found = [run(pixels[start : start + AT_ONCE])[0] for start in range(0, len(pixels), AT_ONCE)]
    return {tap: np.concatenate([each[tap].cpu().numpy() for each in found]) for tap in found[0]}
