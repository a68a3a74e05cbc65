"""Draw charts as inline SVG that loads nothing and follows the reader's light or dark setting.

Text and axes take the colour of the text around them; a series takes a CSS variable that a page's
style defines twice. Series differ by dash or marker too, so that no chart needs colour to be read.
The place of a series in its mapping decides how it looks, so one without points keeps its place. A
threshold is infinite where there is none.
"""

import io
import re
from collections.abc import Mapping
from hashlib import sha256
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from tasks.smears.visualisation.page import PALETTE
from tasks.types import Float

DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
MARKERS = "os^DvPX*"
WIDTH, PLOT_HEIGHT, LEGEND_ROW = 4.6, 2.5, 0.2  # inches; an SVG unit is 1/72 of one
INK = "#010101"  # stands for the colour of the text around the chart

_RC: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 10,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def binned(
    edges: Float, counts: NDArray[np.integer[Any]], threshold: float, *, title: str
) -> Markup:
    """Draw a histogram of scores counted in bins, on an asinh axis; bars grow as square roots.

    Of 200,000 scores a dozen beyond the threshold would be no pixel high on a linear scale. The
    threshold is among the ``edges`` (B + 1,), and the outermost bins hold scores beyond too.
    ``counts`` (2, B) are of ordinary images and of abnormal ones, which stand above these.
    """
    both = counts.sum(axis=0)
    total, known = int(both.sum()), np.flatnonzero(both)
    above = int(counts[1].sum())
    with mpl.rc_context():
        figure = _figure(0)
        if not total:
            figure.text(0.5, 0.5, "no scores", ha="center")
            return _svg(figure, title, "No scores.")
        axes = figure.add_subplot()
        last = known[-1]
        if np.isfinite(threshold):
            last = max(last, int(np.searchsorted(edges, threshold * (1 - 1e-9))))
        low, high = max(known[0] - 2, 0), min(last + 3, len(both))
        ordinary, stops = counts[0, low:high], edges[low : high + 1]
        axes.stairs(ordinary, stops, fill=True, color=_colour(0))
        axes.stairs(both[low:high], stops, baseline=ordinary, fill=True, color=_colour(1))
        summary = f"{total:,} scores, {above:,} abnormal"
        if np.isfinite(threshold):
            axes.axvline(threshold, color=INK, linewidth=0.9)
            summary += f"; the threshold is {decimals(threshold)}"
            axes.set_title(f"{above:,} abnormal", loc="right", fontsize=10, color=_colour(1))
            axes.set_title(f"{total - above:,} ordinary", loc="left", fontsize=10, color=_colour(0))
        axes.set_xscale("asinh", linear_width=1.0)
        axes.set_xlim(stops[0], stops[-1])
        axes.xaxis.set_major_locator(FixedLocator(_ticks(stops)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))
        axes.set_yscale("function", functions=(np.sqrt, np.square))
        axes.set_ylim(0, both.max() * 1.05)
        axes.yaxis.set_major_locator(FixedLocator(_round_counts(int(both.max()))))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
        axes.set_xlabel("abnormality")
        axes.set_ylabel("images")
        axes.grid(visible=True, axis="y")
        axes.set_axisbelow(True)
        return _svg(figure, title, summary)


def lines(
    series: Mapping[str, tuple[Float, Float]], *, x_label: str, y_label: str, title: str
) -> Markup:
    """Draw shares against something measured: one line with markers for each series.

    The axis of shares begins at zero, or at one half where everything is above. ``series`` are by
    name: places and shares in ascending order of place, (n,) each.
    """
    drawn = {name: pair for name, pair in series.items() if len(pair[0])}
    with mpl.rc_context():
        figure = _figure(len(drawn))
        axes = figure.add_subplot()
        for i, (name, (x, y)) in enumerate(series.items()):
            if name in drawn:
                axes.plot(
                    x, y, linewidth=1.5, marker=MARKERS[i % len(MARKERS)], ms=4.5,
                    color=_colour(i), linestyle=DASHES[i % len(DASHES)], zorder=3 - i / 1000,
                )  # fmt: skip
        places, shares = (
            np.unique(np.concatenate([np.empty(0), *(pair[k] for pair in series.values())]))
            for k in (0, 1)
        )
        shares = shares[np.isfinite(shares)]
        least, most = (shares.min(), shares.max()) if len(shares) else (0.0, 1.0)
        bottom = 0.5 if least >= 0.5 else 0.0
        top = 1.0 if most > 0.5 else 1.1 * most or 1.0
        axes.set_ylim(bottom, top + 0.02 * (top - bottom))
        if 0 < len(places) <= 6:
            axes.xaxis.set_major_locator(FixedLocator(places.tolist()))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        short = FuncFormatter(lambda x, _: f"{x:g}".removeprefix("0") or "0")
        axes.xaxis.set_major_formatter(short)
        axes.yaxis.set_major_formatter(
            FuncFormatter(lambda y, _: f"{y:.3g}".removeprefix("0") or "0")
        )
        axes.grid(visible=True)
        if drawn:
            marks, names = axes.get_lines(), list(drawn)
            figure.legend(marks, names, loc="outside lower left", ncols=2, handlelength=2.6)
        sentences = (
            f"{name} {decimals(y[0])} at {x[0]:g} to {decimals(y[-1])} at {x[-1]:g}"
            for name, (x, y) in drawn.items()
        )
        return _svg(figure, title, f"{y_label} by {x_label}: " + "; ".join(sentences))


def decimals(value: float | None) -> str:
    """Format a share as the field writes it, with four places where three would hide a difference.

    >>> [decimals(v) for v in (0.9521, 0.99862, 1.0, 0.0039, -0.25, 12.345, None)]
    ['.952', '.9986', '1', '.0039', '−.250', '12.3', '–']
    """
    if value is None or not np.isfinite(value):
        return "–"
    size = abs(value)
    if size in (0.0, 1.0):
        text = f"{size:.0f}"
    elif size >= 10:
        text = f"{size:,.1f}"
    else:
        text = f"{size:.4f}" if size < 0.01 or 0.99 <= size < 1 else f"{size:.3f}"
        text = text.removeprefix("0") if size < 1 else text
    return ("−" if value < 0 else "") + text


def _figure(named: int) -> Figure:
    """Make a figure with room below for a legend of ``named`` entries; set the drawing defaults."""
    mpl.rcdefaults()
    mpl.rcParams.update(_RC)
    height = PLOT_HEIGHT + -(-named // 2) * LEGEND_ROW
    return Figure(figsize=(WIDTH, height), layout="constrained")


def _colour(i: int) -> str:
    return PALETTE[i % len(PALETTE)][0]


def _round_counts(most: int) -> list[float]:
    """Round counts up to the highest that stand apart under a square root, zero first."""
    sizes = np.outer(10.0 ** np.arange(0, 9), (1, 2, 5)).ravel()
    ticks: list[float] = [0.0]
    for size in sizes[sizes <= most]:
        if np.sqrt(size) - np.sqrt(ticks[-1]) >= np.sqrt(most) / 6:
            ticks.append(float(size))
    return ticks


def _ticks(edges: Float) -> list[float]:
    """Choose round numbers within the edges that stand apart on the asinh axis, zero outwards."""
    sizes = np.outer(10.0 ** np.arange(-4, 9), (1, 2, 5)).ravel()
    span = np.arcsinh(edges[-1]) - np.arcsinh(edges[0])
    ticks: list[float] = []
    for tick in (0.0, *sizes[::-1], *-sizes[::-1]):
        place = np.arcsinh([tick, *ticks])
        apart = bool(np.all(np.abs(place[1:] - place[0]) > span / 11))
        if edges[0] <= tick <= edges[-1] and apart:
            ticks.append(float(tick))
    return sorted(ticks)


def _svg(figure: Figure, title: str, description: str) -> Markup:
    """Write the figure as an element of a page: no outside address, global style or fixed size.

    Ids come from the texts, so that two charts of a page do not share one.
    """
    label = escape(f"{title}. {description}")
    mpl.rcParams["svg.hashsalt"] = sha256(label.encode()).hexdigest()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(rf"(stroke|fill): {INK}", r"\1: currentColor", body)
    for i, (light, _) in enumerate(PALETTE):
        body = re.sub(rf"(stroke|fill): {light}", rf"\1: var(--series-{i}, {light})", body)
    opening = (
        f'<svg class="chart" role="img" aria-label="{label}" {box[0] if box else ""} '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'stroke-linejoin="round" stroke-linecap="butt">'
    )
    return Markup(opening + body.strip())
