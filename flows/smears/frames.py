"""Show scored images as a data frame with thumbnails; only notebooks need pandas."""

from collections.abc import Mapping, Sequence
from html import escape
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tasks.images import regions
from tasks.smears.visualisation.overlay import outline_of, thumbnail
from tasks.smears.visualisation.page import data_uri
from tasks.words import counted

try:
    import pandas as pd
except ImportError as error:
    raise ImportError("data frames need pandas: pip install 'slidewatch[notebook]'") from error

ROWS = 20  # that a notebook shows, with thumbnails
SHOWN = [
    "slide_id", "diagnosis", "probability_Parasitized", "abnormality", "p_value", "verdict",
    "review_reason", "failure",
]  # fmt: skip  # columns; the frame has all
TABLE = "border-collapse: collapse; font-variant-numeric: tabular-nums"
CELL = "padding: .2em .6em; text-align: left; border-bottom: 1px solid #8884"


class Scored(pd.DataFrame):  # type: ignore[misc]
    """A table of scored images, shown with thumbnails in notebooks.

    It has the columns of the report on images, which ``slidewatch schema`` explains, and the
    ``outline`` (n, 2) of each cell that was cut out: x and y in pixels of its ``source_uri``.
    A notebook shows the columns `SHOWN`, or those of a selection.
    """

    _metadata: ClassVar[list[str]] = ["pictures"]

    @property
    def _constructor(self) -> type["Scored"]:
        return Scored

    def _repr_html_(self) -> str:
        if "uri" not in self.columns:
            return str(super()._repr_html_())
        columns = [name for name in self.columns if name != "uri"]
        if len(columns) > len(SHOWN):
            columns = [name for name in SHOWN if name in columns]
        pictures = getattr(self, "pictures", None) or {}
        lines = [_line("th", ["", "image", *map(escape, columns)])]
        for index, row in pd.DataFrame(self.head(ROWS)).iterrows():
            texts = [escape(_text(name, row[name])) for name in columns]
            picture = _thumbnail(pictures.get(row["uri"]))
            lines.append(_line("td", [escape(str(index)), picture, *texts]))
        more = f"{counted(len(self), 'image')}, {counted(len(self.columns), 'column')}"
        return f'<table style="{TABLE}">{"".join(lines)}</table>{more}'

    def _display_(self) -> SimpleNamespace:
        """Show the same in marimo, which otherwise draws its own table of a data frame."""
        return SimpleNamespace(_mime_=lambda: ("text/html", self._repr_html_()))


def scored_frame(
    rows: pa.Table,
    refs: Sequence[regions.ImageRef],
    pictures: Mapping[str, regions.ImageRef],
    numbers: Mapping[str, int],
) -> Scored:
    """Make a frame of the report's ``rows`` (n,), whose images are the ``refs`` (n,).

    Rows are in the order of ``numbers``, by the address of the picture that they are of.
    """
    frame = Scored(rows.to_pandas())
    frame["outline"] = [
        None if ref.outline is None else outline_of(row, ref.outline.ravel())
        for ref, row in zip(refs, rows.select(["uri", "x", "y"]).to_pylist(), strict=True)
    ]
    order = np.argsort([numbers.get(ref.source, 0) for ref in refs], kind="stable")
    frame = Scored(frame.take(order).reset_index(drop=True))
    frame.pictures = pictures
    return frame


def _line(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag} style={CELL!r}>{cell}</{tag}>' for cell in cells)}</tr>"


def _thumbnail(place: regions.ImageRef | None) -> str:
    if place is None:
        return ""
    try:
        source = data_uri(thumbnail(regions.find(place).image()), "webp")
    except Exception:  # its row says why
        return ""
    return f'<img alt="" width="64" src="{source}">'


def _text(name: str, value: Any) -> str:
    if isinstance(value, float) and not np.isnan(value):
        share = name.startswith("probability_") or name.endswith("p_value")
        if not share:
            return f"{value:.3g}"
        return "<0.001" if 0 < value < 5e-4 else f"{value:.3f}"
    return "" if value is None or pd.isna(value) is True else str(value)
