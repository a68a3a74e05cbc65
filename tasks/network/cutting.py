"""Measure how features change where a cell is cut out within its outline, and not along blocks.

The NIH cells were cut out along blocks of pixels, with corners of bright ground. Cells that
slidewatch cuts out of a photograph lie within their outline, where the network of another
laboratory finds more parasites. That moves all their features in one direction, and their log-odds
down. The shift is measured on training cells that are cut out again, and taken from the taps and
logits of cells that slidewatch has cut out, so that these are compared with fitted cells.
"""

from collections.abc import Callable, Mapping

import numpy as np

from tasks.network.spec import Computed
from tasks.types import Index, Mask, Pixels, Single

Shift = Mapping[str, Single]
# Computes some rows of images: `tasks.network.inference.outputs_of` a network.
Compute = Callable[[Pixels, Index], Computed]

LOGITS = "logits"  # their name among taps
MEASURED = 2000  # cells: more change nothing
LEAST_MEASURED = 20
SMOOTHED = 3 / 96  # of the side: deviation of the blur that rounds off blocks
RIM = 2 / 96  # of the side: removed from the rim, as wide as the ground there


def cutting_shift(compute: Compute, pixels: Pixels, rows: Index) -> Shift:
    """Measure the mean change (d,) of each tap, and of `LOGITS`, where cells are cut out again.

    ``rows`` of the images (n, side, side, 3) are the training cells given as files, of which some
    are read. The change is 0 if fewer than `LEAST_MEASURED` have black surroundings.
    """
    few = rows[np.linspace(0, len(rows) - 1, min(len(rows), MEASURED)).astype(np.intp)]
    on_black = [cell for cell in pixels[few] if not cell.any(axis=2).all()]
    chosen = np.stack(on_black or [np.zeros(pixels.shape[1:], np.uint8)])
    again = np.stack([cut_again(cell) for cell in chosen])
    (taps, logits), (taps_again, logits_again) = (
        compute(images, np.arange(len(images))) for images in (chosen, again)
    )
    before, after = taps | {LOGITS: logits}, taps_again | {LOGITS: logits_again}
    known = len(chosen) >= LEAST_MEASURED
    return {
        name: (after[name].mean(axis=0) - before[name].mean(axis=0)) * np.float32(known)
        for name in before
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


def without_shift(outputs: Mapping[str, Single], shift: Shift, cut: Mask) -> dict[str, Single]:
    """Subtract the shift from taps and `LOGITS` (n, d) of cells (n,) that slidewatch cut out."""
    moved = dict(outputs)
    if cut.any():
        for name in moved.keys() & shift.keys():
            moved[name] = moved[name].copy()
            moved[name][cut] -= shift[name]
    return moved
