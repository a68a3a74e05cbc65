"""Draw a contact sheet: a row of thumbnails for each heading, a caption under every one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (110, 110, 110)
THUMBNAIL, GAP, LINE = 96, 12, 15


@dataclass(frozen=True)
class Thumbnail:
    """Hold an image, uint8 (height, width, 3), and the lines that stand under it."""

    pixels: NDArray[np.uint8]
    caption: tuple[str, ...]


def contact_sheet(rows: Mapping[str, Sequence[Thumbnail]]) -> Image.Image:
    """Draw the sheet; every image is fitted into a square and keeps its shape."""
    font = ImageFont.load_default(size=12)
    lines = max((len(t.caption) for row in rows.values() for t in row), default=0)
    pitch, height = THUMBNAIL + GAP, LINE + 6 + THUMBNAIL + lines * LINE + GAP
    widest = max((len(row) for row in rows.values()), default=0)
    sheet = Image.new("RGB", (GAP + widest * pitch, GAP + len(rows) * height), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (heading, row) in enumerate(rows.items()):
        top = GAP + i * height
        draw.text((GAP, top), heading, INK, font)
        for j, thumbnail in enumerate(row):
            left = GAP + j * pitch
            image = Image.fromarray(thumbnail.pixels)
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            sheet.paste(image, (left, top + LINE + 6))
            for k, text in enumerate(thumbnail.caption):
                place = (left, top + LINE + 8 + THUMBNAIL + k * LINE)
                draw.text(place, text, FAINT if k else INK, font)
    return sheet
