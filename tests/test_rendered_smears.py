from pathlib import Path

import numpy as np
import pytest

from tasks.images.opened_slides import open_slide
from tasks.smears.synthetic.rendered_cells import draw_patient
from tests.support.rendered_fields import render_field
from tests.support.rendered_slides import RenderedSlide


def test_a_field_says_what_was_drawn() -> None:
    rng = np.random.default_rng(0)
    patient, size = draw_patient(1, rng), {"height": 800, "width": 1200}
    field = render_field(patient, rng, cells=20, parasitized=5, overlapping=0.0, **size)
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
