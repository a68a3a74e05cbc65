from pathlib import Path

import numpy as np
import pytest

from tasks.images.opened_slides import open_slide
from tasks.synthetic.rendered_cells import draw_patient
from tests.support.rendered_fields import RenderedField, render_field
from tests.support.rendered_slides import RenderedSlide, render_slide


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
    """Count the pairs of cells that touch or overlap."""
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


def test_a_slide_says_what_was_drawn(rendered_slide: tuple[Path, RenderedSlide]) -> None:
    path, drawn = rendered_slide
    slide = open_slide(path.as_uri())
    assert (slide.width, slide.height) == (4096, 3072)
    assert slide.downsamples == (1, 4, 16)
    assert slide.microns_per_pixel == pytest.approx(0.125)
    assert [field.thick for field in drawn.fields].count(True) == 2
    assert drawn.cells == 4 * 45
    assert drawn.parasitized == 4 * 4
    glass = np.median(slide.read(0, 0, 4096, 3072, 2), axis=(0, 1))
    for field in drawn.fields:
        pixels = slide.read(field.x, field.y, drawn.side, drawn.side)
        darker = (glass - pixels).sum(axis=2) > 30
        assert darker.mean() > (0.9 if field.thick else 0.05)
        for cell in field.cells:
            x, y, width, height = cell.box
            assert darker[y - field.y :, x - field.x :][:height, :width].mean() > 0.5


def test_levels_show_the_same(slide: Path) -> None:
    opened = open_slide(slide.as_uri())
    fine = opened.read(0, 0, 4096, 3072).reshape(768, 4, 1024, 4, 3).mean(axis=(1, 3))
    coarse = opened.read(0, 0, 4096, 3072, 1)
    assert np.abs(fine - coarse).mean() < 2


def test_a_seed_decides_every_pixel_whatever_the_levels(slide: Path, tmp_path: Path) -> None:
    path = tmp_path / "flat.tif"
    render_slide(path, width=4096, height=3072, fields=4, thick=2, seed=0, levels=1)
    flat, whole = open_slide(path.as_uri()), open_slide(slide.as_uri())
    assert flat.downsamples == (1,)
    np.testing.assert_array_equal(flat.read(0, 0, 4096, 3072), whole.read(0, 0, 4096, 3072))


def test_too_many_fields_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 fields do not fit onto 2500 x 1500 pixels"):
        render_slide(tmp_path / "small", width=2500, height=1500, fields=2, thick=1, seed=0)
