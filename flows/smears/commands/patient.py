"""Run the command `patient`: print the call of one patient, or write it as a sheet."""

from typing import Any

from flows.commands.written import to_write, written
from flows.options.tools import PatientSheet
from flows.outcome import Outcome, table
from flows.settings import Settings, UsageError
from flows.smears.jobs.drawings import (
    DrawingJob,
    draw,
    draw_thumbnail,
    find_refs,
    places_jobs,
)
from flows.smears.stages.answers import answers_on
from storage.batches.manifests import Batch
from storage.models import classifiers, detectors
from storage.parquet import iterate_groups, read_table
from storage.reports.sql import answer
from storage.reports.tables import PATIENTS, SLIDES, published_batch, report_path
from storage.store import Store, StoreError, refuse_absent
from tasks.smears.answers.patients import Confirmation
from tasks.smears.counting.call import call_text
from tasks.smears.reports.called_cells import CalledCells, cells_behind, patient_of
from tasks.smears.visualisation.calls import CELLS, patient_name, patient_sheet, patient_table

ENDINGS = (".html", ".csv")


class PatientOutcome(Outcome):
    """The call of a patient, and the sheet that was written, if any."""

    batch: str
    patient: str
    call: str
    sentence: str
    persons: str | None
    file: str | None

    def _text(self) -> str:
        known = {"call": f"{self.call}: {self.sentence}", "persons": self.persons}
        rows: list[tuple[str, object]] = [
            (name, text) for name, text in (known | {"file": self.file}).items() if text
        ]
        return f"patient {self.patient} of batch {self.batch}\n{table(rows)}"


def patient(options: PatientSheet, settings: Settings) -> PatientOutcome:
    """Print the call of a patient, and write the page or table that is asked for."""
    store = Store(settings.store)
    refuse_absent(store)
    to = options.to and to_write(options.to, store, force=options.force)
    if to and to.suffix not in ENDINGS:
        raise UsageError(f"--to: {to} is no .html or .csv file")
    frozen = published_batch(store, options.batch or _newest_batch(store, options.name))
    row = _find(store, frozen, options.name)
    every = read_table(store, *_report(frozen, SLIDES))
    slides = [each for each in every.to_pylist() if patient_of(each) == patient_of(row)]
    detector = detectors.load_detector_card(store, row["detector"]) if row["detector"] else None
    card, wanted = classifiers.load_card(store, row["model"]), settings.negative_percent / 100
    persons = answers_on(store, frozen, card, detector, wanted).get(patient_of(row))
    if to:
        if to.suffix == ".csv":
            # Without the byte order mark Excel takes UTF-8 for something else.
            sheet, encoding = patient_table(row, slides, persons), "utf-8-sig"
        else:
            cells = cells_behind([row], every, most=CELLS, least=CELLS)
            sheet = _page(store, frozen, card, cells, row, slides, persons)
            encoding = "utf-8"
        with written(to) as stage:
            stage.write_text(sheet, encoding=encoding, newline="")
    return PatientOutcome(
        batch=frozen.name,
        patient=options.name,
        call=row["call"],
        sentence=call_text(row),
        persons=persons and f"{persons.answer} by {persons.by}",
        file=options.to,
    )


def _newest_batch(store: Store, name: str) -> str:
    quoted = f"'{name.removeprefix('slide ').replace(chr(39), 2 * chr(39))}'"
    sql = f"FROM patients WHERE coalesce(patient_id, slide_id) = {quoted} ORDER BY scored_at DESC"
    with answer(store, f"SELECT batch {sql} LIMIT 1") as rows:
        found = rows.read_all().to_pylist()
    if not found:
        raise StoreError(f"no batch of {store.url} has a patient {name!r}")
    return str(found[0]["batch"])


def _report(batch: Batch, kind: str) -> tuple[str, ...]:
    return report_path(batch.name, batch.batch_date, kind)


def _find(store: Store, batch: Batch, name: str) -> dict[str, Any]:
    if not store.exists(*_report(batch, PATIENTS)):
        raise StoreError(f"batch {batch.name} has no report on patients: screen it again")
    rows = read_table(store, *_report(batch, PATIENTS)).to_pylist()
    matches: list[dict[str, Any]] = [
        row for row in rows if name in (row["patient_id"] or row["slide_id"], patient_name(row))
    ]
    if not matches:
        some = ", ".join(patient_name(row) for row in rows[:5])
        raise StoreError(f"batch {batch.name} has no patient {name!r}; it has {some}")
    return matches[0]


def _page(
    store: Store,
    batch: Batch,
    card: classifiers.ModelCard,
    cells: CalledCells,
    row: dict[str, Any],
    slides: list[dict[str, Any]],
    persons: Confirmation | None,
) -> str:
    for rows in iterate_groups(store, *report_path(batch.name, batch.batch_date)):
        cells.count(rows)
    called = cells.of(patient_of(row))
    jobs = places_jobs(store, batch, card, called)
    places = {
        cell["uri"]: picture
        for job in jobs
        for (cell, *_), picture in zip(job.items, draw(job), strict=True)
    }
    uris = [cell["uri"] for cell in called]
    refs = find_refs(store, batch, uris)
    items = tuple((refs[cell["uri"]], cell["image_id"]) for cell in called)
    drawn = draw(DrawingJob(items, draw_thumbnail))
    thumbnails = dict(zip(uris, drawn, strict=True))
    return patient_sheet(row, slides, called, places, thumbnails, persons)
