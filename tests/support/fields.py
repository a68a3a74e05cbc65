"""Fields of view that are drawn: discs for cells, and rendered smears."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.smears.synthetic.rendered_cells import draw_patient
from tests.support.rendered_fields import RenderedField, render_field

GROUND, RED, NUCLEUS = (225, 228, 220), (205, 150, 155), (90, 60, 150)
Field = NDArray[np.uint8]


def disc(field: Field, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
    """Dye a disc of a field in place; where discs overlap, their dyes add up."""
    rows, columns = np.ogrid[: field.shape[0], : field.shape[1]]
    cover = np.clip(radius - np.hypot(columns - x, rows - y) + 0.5, 0, 1)[..., np.newaxis]
    passed = 1 - cover * (1 - np.array(colour) / GROUND)
    field[:] = np.round(field * passed)


def ground(height: int = 300, width: int = 400) -> Field:
    return np.full((height, width, 3), GROUND, np.uint8)


def field_of(*places: tuple[float, float], radius: float = 30) -> Field:
    """Red cells at x, y on an even ground, with the noise of a camera."""
    field = ground()
    for x, y in places:
        disc(field, x, y, radius, RED)
    return (
        (field + np.random.default_rng(0).normal(0, 1.5, field.shape)).clip(0, 255).astype(np.uint8)
    )


def rendered(
    seed: int, *, cells: int = 40, overlapping: float = 0.3, height: int = 1000, width: int = 1400
) -> RenderedField:
    rng = np.random.default_rng(seed)
    return render_field(
        draw_patient(seed + 1, rng),
        rng,
        cells=cells,
        parasitized=cells // 4,
        overlapping=overlapping,
        height=height,
        width=width,
    )


def thick_film() -> Field:
    """Nuclei of white cells on the clear ground that lysed red cells leave, and parasites."""
    rng, field = np.random.default_rng(1), ground(1000, 1400)
    for radius, number in ((24, 25), (4, 80)):
        for x, y in rng.uniform(40, 960, (number, 2)):
            disc(field, 1.4 * x, y, radius, (92, 54, 132))
    return (field + rng.normal(0, 1.5, field.shape)).clip(0, 255).astype(np.uint8)


def clouds(sigma: float, *, of_one_colour: bool = True) -> Field:
    """Smooth random colours, of which dark places look like cells."""
    noise = np.random.default_rng(25).standard_normal((900, 1200, 3))
    noise = cv2.GaussianBlur(noise, (0, 0), sigma)
    noise = 0.8 * noise[..., :1] + 0.2 * noise if of_one_colour else noise
    return (noise / noise.std() * 20 + 150).clip(0, 255).astype(np.uint8)
