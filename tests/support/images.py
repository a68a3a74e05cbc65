"""Rendered images that all tests share, and how images are read and written."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from PIL import Image

    from tasks.images.decoding import BadImageError
    from tasks.images.regions import ImageRef
    from tests.support.rendered_slides import RenderedSlide


@pytest.fixture(scope="session")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients' cells, half of them Parasitized, in a folder for each class."""
    return write_cells(tmp_path_factory.mktemp("cells"), 4, 6, seed=0)


@pytest.fixture(scope="session")
def rendered_slide(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, RenderedSlide]":
    """A slide of 4096 x 3072 pixels at three resolutions: four fields, two too thick, and glass."""
    from tests.support.rendered_slides import render_slide

    path = tmp_path_factory.mktemp("slides") / "smear.tif"
    return path, render_slide(path, width=4096, height=3072, fields=4, thick=2, seed=0)


@pytest.fixture(scope="session")
def slide(rendered_slide: "tuple[Path, RenderedSlide]") -> Path:
    """The file of that slide."""
    return rendered_slide[0]


def whole_file(uri: str) -> "ImageRef":
    """Make the reference to an image that is a whole file."""
    from tasks.images.regions import ImageRef

    return ImageRef(uri, uri)


def refusal_of(ref: "ImageRef") -> "BadImageError":
    """Read an image that cannot be read, and return why."""
    from tasks.network.extraction import load_image

    failure = load_image(ref, 8).failure
    assert failure is not None
    return failure


def encode(image: "Image.Image", kind: str, **options: object) -> bytes:
    """Return the bytes of a file of an image."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_cells(
    folder: Path, patients: int, cells: int, *, seed: int, first: int = 1, parasitized: float = 0.5
) -> Path:
    """Render labelled cells, as many of each patient; return the folder."""
    from tasks.smears.synthetic.rendered_cells import write_collection

    given = {"patients": patients, "cells_per_patient": cells, "seed": seed, "first_patient": first}
    write_collection(folder, parasitized_fraction=parasitized, **given)
    return folder


def write_mixed_night(
    folder: Path, patients: int, cells: int, planted: int, parasitized: float = 0.5
) -> Path:
    """Render unlabelled cells with abnormal images and a file cut short; return the folder."""
    from tasks.smears.synthetic.rendered_cells import write_night

    given = {"patients": patients, "cells_per_patient": cells, "planted_per_kind": planted}
    write_night(folder, parasitized_fraction=parasitized, seed=2, first_patient=101, **given)
    return folder
