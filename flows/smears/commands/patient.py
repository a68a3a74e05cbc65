"""Run the commands `patient` and `export`: the call of one patient, or of all of a batch."""

from collections import Counter
from pathlib import Path
from typing import Any

from flows.commands.written import to_write, written
from flows.monitoring.console import noting
from flows.options.tools import Export, PatientSheet
from flows.outcome import DamageOutcome, quoted, table
from flows.settings import Settings, UsageError
from flows.smears.jobs.drawings import DrawingJob, draw, draw_thumbnail, find_refs, places_jobs
from flows.smears.stages.answers import Suspects, answers_on
from flows.smears.stages.calling import screened_batch
from storage.batches.manifests import Batch
from storage.models import classifiers, detectors
from storage.parquet import iterate_groups
from storage.reports import tables
from storage.reports.sql import answer
from storage.store import Store, StoreError, refuse_absent
from tasks.smears.answers.patients import Confirmation
from tasks.smears.answers.surveillance import as_csv, as_fhir, result_of
from tasks.smears.reports.called_cells import CalledCells, cells_behind, patient_of
from tasks.smears.visualisation import calls

ENDINGS = (".html", ".csv")


class PatientOutcome(DamageOutcome):
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
        return f"patient {quoted(self.patient)} of batch {self.batch}\n{table(rows)}"


def patient(options: PatientSheet, settings: Settings) -> PatientOutcome:
    """Print the call of a patient, and write the page or table that is asked for."""
    store = Store(settings.store)
    refuse_absent(store)
    to = options.to and to_write(options.to, store, force=options.force)
    if to and to.suffix not in ENDINGS:
        raise UsageError(f"--to: {to} is no .html or .csv file")
    damaged: list[str] = []
    name = options.batch or _newest_batch(store, options.name, damaged)
    frozen = tables.published_batch(store, name)
    row = _find(store, frozen, options.name)
    every = tables.read_report(store, frozen, tables.SLIDES)
    slides = [each for each in every.to_pylist() if patient_of(each) == patient_of(row)]
    answered = _answered(store, frozen, row, settings)
    persons = answered.by_patient().get(patient_of(row))
    if to and to.suffix == ".csv":
        density = settings.red_cells_per_microlitre
        own = result_of(row, persons, density)
        slides = slides if row["slide_id"] is None else []  # or the slide is the patient
        _write(to, as_csv([own, *(result_of(each, None, density) for each in slides)]))
    elif to:
        card = classifiers.load_card(store, row["model"])
        cells = cells_behind([row], every, most=calls.CELLS, least=calls.CELLS)
        _write(to, _page(store, frozen, card, cells, row, slides, persons))
    return PatientOutcome(
        batch=frozen.name,
        patient=options.name,
        call=row["call"],
        sentence=calls.call_of(row, persons)["sentence"],
        persons=persons and f"{persons.answer} by {persons.by}: {persons.found}",
        file=options.to,
        damaged=[*damaged, *answered.answers.damaged.values()],
    )


class AnswersOutcome(DamageOutcome):
    """The file with the answers on a batch's patients, and their number by result and status."""

    batch: str
    file: str
    patients: dict[str, int]

    def _text(self) -> str:
        return f"batch {self.batch}: {self.file}\n{table([*self.patients.items()])}"


def export(options: Export, settings: Settings) -> AnswersOutcome:
    """Write the answers on all patients of a batch, those with most parasites first."""
    store = Store(settings.store)
    refuse_absent(store)
    to = to_write(options.to, store, force=options.force)
    if to.suffix not in (".csv", ".json"):
        raise UsageError(f"--to: {to} is no .csv or .json file")
    frozen = screened_batch(store, options.batch)
    rows = _rows(store, frozen)
    answered = _answered(store, frozen, rows[0], settings)
    persons, density = answered.by_patient(), settings.red_cells_per_microlitre
    results = [result_of(row, persons.get(patient_of(row)), density) for row in rows]
    _write(to, as_csv(results) if to.suffix == ".csv" else as_fhir(results))
    counts = Counter(f"{each['result']}, {each['status']}" for each in results)
    damaged = list(answered.answers.damaged.values())
    return AnswersOutcome(batch=frozen.name, file=options.to, patients=counts, damaged=damaged)


def _answered(store: Store, batch: Batch, row: dict[str, Any], settings: Settings) -> Suspects:
    detector = detectors.load_detector_card(store, row["detector"]) if row["detector"] else None
    card, wanted = classifiers.load_card(store, row["model"]), settings.negative_percent / 100
    return answers_on(store, batch, card, detector, wanted)


def _write(to: Path, text: str) -> None:
    # Without the byte order mark Excel takes UTF-8 for something else.
    with written(to) as stage:
        stage.write_text(text, encoding="utf-8-sig" if to.suffix == ".csv" else "utf-8", newline="")


def _newest_batch(store: Store, name: str, damaged: list[str]) -> str:
    who, names = "coalesce(patient_id, slide_id)", (name, name.removeprefix("slide "))
    full, bare = (f"'{each.replace(chr(39), 2 * chr(39))}'" for each in names)
    sql = f"FROM patients WHERE {who} IN ({full}, {bare}) ORDER BY {who} <> {full}, scored_at DESC"
    with answer(store, f"SELECT batch {sql} LIMIT 1", on_damage=noting(damaged)) as rows:
        found = rows.read_all().to_pylist()
    if not found:
        raise StoreError(f"no batch of {store.url} has a patient {name!r}")
    return str(found[0]["batch"])


def _rows(store: Store, batch: Batch) -> list[dict[str, Any]]:
    """Read the report on patients; StoreError without a patient."""
    found = tables.find_report(store, batch, tables.PATIENTS)
    if not len(found):
        raise StoreError(f"batch {batch.name} has no report on patients: screen it again")
    return list(calls.positive_first(found).to_pylist())


def _find(store: Store, batch: Batch, name: str) -> dict[str, Any]:
    rows = _rows(store, batch)
    named = {calls.patient_name(row): row for row in rows[::-1]}
    named |= {each: row for row in rows[::-1] for each in patient_of(row) if each is not None}
    if name not in named:
        some = ", ".join(map(calls.patient_name, rows[:5]))
        raise StoreError(f"batch {batch.name} has no patient {name!r}; it has {some}")
    return named[name]


def _page(
    store: Store,
    batch: Batch,
    card: classifiers.ModelCard,
    cells: CalledCells,
    row: dict[str, Any],
    slides: list[dict[str, Any]],
    persons: Confirmation | None,
) -> str:
    for rows in iterate_groups(store, *tables.report_path(batch.name, batch.batch_date)):
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
    thumbnails = dict(zip(uris, draw(DrawingJob(items, draw_thumbnail)), strict=True))
    return calls.patient_sheet(row, slides, called, places, thumbnails, persons)
