"""Render HTML pages from templates that escape everything they are given; embed images in them."""

import base64
import io
from datetime import date
from math import asinh
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from tasks.images.access.addresses import path_of
from tasks.smears.counting.call import percent_text, range_text
from tasks.words import counted

TEMPLATES = Path(__file__).parent / "templates"
VIEWER = Path(__file__).parent / "viewer"
KNEE = 0.05  # percent
SHRINK = 0.85  # of a picture's sides, until its file is small enough

# (on white paper, on dark paper): hues after Okabe & Ito (2008), which the colour-blind tell apart,
# in lightnesses that stand out from their paper at 3 to 1 at least (WCAG 2.2, 1.4.11).
PALETTE = (
    ("#0067a8", "#5db7f0"),
    ("#c94f00", "#ff8a4c"),
    ("#007a58", "#2fc49a"),
    ("#a3467f", "#e29ac6"),
    ("#8a6100", "#e9b93a"),
    ("#5b6770", "#aab6bf"),
    ("#3b3f99", "#a6a9f5"),
    ("#1c2024", "#e4e7ea"),
)
_DARK = "".join(f"--series-{i}:{dark};" for i, (_, dark) in enumerate(PALETTE))
CHART_STYLE = (
    ".chart{width:100%;height:auto}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_DARK}}}}}"
)
LONGEST_TEXT = 160  # characters of a name or message; the report has them all


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Encode a picture as a file of Pillow's format ``kind``."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def as_webp(picture: Image.Image, quality: int = 82, most_bytes: int = 400_000) -> bytes:
    """Encode a picture as a WebP file, shrunk until it has at most ``most_bytes``."""
    shrunk = picture
    # Pillow's method 4 takes two and a half times as long, for files 3 to 8% smaller.
    while len(file := encoded(shrunk, "WEBP", quality=quality, method=2)) > most_bytes:
        size = (max(1, int(shrunk.width * SHRINK)), max(1, int(shrunk.height * SHRINK)))
        shrunk = picture.resize(size, Image.Resampling.LANCZOS)
    return file


def data_uri(content: bytes, kind: str) -> str:
    """Encode an image file as an address that needs no network; ``kind`` is such as ``png``."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def file_name(uri: str) -> str:
    """Name an image's file, in an archive or not.

    >>> file_name("zip://cells/C1_cell_2.png::/data/view.zip"), file_name("/photos/a.png")
    ('C1_cell_2.png', 'a.png')
    """
    return shortened(path_of(uri).rstrip("/").rpartition("/")[2] or uri)


def shortened(text: str, longest: int = LONGEST_TEXT) -> str:
    """Leave out the middle of a text that is too long for a page.

    >>> shortened("C48P9thinF_IMG_20150721", 11)
    'C48P9…50721'
    """
    half = (longest - 1) // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def percent(count: int, total: int) -> str:
    """Format a share in percent, with a dash where the total is 0.

    >>> percent(3, 40), percent(0, 0)
    ('7.5%', '–')
    """
    return f"{count / total:.1%}" if total else "–"


def p_text(value: float | None) -> str:
    """Format a p-value to two digits.

    >>> [p_text(value) for value in (0.0412, 1.0, 0.00003, None)]
    ['.041', '1', '< .0001', '–']
    """
    if value is None:
        return "–"
    return "< .0001" if value < 1e-4 else f"{value:.2g}".removeprefix("0")


def day_text(text: str) -> str:
    """Write a day of ISO format as people do."""
    day = date.fromisoformat(text)
    return f"{day.day} {day:%B %Y}"


def number_text(value: float | None) -> str:
    """Write a number, or a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "–"
    # Adding zero turns a rounded -0.0 into 0.0.
    return f"{round(value, 1) + 0.0:.1f}".replace("-", "−")


def chance_text(chance: float) -> str:
    """Write a probability in percent, never as certain.

    >>> [chance_text(value) for value in (0.99999, 0.987, 0.5)]
    ['> 99.9%', '98.7%', '50%']
    """
    if chance >= 0.9995:
        return "> 99.9%"
    return f"{chance:.1%}" if chance >= 0.9 else f"{chance:.0%}"


def on_axis(percent: float) -> str:
    """Compute where a parasitaemia lies on the axis of an interval, in pixels.

    The axis is linear below a tenth of a percent, and logarithmic above.

    >>> on_axis(0.0), on_axis(100.0)
    ('4.0', '146.0')
    """
    return f"{4 + 142 * asinh(percent / KNEE) / asinh(100 / KNEE):.1f}"


def environment(folder: Path) -> Environment:
    """Read templates of a folder, and the viewer's, which escape everything they are given."""
    made = Environment(
        loader=FileSystemLoader([folder, VIEWER]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "chance": chance_text,
        "data_uri": data_uri,
        "file_name": file_name,
        "number": number_text,
        "on_axis": on_axis,
        "p_value": p_text,
        "percent": percent_text,
        "shortened": shortened,
        "thousands": "{:,}".format,
    }
    made.globals |= {
        "chart_style": Markup(CHART_STYLE),
        "counted": counted,
        "percent": percent,
        "range_text": range_text,
    }
    # The content of a file, in contrast to the text that says why there is none.
    made.tests["picture"] = lambda content: isinstance(content, bytes)
    return made


_ENVIRONMENT = environment(TEMPLATES)


def compile_templates() -> None:
    """Compile all templates ahead of the first page, which otherwise waits a fifth of a second."""
    for name in _ENVIRONMENT.list_templates(extensions=["html"]):
        _ENVIRONMENT.get_template(name)


def render(template: str, **values: Any) -> str:
    """Render a page from its template; text in ``values`` is escaped, `Markup` is not."""
    return _ENVIRONMENT.get_template(template).render(**values)
