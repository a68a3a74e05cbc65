"""Show a batch in Prefect, and emit the events that Prefect's automations can act on.

Artifacts: a summary that begins with the patients, and a link to the page where one is served.
Events: ``slidewatch.batch.failed`` when images failed, ``slidewatch.batch.abnormal`` when the light
is amber or red; their resource is ``slidewatch.batch.<name>``. The batch is in the store: if
Prefect cannot be reached, a warning is logged and the work continues.
"""

import html
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flows.monitoring.logs import log
from flows.outcome import numbered, printable
from flows.prefect.runs import current_run
from storage.batches import manifests
from storage.batches.ledger import Seal
from storage.reports import tables
from storage.smears import segmentations
from storage.smears.pages import page_path
from storage.store import Store
from tasks import types, words
from tasks.images.listing import named
from tasks.smears.counting.call import Call, density_text
from tasks.smears.reports.called_cells import Patient, patient_of
from tasks.smears.reports.night.counts import Row
from tasks.smears.visualisation.page import data_uri

FAILED, ABNORMAL = "slidewatch.batch.failed", "slidewatch.batch.abnormal"
NIGHT, PAGE = "slidewatch-night", "slidewatch-page"  # keys of the artifacts
MOST_PATIENTS = 50  # that the summary lists
MOST_PICTURES = 4  # of a patient
# Calls that a person should see, in this order; the others are only counted.
LISTED = (Call.POSITIVE, Call.SUSPECTED, Call.INDETERMINATE)


def markdown_text(value: object) -> str:
    r"""Escape a value for a Markdown table, so that it cannot break the table or be markup.

    >>> markdown_text("a|b\n<img src=x> [l](javascript:x) _c_")
    'a\\|b &lt;img src=x&gt; \\[l\\]\\(javascript:x\\) \\_c\\_'
    """
    text = html.escape(printable(" ".join(str(value).split())), quote=False)
    return re.sub(r"([\\`*_{}\[\]()#+!|~])", r"\\\1", text).replace("www.", "www\\.")


def announce(
    store: Store,
    batch: manifests.Batch,
    seal: Seal,
    night: Row,
    pictures: Mapping[Patient, Sequence[bytes]],
    pages_url: str | None = None,
    *,
    events: bool = True,
) -> bool:
    """Emit the events, and make the artifacts, of a batch that has just been published.

    Without ``events`` they were emitted before, and persons have answered since.
    ``pictures`` are the patients' likeliest parasites, WebP files. A browser finds the store's
    pages at ``pages_url``. Return whether Prefect accepted everything;
    False if it does not run the flow.
    """
    if current_run() is None:
        return False
    from httpx import TransportError
    from prefect.artifacts import create_link_artifact, create_markdown_artifact

    page = None if pages_url is None else f"{pages_url.rstrip('/')}/{page_path(batch.name)[-1]}"
    steps: dict[str, Callable[[], object]] = {
        "the summary": lambda: create_markdown_artifact(
            _summary(store, batch, seal, night, pictures, page),
            key=NIGHT,
            description=f"{batch.name}: {night['light']}",
        ),
    }
    if events:
        steps = {"the events": lambda: _emit_all(store, batch, seal, night), **steps}
    if page:
        steps["the page"] = lambda: create_link_artifact(
            page, link_text=f"Page of {batch.name}", key=PAGE, description=f"{batch.name}: its page"
        )
    accepted = True
    for what, step in steps.items():
        try:
            step()
        except Exception as error:  # the batch does not need Prefect
            accepted = False
            why = f"{type(error).__name__}: {error}"
            text = f"Prefect did not record {what} ({why}); the work continues without it"
            log(logging.WARNING, text)
            if isinstance(error, TransportError):
                break  # wait for a lost server once, not for each step
    return accepted


def _summary(
    store: Store,
    batch: manifests.Batch,
    seal: Seal,
    night: Row,
    pictures: Mapping[Patient, Sequence[bytes]],
    page: str | None,
) -> str:
    failures = numbered(seal.failures)
    rows = {
        "images": f"{seal.rows:,} of {named(segmentations.sources_of(store, batch))}",
        "failed": f"{seal.failed:,}" + (f": {failures}" if failures else ""),
        "diagnoses": numbered(seal.diagnoses),
        "abnormal": f"{seal.abnormal:,} of {seal.scored:,} scored",
        "for review": f"{words.counted(seal.review, 'image')}, "
        f"{words.counted(night['slides_for_review'], 'slide')}",
        "detector": seal.detector,
        "report": store.address(*seal.report.split("/")),
        "page": store.address(*page_path(batch.name)),
    }
    cells = {name: markdown_text(value) for name, value in rows.items()}
    if page:
        cells["page"] = f"<{page}>"
    return "\n".join(
        [
            f"# {markdown_text(batch.name)}: {night['light']}",
            "",
            *_patients(store, batch, night, pictures),
            "",
            # A long cell of a table is cut off on Prefect's page.
            *[
                f"- {markdown_text(reason)}"
                for reason in night["reasons"] or ("nothing is unusual",)
            ],
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in cells.items()),
        ]
    )


def _patients(
    store: Store, batch: manifests.Batch, night: Row, pictures: Mapping[Patient, Sequence[bytes]]
) -> list[str]:
    calls = night["patient_calls"]
    if not calls:
        return ["There are no calls of patients."]
    patients = tables.read_report(store, batch, tables.PATIENTS).to_pylist()
    answers = tables.find_report(store, batch, tables.PERSONS).to_pylist()
    persons = {patient_of(each): each for each in answers}
    shown = sorted(
        (row for row in patients if row["call"] in LISTED),
        key=lambda row: (
            LISTED.index(row["call"]),
            -(row["parasites_per_microlitre"] or 0.0),
            -row["parasitized"],
        ),
    )
    lines = [f"**{words.counted(sum(calls.values()), 'patient')}: {numbered(calls)}**"]
    if shown:
        head = "| patient | call | likeliest parasites | parasites/µL (95%) | red cells |"
        lines += ["", head, "|---|---|---|---|---|"]
    for row in shown[:MOST_PATIENTS]:
        who = markdown_text(row["patient_id"] or row["slide_id"] or "no name")
        cells = pictures.get(patient_of(row), ())[:MOST_PICTURES]
        drawn = " ".join(f"![cell]({data_uri(cell, 'webp')})" for cell in cells)
        counts = f"{_density(row)} | {row['cells_read']:,}"
        call, by = row["call"], persons.get(patient_of(row))
        if by:
            call += markdown_text(f"; {by['person_answer']} by {' and '.join(by['readers'])}")
        lines.append(f"| {who} | {call} | {drawn} | {counts} |")
    if len(shown) > MOST_PATIENTS:
        lines.append(f"\nand {len(shown) - MOST_PATIENTS:,} more, on the page")
    return lines


def _density(row: dict[str, Any]) -> str:
    names = [f"parasites_per_microlitre{bound}" for bound in ("", "_low", "_high")]
    if any(row[name] is None for name in names):
        return ""
    count, low, high = (density_text(row[name]) for name in names)
    return f"{count} ({low} to {high})"


def _emit_all(store: Store, batch: manifests.Batch, seal: Seal, night: Row) -> None:
    from prefect.events import emit_event

    for name in [FAILED] * (seal.failed > 0) + [ABNORMAL] * (night["light"] != types.Light.GREEN):
        emit_event(
            name,
            resource={
                "prefect.resource.id": f"slidewatch.batch.{batch.name}",
                "prefect.resource.name": batch.name,
                "slidewatch.light": night["light"],
            },
            payload={
                "batch_date": batch.batch_date.isoformat(),
                "light": night["light"],
                "reasons": night["reasons"],
                "images": seal.rows,
                **seal.model_dump(include={"failed", "failures", "abnormal", "review", "detector"}),
                "report": store.address(*seal.report.split("/")),
            },
        )
