import re
import xml.etree.ElementTree as ET
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest

from tasks.smears.visualisation import charts, page

WHITE, DARK = "#ffffff", "#15181b"
HOSTILE = ("<script>alert(1)</script>", "$x_1$ & \\frac", 'a"b')


def some_bins(*names: str) -> str:
    counts = np.array([[4, 9, 1], [0, 0, 2]]) if names else np.zeros((2, 3), int)
    return charts.binned(np.arange(4.0), counts, 2.0, title=" ".join(names))


def some_lines(*names: str) -> str:
    series = {name: (np.array([1.0, 2.0]), np.array([0.2, 0.9])) for name in names}
    return charts.lines(series, x_label="level", y_label="caught", title="Caught")


CHARTS = pytest.mark.parametrize("draw", [some_bins, some_lines])


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter() if "text" in element.tag]


def contrast(first: str, second: str) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_chart_says_in_words_what_it_shows() -> None:
    root = ET.fromstring(some_lines("near", "far"))
    assert root.get("role") == "img"
    label = root.get("aria-label") or ""
    assert label.startswith("Caught.")
    assert "near" in label
    assert "far" in label


def test_names_are_shown_as_they_are_and_do_nothing() -> None:
    svg = some_lines(*HOSTILE)
    assert "<script" not in svg
    assert set(HOSTILE) <= set(texts(svg))


@CHARTS
def test_a_chart_depends_on_its_data_alone_and_leaves_no_settings(draw: Callable[..., str]) -> None:
    first = draw("near")
    with mpl.rc_context({"axes.labelsize": 30, "xtick.labelsize": 30, "svg.fonttype": "path"}):
        before = dict(mpl.rcParams)
        assert draw("near") == first
        assert dict(mpl.rcParams) == before
    assert "Date" not in first


@CHARTS
def test_a_chart_follows_the_page_and_does_not_change_it(draw: Callable[..., str]) -> None:
    svg = draw("near", "far")
    assert "currentColor" in svg
    assert "var(--series-1" in svg
    assert charts.INK not in svg
    assert "<style" not in svg
    assert "font-family" not in svg
    assert not re.search(r"<svg[^>]* (width|height)=", svg)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', svg))


@CHARTS
def test_nothing_to_show_is_a_chart_too(draw: Callable[..., str]) -> None:
    ET.fromstring(draw())


def test_every_colour_stands_out_on_both_papers() -> None:
    assert all(contrast(light, WHITE) >= 3 for light, _ in charts.PALETTE)
    assert all(contrast(dark, DARK) >= 3 for _, dark in charts.PALETTE)
    assert all(dark in page.CHART_STYLE for _, dark in charts.PALETTE)


def test_a_series_without_points_only_keeps_its_place() -> None:
    nothing, something = (np.empty(0), np.empty(0)), (np.array([1.0]), np.array([0.5]))
    svg = charts.lines({"a": nothing, "b": something}, x_label="x", y_label="y", title="t")
    assert "--series-1" in svg
    assert "--series-0" not in svg
    assert "b" in texts(svg)
    assert "a" not in texts(svg)


def test_an_axis_of_shares_begins_at_zero_unless_all_are_above_one_half() -> None:
    def ticks(*shares: float) -> list[str]:
        pair = np.arange(10.0, 10 + len(shares)), np.array(shares)
        return texts(charts.lines({"a": pair}, x_label="x", y_label="y", title="t"))

    assert "0" in ticks(0.4, 0.9)
    assert "0" not in ticks(0.6, 0.9)
    assert ".5" in ticks(0.6, 0.9)
    assert "0" in ticks(np.nan, 0.01)


@pytest.mark.parametrize("most", [1, 7, 300, 90_000])
def test_binned_scores_say_how_many_are_abnormal(most: int) -> None:
    edges = np.sinh(np.arcsinh(2.0) + 0.1 * np.arange(-40, 41))
    counts = np.zeros((2, 80), np.int64)
    counts[0, 20:30], counts[1, 30], counts[1, 45] = most, 1, 2  # one lies below the line
    svg = charts.binned(edges, counts, 2.0, title="Scores")
    label = ET.fromstring(svg).get("aria-label") or ""
    assert label == f"Scores. {10 * most + 3:,} scores, 3 abnormal; the threshold is 2.000"
    assert "3 abnormal" in texts(svg)
    assert f"{10 * most:,} ordinary" in texts(svg)
    assert all(f"--series-{i}" in svg for i in (0, 1))
    assert svg == charts.binned(edges, counts, 2.0, title="Scores")


@pytest.mark.parametrize("threshold", [np.inf, 2.0, 0.1])
@pytest.mark.parametrize("place", [None, 0, 40, 79])
def test_any_binned_scores_can_be_drawn(threshold: float, place: int | None) -> None:
    edges = np.sinh(np.arcsinh(2.0) + 0.1 * np.arange(-40, 41))
    counts = np.zeros((2, 80), np.int64)
    if place is not None:
        counts[0, place] = 5
    label = (
        ET.fromstring(charts.binned(edges, counts, threshold, title="t")).get("aria-label") or ""
    )
    assert ("5 scores" if place is not None else "No scores") in label
    assert ("threshold" in label) == (place is not None and threshold in (2.0, 0.1))
