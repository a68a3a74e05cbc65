import numpy as np
from numpy.typing import NDArray

from tasks.network.cutting import LEAST_MEASURED, LOGITS, cut_again, cutting_shift, without_shift

SIDE = 48


def cell(corner: int = 2) -> np.ndarray:
    """A cell on black: a disc, and a bright corner of ground."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[np.hypot(x, y) < 0.45 * SIDE] = 120
    pixels[4 : 4 + corner, 4 : 4 + corner] = 250
    return pixels


def brightest(
    pixels: NDArray[np.uint8], rows: NDArray[np.intp]
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    levels = pixels[rows].reshape(len(rows), -1).max(axis=1, keepdims=True).astype(np.float32)
    return {"tap": levels}, levels


def test_a_cell_that_is_cut_again_has_no_corner_and_fills_the_frame() -> None:
    again = cut_again(cell())
    assert cell().max() == 250
    assert again.max() == 120
    lit = again.any(axis=2)
    assert lit.any(axis=0).all()
    assert lit.any(axis=1).all()


def test_the_shift_is_the_mean_change_of_cells_on_black() -> None:
    cells = np.stack([cell(), *[cell(0)] * (2 * LEAST_MEASURED - 2), cell()])
    shift = cutting_shift(brightest, cells, np.arange(len(cells)))
    for name in ("tap", LOGITS):
        np.testing.assert_allclose(shift[name], [-130 * 2 / (2 * LEAST_MEASURED)])


def test_without_enough_cells_on_black_there_is_no_shift() -> None:
    whole = np.full((50, SIDE, SIDE, 3), 90, np.uint8)
    assert cutting_shift(brightest, whole, np.arange(50))["tap"] == 0
    cells = np.stack([cell()] * LEAST_MEASURED)
    assert cutting_shift(brightest, cells, np.arange(LEAST_MEASURED - 1))["tap"] == 0
    # All training cells were cut out of photographs.
    assert cutting_shift(brightest, cells, np.arange(0))["tap"] == 0


def test_it_is_taken_from_cells_that_were_cut_out_and_from_no_others() -> None:
    taps = {"tap": np.ones((2, 3), np.float32), "other": np.ones((2, 1), np.float32)}
    shift = {"tap": np.asarray([1, 2, 3], np.float32)}
    cut = np.asarray([True, False])
    found = without_shift(taps, shift, cut)
    np.testing.assert_array_equal(found["tap"], [[0, -1, -2], [1, 1, 1]])
    np.testing.assert_array_equal(found["other"], taps["other"])
