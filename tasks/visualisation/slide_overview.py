"""Draw a whole slide as it looks from afar."""

from math import ceil

import numpy as np
from PIL import Image

from tasks.images.slides import Slide
from tasks.types import Field as Pixels
from tasks.visualisation.overlay import LONGEST

BLOCK = 2048  # pixels of the side of what is read of a slide at once


def from_afar(slide: Slide) -> Pixels:
    """Read a slide with a longer side of `LONGEST` pixels in blocks, RGB uint8 (h, w, 3)."""
    shrink = max(1.0, max(slide.width, slide.height) / LONGEST)
    level = max(
        (n for n, each in enumerate(slide.downsamples) if each <= shrink),
        key=lambda n: slide.downsamples[n],
        default=0,
    )
    picture = Image.new("RGB", (ceil(slide.width / shrink), ceil(slide.height / shrink)))
    # Whole pixels of the picture, so that no seam is seen.
    step = max(1, int(BLOCK * slide.downsamples[level] / shrink))
    for y in range(0, picture.height, step):
        for x in range(0, picture.width, step):
            box = [round(n * shrink) for n in (x, y, x + step, y + step)]
            right, bottom = min(box[2], slide.width), min(box[3], slide.height)
            pixels = slide.read(box[0], box[1], right - box[0], bottom - box[1], level)
            size = min(step, picture.width - x), min(step, picture.height - y)
            picture.paste(Image.fromarray(pixels).resize(size, Image.Resampling.BOX), (x, y))
    return np.asarray(picture)
