"""Run the command `patient`: write the sheet of one patient, to print or for a spreadsheet."""

from pathlib import Path
from typing import Any

from flows.jobs.drawings import ThumbnailJob, draw_places, draw_thumbnails, places_jobs
from flows.options.tools import PatientSheet
from flows.outcome import Outcome, table
from flows.settings import Settings, UsageError
from flows.stages.answers import answers_on
from storage.batches.manifests import Batch, find_rows
from storage.models import classifiers, detectors
from storage.parquet import iterate_groups, read_table
from storage.reports.tables import PATIENTS, SLIDES, published_batch, report_path
from storage.store import Store, StoreError
from tasks.answers.patients import Confirmation
from tasks.counting.call import Call
from tasks.images.regions import image_refs
from tasks.reports.called_cells import CalledCells, patient_of
from tasks.visualisation.calls import patient_name
from tasks.visualisation.patients import CELLS, patient_sheet, patient_table

ENDINGS = (".html", ".csv")


class PatientOutcome(Outcome):
    """The sheet of a patient that was written."""

    batch: str
    patient: str
    call: str
    persons: str | None
    file: str

    def _text(self) -> str:
        rows: list[tuple[str, object]] = [("call", self.call), ("file", self.file)]
        if self.persons is not None:
            rows.insert(1, ("persons", self.persons))
        return f"patient {self.patient} of batch {self.batch}\n{table(rows)}"


def patient(options: PatientSheet, settings: Settings) -> PatientOutcome:
    """Write a patient's page or table."""
    store = Store(settings.store)
    path = Path(options.to)
    if "://" in options.to or path.suffix not in ENDINGS:
        raise UsageError(f"--to: {options.to} is no .html or .csv file on this machine")
    frozen = published_batch(store, options.batch)
    row = _find(store, frozen, options.name)
    slides = [
        each
        for each in read_table(store, *_report(frozen, SLIDES)).to_pylist()
        if patient_of(each) == patient_of(row)
    ]
    detector = detectors.load_detector_card(store, row["detector"]) if row["detector"] else None
    card, wanted = classifiers.load_card(store, row["model"]), settings.negative_percent / 100
    persons = answers_on(store, frozen, card, detector, wanted).get(patient_of(row))
    if path.suffix == ".csv":
        # Without the byte order mark Excel takes UTF-8 for something else.
        path.write_text(patient_table(row, slides, persons), encoding="utf-8-sig", newline="")
    else:
        path.write_text(_page(store, frozen, card, row, slides, persons), encoding="utf-8")
    return PatientOutcome(
        batch=frozen.name,
        patient=options.name,
        call=row["call"],
        persons=persons and str(persons.answer),
        file=options.to,
    )


def _report(batch: Batch, kind: str) -> tuple[str, ...]:
    return report_path(batch.name, batch.batch_date, kind)


def _find(store: Store, batch: Batch, name: str) -> dict[str, Any]:
    """Find a patient's row, by the name of the patient or of the slide that stands for one."""
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
    row: dict[str, Any],
    slides: list[dict[str, Any]],
    persons: Confirmation | None,
) -> str:
    unreadable = {each["slide_id"] for each in slides if each["call"] == Call.UNREADABLE}
    cells = CalledCells({patient_of(row): row["cells_called"]}, unreadable, most=CELLS, least=CELLS)
    for rows in iterate_groups(store, *report_path(batch.name, batch.batch_date)):
        cells.count(rows)
    called = cells.of(patient_of(row))
    jobs = places_jobs(store, batch, card, called)
    places = {
        cell["uri"]: picture
        for job in jobs
        for cell, picture in zip(job.cells, draw_places(job), strict=True)
    }
    uris = [cell["uri"] for cell in called]
    refs = {ref.uri: ref for ref in image_refs(find_rows(store, batch, uris))}
    drawn = draw_thumbnails(ThumbnailJob(tuple((refs[c["uri"]], c["image_id"]) for c in called)))
    thumbnails = dict(zip(uris, drawn, strict=True))
    return patient_sheet(row, slides, called, places, thumbnails, persons)
