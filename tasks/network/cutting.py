"""Measure how features change where a cell is cut out within its outline, and not along blocks.

The NIH cells were cut out along blocks of pixels, with corners of bright ground. Cells that
slidewatch cuts out of a photograph lie within their outline, where the network of another
laboratory finds more parasites. That moves all their features in one direction, and their log-odds
down. The shift is measured on training cells that are cut out again, and taken from the taps and
logits of cells that slidewatch has cut out, so that these are compared with fitted cells.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tasks.network.classifier import Outputs

Pixels = NDArray[np.uint8]
Shift = Mapping[str, NDArray[np.float32]]

LOGITS = "logits"  # their name among taps
MEASURED = 2000  # cells: more change nothing
LEAST_MEASURED = 20
AT_ONCE = 32
SMOOTHED = 3 / 96  # of the side: deviation of the blur that rounds off blocks
RIM = 2 / 96  # of the side: removed from the rim, as wide as the ground there


def cutting_shift(
    run: Callable[[Pixels], "Outputs"], pixels: Pixels, rows: NDArray[np.integer]
) -> Shift:
    """Measure the mean change (d,) of each tap, and of `LOGITS`, where cells are cut out again.

    It is 0 if fewer than `LEAST_MEASURED` cells have black surroundings.

    Args:
        run: the pass of a network.
        pixels: of images, (n, side, side, 3).
        rows: the training cells that were given as files; a part of them is read.
    """
    few = rows[np.linspace(0, len(rows) - 1, min(len(rows), MEASURED)).astype(np.intp)]
    on_black = [cell for cell in pixels[few] if not cell.any(axis=2).all()]
    chosen = np.stack(on_black or [np.zeros(pixels.shape[1:], np.uint8)])
    again = np.stack([cut_again(cell) for cell in chosen])
    before, after = _outputs(run, chosen), _outputs(run, again)
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


def without_shift(
    outputs: Mapping[str, NDArray[np.float32]], shift: Shift | None, cut: NDArray[np.bool_]
) -> dict[str, NDArray[np.float32]]:
    """Take the shift from what a network gives of cells that slidewatch has cut out.

    Args:
        outputs: taps (n, d) by name, or their maps (n, d, h, w), and `LOGITS` (n, C); those without
            a shift are left as they are.
        shift: of `cutting_shift`; None for a model made before 0.4.
        cut: (n,) which cells are cut out.
    """
    moved = {name: values.copy() for name, values in outputs.items()}
    if shift is not None and cut.any():
        for name in moved.keys() & shift.keys():
            moved[name][cut] -= shift[name].reshape(-1, *[1] * (moved[name].ndim - 2))
    return moved


def _outputs(run: Callable[[Pixels], "Outputs"], pixels: Pixels) -> dict[str, NDArray[np.float32]]:
    found: dict[str, list[NDArray[np.float32]]] = {}
    for start in range(0, len(pixels), AT_ONCE):
        taps, logits = run(pixels[start : start + AT_ONCE])
        for name, values in (*taps.items(), (LOGITS, logits)):
            found.setdefault(name, []).append(values.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}
