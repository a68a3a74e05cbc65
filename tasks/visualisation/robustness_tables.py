"""Make the tables of a robustness report, which say what each detector catches, over seeds.

They are made from ``METRICS`` of `tasks.evaluation.metrics`. A figure is the mean over seeds; its
spread is the smallest and the largest seed, or of a single seed the 95% patient-bootstrap interval.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from tasks.evaluation.comparison import VERDICT
from tasks.evaluation.metrics import AS_FILES
from tasks.evaluation.scored import OWN
from tasks.evaluation.seeds import (
    ALARMS,
    ATTACK,
    COVARIATE,
    NIGHTS,
    ORDINARY,
    PLANTED,
    Column,
    Compared,
    Mean,
    Means,
    means_over_seeds,
)
from tasks.visualisation import charts
from tasks.visualisation.charts import decimals

CLEAN, NOISE, CHANGED = "clean", "noise", "changed"
SUMMARISED = ("AUROC", "caught")
ALARM, ACCURACY = "called abnormal", "accuracy"
# To score higher is better in these.
RANKED = ("AUROC", "TNR at 95% TPR", "detection accuracy", "AUPR in", "AUPR out", "caught")
SHOWN = len(charts.PALETTE)  # detectors in a summary, series in a chart
# The first detector whose name begins so goes into summaries and charts before others do.
MAIN = (OWN, VERDICT, "maximum softmax", "energy", "ODIN", "k nearest", "mahalanobis")
LEARNED = "known-attack"


@dataclass(frozen=True)
class Cell:
    """Hold a figure, its spread, and whether it is the best of its row."""

    text: str
    spread: str = ""
    best: bool = False


@dataclass(frozen=True)
class Row:
    """Hold the headings and figures of a row."""

    headings: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Hold a table whose first columns are headings of its rows."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]


def robustness_markdown(title: str, facts: Mapping[str, str], metrics: pa.Table) -> str:
    """Write the facts and tables of the page as Markdown; arguments as of ``robustness_page``."""
    means = means_over_seeds(metrics)
    parts = [f"# {_plain(title)}"]
    if facts:
        parts.append("\n".join(f"- {_plain(name)}: {_plain(text)}" for name, text in facts.items()))
    parts += ["## Summary", note(means)]
    parts += [_markdown(table) for table in summary_tables(means)]
    for group in groups_of(means):
        parts.append(f"## {_plain(group.capitalize())}")
        parts += [_markdown(table) for table in group_tables(means, group)]
    return "\n\n".join(parts) + "\n"


def groups_of(means: Means) -> list[str]:
    """List the groups that figures are of, in their order."""
    return list(dict.fromkeys(comparison.group for comparison in means))


def detectors_of(means: Means) -> list[str]:
    """List the detectors that figures are of, the product's own first."""
    named = dict.fromkeys(column.detector for row in means.values() for column in row)
    found = [name for name in named if name is not None]
    return sorted(found, key=lambda name: (name != OWN, name != VERDICT))


def main_detectors(detectors: Sequence[str]) -> list[str]:
    """Choose as many detectors as a chart can tell apart; all where there are no more."""
    begun = [next((d for d in detectors if d.startswith(name)), None) for name in MAIN]
    chosen = [name for name in dict.fromkeys([*begun, *detectors]) if name is not None]
    return [name for name in detectors if name in chosen[:SHOWN]]


def _seeds(means: Means) -> int:
    return max((mean.seeds for row in means.values() for mean in row.values()), default=0)


def note(means: Means) -> str:
    """Explain how to read the figures."""
    seeds = _seeds(means)
    if seeds == 0:
        return "Nothing was measured."
    words = "One seed; with a figure stands its 95% patient-bootstrap interval, if it is known."
    if seeds > 1:
        words = f"A figure is the mean over {seeds} seeds, given with the smallest and the largest."
    words += " The best of a row is bold, where higher is better."
    if any("caught" in column for row in means.values() for column in row):
        words += (
            " Caught is the share found while each detector gives as many false alarms as the "
            "verdict."
        )
    if any(LEARNED in name for name in detectors_of(means)):
        words += f" What is called {LEARNED} has learned from the very kind of set it is tried on."
    return words


def summary_tables(means: Means) -> list[Table]:
    """Make a table for each metric of what should be caught, as files, against clean cells."""
    kept = {
        comparison: row
        for comparison, row in means.items()
        if comparison.group not in (*ORDINARY, *NIGHTS)
        and comparison.images == AS_FILES
        and comparison.against in (None, CLEAN)
    }
    return _by_detector(kept, SUMMARISED, main_detectors(detectors_of(means)), _seeds(means))


def group_tables(means: Means, group: str) -> list[Table]:
    """Tabulate a group's figures; columns are detectors where there are several, else metrics."""
    seeds = _seeds(means)
    kept = {comparison: row for comparison, row in means.items() if comparison.group == group}
    if group == ALARMS:
        return _alarm_tables(kept, seeds)
    columns = list(dict.fromkeys(column for row in kept.values() for column in row))
    measured = [column for column in columns if column.detector is not None]
    metrics = dict.fromkeys(column.metric for column in measured)
    if len(metrics) == len(measured):
        whole = {column: column.metric for column in columns}
        return _table(group.capitalize(), kept, whole, seeds, ranked=False)
    without = {column: column.metric for column in columns if column.detector is None}
    return [
        *_by_detector(kept, metrics, detectors_of(kept), seeds),
        *_table("Without a detector", kept, without, seeds, ranked=False),
    ]


def _alarm_tables(means: Means, seeds: int) -> list[Table]:
    """Make a table for each metric: a row for each method, a column for each number of patients."""
    turned: Means = {}
    metrics: dict[str, None] = {}
    for comparison, row in means.items():
        patients = _strength_label(comparison)
        for (detector, measured), mean in row.items():
            metric = measured if measured.startswith(ALARMS) else f"{ALARMS} {measured}"
            metrics[metric] = None
            name = comparison.set if detector in (None, OWN) else f"{comparison.set}, {detector}"
            key = comparison._replace(set=name, strength=None)
            turned.setdefault(key, {})[Column(patients, metric)] = mean
    labels = dict.fromkeys(map(_strength_label, sorted(means, key=lambda c: c.strength or 0.0)))
    return _by_detector(turned, metrics, list(labels), seeds)


def _by_detector(
    means: Means, metrics: Iterable[str], detectors: Sequence[str], seeds: int
) -> list[Table]:
    return [
        table
        for metric in metrics
        for table in _table(
            metric,
            means,
            {Column(name, metric): name for name in detectors},
            seeds,
            ranked=metric in RANKED,
        )
    ]


def _table(
    caption: str, means: Means, columns: Mapping[Column, str], seeds: int, *, ranked: bool
) -> list[Table]:
    """Make the table of these columns (and the words above them), or none where all would be empty.

    Headings that are the same in all rows stand in the caption.
    """
    used = [column for column in columns if any(column in row for row in means.values())]
    kept = {
        comparison: [row.get(column) for column in used]
        for comparison, row in means.items()
        if any(column in row for column in used)
    }
    if not kept:
        return []
    headings = {
        "group": [comparison.group for comparison in kept],
        "set": [set_label(comparison) for comparison in kept],
        "images": [comparison.images or "–" for comparison in kept],
        "against": [comparison.against or "–" for comparison in kept],
        "positives": [_counts(row, 0) for row in kept.values()],
        "negatives": [_counts(row, 1) for row in kept.values()],
    }
    apart = [name for name, texts in headings.items() if name == "set" or len(set(texts)) > 1]
    same = [
        f"{texts[0]} {name}" if name in ("positives", "negatives") else f"{name} {texts[0]}"
        for name, texts in headings.items()
        if name not in (*apart, "group") and texts[0] != "–"
    ]
    rows = tuple(
        Row(texts, _cells(row, seeds, ranked=ranked))
        for texts, row in zip(
            zip(*(headings[name] for name in apart), strict=True), kept.values(), strict=True
        )
    )
    head = [*apart, *(columns[column] for column in used)]
    if all(comparison.group == ALARMS for comparison in kept):
        head[head.index("set")] = "method"
    return [Table(", ".join([caption, *same]), tuple(head), rows)]


def _cells(row: Sequence[Mean | None], seeds: int, *, ranked: bool) -> tuple[Cell, ...]:
    values = [mean.value for mean in row if mean and mean.value is not None]
    best = decimals(max(values)) if ranked and len(values) > 1 else None
    cells = []
    for mean in row:
        text = decimals(mean.value if mean else None)
        spread = ""
        if mean and mean.value is not None:
            bounds = decimals(mean.low), decimals(mean.high)
            if bounds not in ((text, text), ("–", "–")):
                spread = " to ".join(bounds)
            if mean.seeds < seeds:
                spread += f" ({mean.seeds} of {seeds} seeds)"
        cells.append(Cell(text, spread.strip(), text == best))
    return tuple(cells)


def _counts(row: Sequence[Mean | None], side: int) -> str:
    pairs = [(mean.positives, mean.negatives)[side] for mean in row if mean]
    known = [count for pair in pairs for count in pair if count]
    if not known:
        return "–"
    low, high = min(known), max(known)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def set_label(comparison: Compared) -> str:
    """Name a set and its strength."""
    return ", ".join(filter(None, [comparison.set, _strength_label(comparison)]))


def _strength_label(comparison: Compared) -> str:
    strength = comparison.strength
    if strength is None:
        return ""
    text = f"{strength:g}".removeprefix("0") or "0"
    if comparison.group in (ATTACK, PLANTED) and abs(255 * strength - round(255 * strength)) < 1e-3:
        text = f"{round(255 * strength)}/255"
    elif comparison.group == COVARIATE:
        text = f"level {text}"
    elif comparison.group == ALARMS:
        text = f"{text} patients"
    return text


def _markdown(table: Table) -> str:
    head = [_plain(text) for text in table.head]
    rows = [
        [*map(_plain, row.headings), *(_markdown_cell(cell) for cell in row.cells)]
        for row in table.rows
    ]
    rule = ["---"] * len(head)
    body = "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))
    return f"**{_plain(table.caption)}**\n\n{body}"


def _markdown_cell(cell: Cell) -> str:
    figure = f"**{cell.text}**" if cell.best else cell.text
    return f"{figure} ({cell.spread})" if cell.spread else figure


def _plain(text: str) -> str:
    """Escape text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", " ".join(text.split()))
