"""Labelled images that are read for training."""

import shutil
from pathlib import Path

from PIL import Image

from flows.stages.training.labelled_images import load_labelled_images
from tests.support.fields import rendered


def test_a_photograph_among_labelled_cells_is_left_out_with_its_reason(
    cells: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(cells, tmp_path / "cells")
    field = folder / "Uninfected" / "field.png"
    Image.fromarray(rendered(0).pixels).resize((900, 640)).save(field)
    data = load_labelled_images(str(folder), 16)
    assert len(data.pixels) == len(list(cells.glob("*/*.png")))
    ((uri, why),) = data.unreadable.items()
    assert uri.endswith("/Uninfected/field.png")
    assert "whole cells" in why
