"""Show a night in Prefect, and emit the events that Prefect's automations can act on.

Artifacts: a summary, the most abnormal cells, where the page is, and how far the night is while it
runs. Events: ``slidewatch.batch.failed`` when images failed, ``slidewatch.batch.abnormal`` when the
light is amber or red; their resource is ``slidewatch.batch.<name>``. None of it is needed: the
night is in the store; where Prefect cannot be reached a warning is logged and the work goes on.
"""

import heapq
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

from httpx import TransportError
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event
from prefect.logging import get_run_logger

from storage.batches.ledger import Seal
from storage.batches.manifests import Batch
from storage.batches.segmentations import sources_of
from storage.parquet import iterate_groups
from storage.reports.pages import page_path
from storage.reports.tables import report_path
from storage.store import Store, digest_of
from tasks.images.listing import named
from tasks.reports.night.batches import BatchSummary
from tasks.types import Light

FAILED, ABNORMAL = "slidewatch.batch.failed", "slidewatch.batch.abnormal"
MOST_ABNORMAL = 20
COLUMNS = (
    "uri",
    "slide_id",
    "patient_id",
    "diagnosis",
    "abnormality",
    "p_value",
    "verdict",
    "review_reason",
)
UPDATE_EVERY = 15.0  # seconds: a server is asked rarely, however short shards are


def artifact_key(batch: str, what: str = "night") -> str:
    """Make an artifact's key of small letters, digits and dashes from any batch name.

    >>> artifact_key("2026-03-01")
    'night-2026-03-01'
    >>> artifact_key("Ward_7.b"), artifact_key("ward-7-b")
    ('night-ward-7-b-e3651dd8', 'night-ward-7-b')
    """
    plain = "-".join(re.findall(r"[a-z0-9]+", batch.lower()))
    # Two batches must not share a key because their names differ in what a key cannot say.
    return f"{what}-{plain}" + ("" if plain == batch else f"-{digest_of(batch.encode())[:8]}")


def markdown_text(value: object) -> str:
    r"""Escape a value for a Markdown table, so that it cannot break the table or be markup.

    >>> markdown_text("a|b\n<img src=x> [l](javascript:x) _c_")
    'a\\|b &lt;img src=x&gt; \\[l\\]\\(javascript:x\\) \\_c\\_'
    """
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", text)


def announce(store: Store, batch: Batch, seal: Seal, night: BatchSummary) -> bool:
    """Emit the events, and make the artifacts, of a night that has just been published.

    Args:
        store: where its reports are.
        batch: that was screened.
        seal: of its reports.
        night: the batch's summary.

    Returns:
        Whether Prefect took all of it.
    """
    steps: dict[str, Callable[[], object]] = {
        "the events": lambda: _emit_all(store, batch, seal, night),
        "the summary": lambda: create_markdown_artifact(
            _summary(store, batch, seal, night),
            key=artifact_key(batch.name),
            description=f"Batch {batch.name}: {night.light}",
        ),
        "the most abnormal cells": lambda: create_table_artifact(
            most_abnormal(store, batch),
            key=artifact_key(batch.name, "abnormal"),
            description=f"The {MOST_ABNORMAL} most abnormal cells of batch {batch.name}",
        ),
        "the page": lambda: create_link_artifact(
            store.fs.unstrip_protocol(store.path(*page_path(batch.name))),
            key=artifact_key(batch.name, "page"),
            description=f"The page of batch {batch.name}",
        ),
    }
    errors: list[Exception] = []
    for what, step in steps.items():
        with _or_warn(what, errors):
            step()
        if any(isinstance(error, TransportError) for error in errors):
            break  # a server that is gone is waited for once, and not for each
    return not errors


def most_abnormal(store: Store, batch: Batch) -> list[dict[str, Any]]:
    """Find the most abnormal rows of a report, in the columns `COLUMNS`, without failed images."""
    best: list[tuple[float, str, dict[str, Any]]] = []
    for part in iterate_groups(
        store, *report_path(batch.name, batch.batch_date), columns=list(COLUMNS)
    ):
        scored = part.filter(part["abnormality"].is_valid())
        head = scored.sort_by([("abnormality", "descending"), ("uri", "ascending")])
        rows = head.slice(0, MOST_ABNORMAL).select(COLUMNS).to_pylist()
        keyed = [(-row["abnormality"], row["uri"], row) for row in rows]
        best = heapq.nsmallest(MOST_ABNORMAL, [*best, *keyed], key=lambda each: each[:2])
    return [row for _, _, row in best]


@contextmanager
def progress_artifact(batch: str, total: int) -> Iterator["NightProgress"]:
    """Show a night's progress in Prefect during the block, and 100% when it ends well."""
    progress = NightProgress(batch, total)
    yield progress
    progress.update(total, last=True)


class NightProgress:
    """The progress of a night, sent to Prefect at intervals, and no more once that has failed."""

    def __init__(self, batch: str, total: int) -> None:
        self._total, self._told = total, time.monotonic()
        self._artifact: UUID | None = None
        with _or_warn("the progress"):
            made = create_progress_artifact(
                0.0,
                key=artifact_key(batch, "progress"),
                description=f"Batch {batch}: the share of its shards that is done",
            )
            # Its type says that a coroutine would get a coroutine.
            self._artifact = cast(UUID, made)

    def update(self, done: int, *, last: bool = False) -> None:
        """Tell Prefect how many shards are done, unless it was told a moment ago."""
        if self._artifact is None or not (last or time.monotonic() - self._told > UPDATE_EVERY):
            return
        artifact, self._artifact = self._artifact, None
        with _or_warn("the progress"):
            # A night without images has no shards, and is done.
            share = done / self._total if self._total else 1.0
            update_progress_artifact(artifact, 100.0 * share)
            self._artifact = artifact
        self._told = time.monotonic()


def _summary(store: Store, batch: Batch, seal: Seal, night: BatchSummary) -> str:
    diagnoses = ", ".join(f"{n:,} {name}" for name, n in seal.diagnoses.items())
    failures = ", ".join(f"{n:,} {reason}" for reason, n in seal.failures.items())
    rows = {
        "light": night.light,
        "why": "; ".join(night.reasons) or "nothing is unusual",
        "images": f"{seal.rows:,} of {named(sources_of(store, batch))}",
        "failed": f"{seal.failed:,}" + (f": {failures}" if failures else ""),
        "diagnoses": diagnoses,
        "abnormal": f"{seal.abnormal:,} of {seal.scored:,} scored",
        "for review": f"{seal.review:,} images, {night.slides_for_review:,} slides",
        "detector": seal.detector,
        "report": store.address(*seal.report.split("/")),
    }
    lines = [f"# Batch {markdown_text(batch.name)}, {batch.batch_date}", "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {markdown_text(rows[name])} |" for name in rows)])


def _emit_all(store: Store, batch: Batch, seal: Seal, night: BatchSummary) -> None:
    for name in [FAILED] * (seal.failed > 0) + [ABNORMAL] * (night.light != Light.GREEN):
        _emit(name, store, batch, seal, night)


def _emit(name: str, store: Store, batch: Batch, seal: Seal, night: BatchSummary) -> None:
    emit_event(
        name,
        resource={
            "prefect.resource.id": f"slidewatch.batch.{batch.name}",
            "prefect.resource.name": batch.name,
            "slidewatch.light": night.light.value,
        },
        payload={
            "batch_date": batch.batch_date.isoformat(),
            "light": night.light.value,
            "reasons": list(night.reasons),
            "images": seal.rows,
            "failed": seal.failed,
            "failures": seal.failures,
            "abnormal": seal.abnormal,
            "review": seal.review,
            "detector": seal.detector,
            "report": store.address(*seal.report.split("/")),
        },
    )


@contextmanager
def _or_warn(what: str, errors: list[Exception] | None = None) -> Iterator[None]:
    """Warn where the block fails, and add its error to a list."""
    try:
        yield
    except Exception as error:  # Prefect is a window on the night, not a part of it
        if errors is not None:
            errors.append(error)
        get_run_logger().warning(
            "Prefect was not told of %s (%s: %s); the work goes on without",
            what,
            type(error).__name__,
            error,
        )
