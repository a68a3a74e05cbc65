"""Make the report of an evaluation as an HTML page.

It is made from two tables, ``SCORES`` and ``METRICS`` of `tasks.evaluation.metrics`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import roc_curve

from tasks.evaluation.metrics import AS_FILES, METRICS
from tasks.evaluation.results.examples import Example
from tasks.evaluation.scored import OWN
from tasks.evaluation.seeds import (
    ALARMS,
    ATTACK,
    COVARIATE,
    NIGHTS,
    ORDINARY,
    THRESHOLD,
    Column,
    Compared,
    Means,
    means_over_seeds,
    rank,
)
from tasks.visualisation import charts
from tasks.visualisation import robustness_tables as tables
from tasks.visualisation.page import data_uri, encoded, render

Float = NDArray[np.float64]

# One row per seed, image and detector; a higher score is more abnormal.
SCORES = pa.schema(
    [
        ("seed", pa.int64()),
        ("group", pa.string()),
        ("set", pa.string()),
        ("strength", pa.float64()),
        ("images", pa.string()),
        ("treatment", pa.string()),
        ("detector", pa.string()),
        ("score", pa.float64()),
        ("counted", pa.bool_()),
    ]
)

MOST_CURVES = 16
GRID = np.geomspace(charts.LEAST_ALARMS, 1.0, 121)


class Place(NamedTuple):
    """Identify the images that some scores belong to."""

    group: str
    set: str
    strength: float | None
    treatment: str


Drawn = dict[tuple[int, str], dict[Place, Float]]  # by seed and detector
Drawings = list[tuple[str, Markup]]  # caption and chart


def robustness_page(
    title: str,
    facts: Mapping[str, str],
    metrics: pa.Table,
    scores: pa.Table,
    examples: Sequence[Example],
) -> str:
    """Make a page that needs no other file.

    ``metrics`` and ``scores`` are tables of ``METRICS`` and ``SCORES``, further columns ignored; up
    to a million rows. Images of examples are embedded as they are.
    """
    means = means_over_seeds(metrics)
    drawn = _scores_by_detector(scores)
    return render(
        "robustness.html",
        title=title,
        facts=facts,
        note=tables.note(means),
        summary=tables.summary_tables(means),
        spectrum=[
            (g.capitalize(), tables.group_tables(means, g))
            for g in tables.groups_of(means)
            if g in NIGHTS
        ],
        histograms=_histograms(drawn, metrics),
        rocs=_roc_charts(drawn, tables.main_detectors(tables.detectors_of(means))),
        strengths=_strength_charts(means),
        covariates=_covariate_charts(means),
        alarms=tables.group_tables(means, ALARMS),
        alarm_charts=_alarm_charts(means),
        groups=[
            (g, tables.group_tables(means, g))
            for g in tables.groups_of(means)
            if g not in (ALARMS, *NIGHTS)
        ],
        examples=[_pictures(example) for example in examples],
    )


def _scores_by_detector(scores: pa.Table) -> Drawn:
    """Collect finite scores that count, of images as files, (n,) for each place, in order."""
    table = scores.select(SCORES.names).cast(SCORES)
    usable = pc.and_(pc.equal(table["images"], AS_FILES), pc.is_finite(table["score"]))
    table = table.filter(pc.and_(usable, table["counted"]))
    keys = ["seed", "detector", "group", "set", "strength", "treatment"]
    found = table.group_by(keys, use_threads=False).aggregate([("score", "list")])
    lists = found["score_list"].combine_chunks()
    drawn: Drawn = {}
    for i, row in enumerate(found.select(keys).to_pylist()):
        place = Place(row["group"] or "", row["set"] or "", row["strength"], row["treatment"])
        of_detector = drawn.setdefault((row["seed"], row["detector"]), {})
        of_detector[place] = lists[i].values.to_numpy()
    return drawn


def _gather(parts: Iterable[Float]) -> Float:
    return np.concatenate([np.empty(0), *parts])


def _histograms(drawn: Drawn, metrics: pa.Table) -> Drawings:
    """Draw the own detector's scores in the first seed, whose threshold is exact."""
    seed = min((seed for seed, detector in drawn if detector == OWN), default=None)
    if seed is None:
        return []
    own = drawn[seed, OWN]
    groups = {
        treatment: _gather(found for place, found in own.items() if place.treatment == treatment)
        for treatment in (tables.CLEAN, tables.NOISE)
    }
    for group in sorted({place.group for place in own}, key=rank):
        groups[group] = _gather(
            found
            for place, found in own.items()
            if (place.group, place.treatment) == (group, tables.CHANGED)
        )
    wanted = {"metric": THRESHOLD, "detector": OWN, "seed": seed}
    rows = metrics.select(METRICS.names).cast(METRICS).to_pylist()
    thresholds = [row["value"] for row in rows if wanted.items() <= row.items()]
    title = f"{OWN}, seed {seed}"
    return [(title, charts.histogram(groups, thresholds[0] if thresholds else None, title=title))]


def _roc_charts(drawn: Drawn, detectors: Sequence[str]) -> Drawings:
    """Draw a chart for each set that should be caught, at its weakest strength."""
    weakest: dict[tuple[str, str], Place] = {}
    for place in (place for places in drawn.values() for place in places):
        if place.treatment == tables.CHANGED and place.group not in ORDINARY:
            known = weakest.setdefault(place[:2], place)
            if (place.strength or 0.0) < (known.strength or 0.0):
                weakest[place[:2]] = place
    found = []
    for place in sorted(weakest.values(), key=lambda place: rank(place.group))[:MOST_CURVES]:
        curves = {detector: _mean_roc(drawn, place, detector) for detector in detectors}
        if any(len(false) for false, _ in curves.values()):
            title = f"{place.group}: {tables.set_label(Compared(*place[:3], None, None))}"
            found.append((title, charts.roc_curves(curves, title=f"ROC curves, {title}")))
    return found


def _mean_roc(drawn: Drawn, place: Place, detector: str) -> tuple[Float, Float]:
    """Average over seeds the true-positive rate at each false-positive rate of ``GRID``.

    Negatives are the clean cells of the same set and strength or, where it has none, all of the
    seed's clean cells.
    """
    rates = []
    for seed in sorted({seed for seed, _ in drawn}):
        of_detector = drawn.get((seed, detector), {})
        changed = of_detector.get(place, np.empty(0))
        clean = {
            other: found for other, found in of_detector.items() if other.treatment == tables.CLEAN
        }
        negative = clean.get(place._replace(treatment=tables.CLEAN), _gather(clean.values()))
        if len(changed) and len(negative):
            positive = np.arange(len(changed) + len(negative)) < len(changed)
            false, true, _ = roc_curve(positive, np.concatenate([changed, negative]))
            last = np.append(np.diff(false) > 0, True)
            rates.append(np.interp(GRID, false[last], true[last]))
    return (GRID, np.mean(rates, axis=0)) if rates else (np.empty(0), np.empty(0))


def _strength_charts(means: Means) -> Drawings:
    """Draw the share caught and the AUROC of each attack by strength and detector."""
    shown = tables.main_detectors(tables.detectors_of(means))
    sets = dict.fromkeys(c.set for c in means if c.group == ATTACK)
    found = []
    for name, metric in product(sets, tables.SUMMARISED[::-1]):
        columns = {detector: Column(detector, metric) for detector in shown}
        series = {d: _line(means, ATTACK, name, column, 255) for d, column in columns.items()}
        if any(len(x) > 1 for x, _ in series.values()):
            title = f"{name}: {metric}"
            chart = charts.lines(series, x_label="Linf, 255ths", y_label=metric, title=title)
            found.append((title, chart))
    return found


def _covariate_charts(means: Means) -> Drawings:
    """Draw the own detector's false alarms, and the accuracy, by level of each corruption."""
    pairs = []
    sets = list(dict.fromkeys(c.set for c in means if c.group == COVARIATE))
    of = ((OWN, tables.ALARM), (None, tables.ACCURACY))
    for some, (detector, words) in product(_chunks(sets), of):
        column = Column(detector, words)
        series = {name: _line(means, COVARIATE, name, column, 1) for name in some}
        if any(len(x) for x, _ in series.values()):
            title = f"Changed cells: {words} by level"
            chart = charts.lines(series, x_label="level", y_label=words, title=title)
            pairs.append((words, chart))
    return pairs


def _alarm_charts(means: Means) -> Drawings:
    found = []
    sets = list(dict.fromkeys(c.set for c in means if c.group == ALARMS))
    columns = dict.fromkeys(c for k, row in means.items() if k.group == ALARMS for c in row)
    x, y = "calibrating patients", "false alarms"
    for column, some in product(columns, _chunks(sets)):
        series = {name: _line(means, ALARMS, name, column, 1) for name in some}
        if any(len(places) > 1 for places, _ in series.values()):
            of = "" if column.detector in (None, OWN) else f", {column.detector}"
            title = f"{column.metric}{of}"
            found.append((title, charts.lines(series, x_label=x, y_label=y, title=title)))
    return found


def _line(means: Means, group: str, name: str, column: Column, unit: float) -> tuple[Float, Float]:
    """Select strengths, times ``unit``, and means, (n,) each, of images as files against clean.

    Points of fewer seeds than the rest are left out: a line must not bend from a change of seeds.
    """
    points = [
        (unit * comparison.strength, row[column])
        for comparison, row in means.items()
        if (comparison.group, comparison.set) == (group, name)
        and comparison.strength is not None
        and comparison.images in (None, AS_FILES)
        and comparison.against in (None, tables.CLEAN)
        and column in row
    ]
    seeds = max([1, *(mean.seeds for _, mean in points)])
    kept = [(strength, mean.value) for strength, mean in points if mean.seeds == seeds]
    x, y = zip(*kept, strict=True) if kept else ((), ())
    return np.asarray(x, np.float64), np.asarray(y, np.float64)


def _chunks(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Divide names into parts of about the same length that a chart can show."""
    length = -(-len(names) // max(1, -(-len(names) // tables.SHOWN)))
    return (names[i : i + length] for i in range(0, len(names), max(1, length)))


def _pictures(example: Example) -> dict[str, Any]:
    """Describe an example for the page; the difference is about mid-grey, as large as fits."""
    difference = example.changed.astype(np.int16) - example.clean.astype(np.int16)
    times = max(1, 127 // max(1, int(np.abs(difference).max(initial=0))))
    said = f"difference ×{times}" if difference.any() else "no difference"
    amplified = (128 + difference * times).clip(0, 255).astype(np.uint8)
    images = {"clean": example.clean, "changed": example.changed, said: amplified}
    return {
        "heading": example.heading,
        "images": [
            (words, data_uri(encoded(Image.fromarray(pixels), "PNG", optimize=True), "png"))
            for words, pixels in images.items()
        ],
        "captions": example.captions,
    }
