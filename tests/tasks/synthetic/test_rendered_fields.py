import numpy as np
import pytest

from tasks.synthetic.rendered_cells import draw_patient
from tasks.synthetic.rendered_fields import RenderedField, render_field


def draw(seed: int = 0, *, cells: int = 20, overlapping: float = 0.0) -> RenderedField:
    rng = np.random.default_rng(seed)
    return render_field(
        draw_patient(1, rng),
        rng,
        cells=cells,
        parasitized=5,
        overlapping=overlapping,
        height=800,
        width=1200,
    )


def lies_over(field: RenderedField) -> int:
    """How many pairs of cells touch or overlap."""
    x, y, width, height = np.array([cell.box for cell in field.cells], float).T
    middle = x + width / 2 + 1j * (y + height / 2)
    radius = (width + height) / 4
    near = np.abs(middle[:, None] - middle) < 1.0 * (radius[:, None] + radius)
    return int(np.triu(near, 1).sum())


def test_a_field_says_what_was_drawn() -> None:
    field = draw()
    assert field.pixels.shape == (800, 1200, 3)
    assert field.pixels.dtype == np.uint8
    assert len(field.cells) == 20
    assert sum(cell.stage is not None for cell in field.cells) == 5
    ground = np.median(field.pixels[field.pixels.min(axis=2) > 200], axis=0)
    for cell in field.cells:
        x, y, width, height = cell.box
        assert x >= 0
        assert y >= 0
        assert x + width <= 1200
        assert y + height <= 800
        middle = field.pixels[y : y + height, x : x + width].reshape(-1, 3).mean(axis=0)
        assert middle.sum() < ground.sum() - 30


def test_cells_lie_apart_or_not_as_asked() -> None:
    assert lies_over(draw()) == 0
    assert lies_over(draw(overlapping=0.5)) >= 4


def test_a_seed_decides_every_pixel() -> None:
    np.testing.assert_array_equal(draw(3).pixels, draw(3).pixels)
    assert (draw(3).pixels != draw(4).pixels).any()


def test_too_many_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="200 cells do not fit into 1200 x 800 pixels"):
        draw(cells=200)
