"""Measure for benchmarks: a clock that is fair to all, and figures with their ratios."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

QUICK = os.environ.get("SLIDEWATCH_BENCH_QUICK") == "1"


Record = Callable[..., dict[str, Any]]  # takes what `figure` takes


def in_turn(rounds: int, runs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Measure the seconds of every run, A B C A B C: what else the machine does is unfair to none.

    A run that returns a float has measured itself, and that is what counts.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            own = run()
            seconds = time.perf_counter() - started
            taken[name].append(own if isinstance(own, float) else seconds)
    return taken


def figure(
    name: str,
    unit: str,
    *,
    ours: Sequence[float],
    rival: Sequence[float] | None = None,
    limit: float | None = None,
    bound: float | None = None,
    higher_is_better: bool = False,
) -> dict[str, Any]:
    """Sum up a figure; its ratios say by how much ours is better than the rival or the limit.

    ``ours`` and ``rival`` are measured in the same rounds, so their ratio is taken round by round.
    ``limit`` is an aim, which the table states. ``bound`` is the least ratio to the rival or,
    without a rival, to the limit; see `beyond_bound`.
    """
    row: dict[str, Any] = {"name": name, "unit": unit, "ours": _spread(ours)}
    row["higher_is_better"] = higher_is_better
    if rival is not None:
        pairs = zip(ours, rival, strict=True)
        row["rival"] = _spread(rival)
        row["ratio"] = _spread([a / b if higher_is_better else b / a for a, b in pairs])
    if limit is not None:
        value = row["ours"]["median"]
        row["limit"] = limit
        row["met"] = bool(value >= limit if higher_is_better else value <= limit)
        above, below = (value, limit) if higher_is_better else (limit, value)
        row["limit_ratio"] = above / below if below else None
    if bound is not None:
        row["bound"] = bound
    return row


def beyond_bound(row: Mapping[str, Any]) -> str | None:
    """Say that a figure's ratio is below its bound; None if it is not, or has no bound.

    A bound is generous: whatever else the machine does slows ours and the rival alike, so only a
    real loss goes beyond it.
    """
    ratio = row["ratio"]["median"] if "rival" in row else row.get("limit_ratio")
    if "bound" not in row or ratio is None or ratio >= row["bound"]:
        return None
    return f"{row['name']}: ratio {ratio:.3g}, at least {row['bound']:g} wanted ({line(row)})"


def line(row: Mapping[str, Any]) -> str:
    """Write a figure on a line, with the spread of its rounds."""
    text = f"{row['name']:<58} {_text(row['ours'])} {row['unit']}"
    if "rival" in row:
        text += f"; rival {_text(row['rival'])}; ratio {_text(row['ratio'])}"
    if "limit" in row:
        text += f"; limit {row['limit']:g}: {'met' if row['met'] else 'missed'}"
    return text


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _text(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.4g} ({spread['min']:.4g}-{spread['max']:.4g})"
