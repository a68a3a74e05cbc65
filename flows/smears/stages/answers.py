"""Read the answers of readers on a batch: on its cells, and on the patients to confirm."""

from collections import defaultdict
from collections.abc import Container, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import chain
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.monitoring.console import warn
from flows.outcome import shell_command
from flows.smears.stages.chosen_thresholds import measured_on, rates_of
from storage.batches.manifests import Batch, Sources, find_batch
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.parquet import iterate_rows, write_table
from storage.records import now
from storage.reports.tables import PATIENTS, PERSONS, SLIDES, find_report, read_report, report_path
from storage.smears.answers import (
    ANSWERED,
    Answer,
    add_answer,
    copy_answers,
    fitted_from,
    in_order,
    labelled_batch,
    next_number,
    read_answers,
)
from storage.smears.schemas.persons import PERSON_SCHEMA
from storage.store import Store, StoreError
from tasks.images.access.files import filesystem
from tasks.images.listing import each_source
from tasks.images.names import laboratory_of_source
from tasks.reports.image_columns import table_of
from tasks.smears.answers import agreement
from tasks.smears.answers.patients import (
    DECIDED,
    MOST_READ,
    Confirmation,
    PatientAnswer,
    Suspect,
    confirm,
)
from tasks.smears.counting import call
from tasks.smears.reports.called_cells import (
    CHANCE,
    COLUMNS,
    CalledCells,
    Patient,
    cells_behind,
    patient_of,
)
from tasks.smears.visualisation.calls import patient_name, positive_first

ASKED = (call.Call.POSITIVE, call.Call.SUSPECTED, call.Call.INDETERMINATE)
OF_SLIDES = ["slide_id", "patient_id", "red_cells", "cell_size", "sharpness"]
ByReader = Mapping[str, Mapping[str, str]]  # current answers by reader and by digest
Marked = Mapping[Patient, tuple[str, ...]]  # cells that somebody calls parasites
MOST_CALLED = 5000  # of a patient: those beyond are the least probable of very many


@dataclass(kw_only=True)
class BatchAnswers:
    """Every answer that any reader has given on a batch, in order."""

    store: Store
    batch: Batch
    card: ModelCard
    damaged: dict[str, str] = field(default_factory=dict)  # files left out, and why
    _answers: dict[str, Answer] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def refresh(self) -> None:
        """Read what others have said since, through other servers too."""
        with self._lock:
            known = {*self._answers, *self.damaged}
            self._answers |= dict(
                read_answers(self.store, self.batch.key, known, on_damage=self._leave_out)
            )

    def keep(
        self,
        reader: str,
        given: Mapping[str, str | None],
        seconds: float = 0.0,
        *,
        named: bool = False,
    ) -> None:
        """Keep a reader's answers by digest, each looked at for some seconds; None takes one back.

        They count as later than all that others have written. For ``named`` see `add_answer`.
        """
        with self._lock:
            key = self.batch.key
            number = next_number(self.store, key)
            for place, (image_id, answer) in enumerate(given.items()):
                kept = Answer(
                    reader=reader, image_id=image_id, answer=answer, at=now(), seconds=seconds
                )
                file = add_answer(self.store, key, kept, number + place, named=named)
                self._answers[file] = kept

    def _leave_out(self, name: str, error: StoreError) -> None:
        self.damaged[name] = str(error)
        _warn(name, error)

    def of_reader(self, reader: str) -> dict[str, str]:
        """Return a reader's current answers on any cells of the batch, by digest, the latest last.

        An answer that was taken back does not count.
        """
        current: dict[str, str] = {}
        for each in in_order(self._answers):
            if each.reader == reader:
                current.pop(each.image_id, None)
                if each.answer is not None:
                    current[each.image_id] = each.answer
        return current

    def readers(self) -> list[str]:
        """List the readers who have answered."""
        return sorted({each.reader for each in self._answers.values()})

    def by_reader(self) -> dict[str, dict[str, str]]:
        """Return the current answers on any cells, by reader and by digest."""
        return {reader: self.of_reader(reader) for reader in self.readers()}

    def last_at(self, image_ids: Set[str], given: ByReader) -> datetime | None:
        """Return when the last of some cells was read, by answers as in `by_reader`."""
        read = {reader: theirs.keys() & image_ids for reader, theirs in given.items()}
        times = [a.at for a in self._answers.values() if a.image_id in read.get(a.reader, ())]
        return max(times, default=None)

    def looked(self, image_ids: Container[str]) -> float:
        """Sum how long all readers have looked at some cells, in seconds."""
        return sum(
            each.seconds
            for each in self._answers.values()
            if each.image_id in image_ids and each.answer is not None
        )


def answers_on(
    store: Store, batch: Batch, card: ModelCard, detector: DetectorCard | None, wanted: float
) -> "Suspects":
    """Read what persons answer on the patients of a batch.

    The batch was counted by the error rates of the detector. A negative call rules out the
    parasitaemia ``wanted``, in [0, 1].
    """
    answers = BatchAnswers(store=store, batch=batch, card=card)
    answers.refresh()
    return Suspects(answers, detector, wanted)


def carry_answers(store: Store, batch: Batch, images: str | list[str]) -> None:
    """Count answers on a batch on the cells of a manifest that `review apply` has made of it."""
    for _, source in map(laboratory_of_source, each_source(images)):
        answered = _answered(source) if source.lower().endswith(".parquet") else None
        if answered and (of := find_batch(store, answered)):
            copy_answers(store, batch.key, of.key, _warn)


def _answered(manifest: str) -> str | None:
    fs, path = filesystem(manifest)
    try:
        with fs.open(path) as file:
            about = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowInvalid):  # the batch is frozen, and does without it
        return None
    answered: bytes = about.get(ANSWERED.encode(), b"")
    return answered.decode(errors="replace")


def _warn(_: str, error: StoreError) -> None:
    warn(f"left out: {error}")


def write_answers(store: Store, batch: Batch, found: Mapping[Patient, Confirmation]) -> None:
    """Write the table of what persons answer on the patients of a batch, if there is any answer."""
    before = []
    try:
        before = find_report(store, batch, PERSONS).to_pylist()
    except StoreError as error:  # it is written again
        warn(str(error))
    for row in before:
        known = found.get(patient_of(row))
        answer = known.answer if known else PatientAnswer.OPEN
        if (was := row["person_answer"]) in DECIDED and answer not in DECIDED:
            others = "its likeliest cells are others now, or answers were taken back"
            why = "readers differ" if answer == PatientAnswer.DISPUTED else others
            warn(f"{patient_name(row)} was {was} by persons, and is {answer} now: {why}")
    if not before and not found:
        return
    rows = [
        {
            "slide_id": slide,
            "patient_id": patient,
            "person_answer": each.answer,
            "person_call": each.call,
            "person_percent": each.parasitaemia and 100 * each.parasitaemia,
            "person_low": each.low and 100 * each.low,
            "person_high": each.high and 100 * each.high,
            "person_cells": each.read,
            "person_parasites": each.parasites,
            "readers": each.readers,
            "read_at": each.read_at,
            "batch": batch.name,
            "batch_date": batch.batch_date.isoformat(),
        }
        for (slide, patient), each in found.items()
    ]
    path = report_path(batch.name, batch.batch_date, PERSONS)
    write_table(store, table_of(rows, PERSON_SCHEMA), *path)


@dataclass
class Suspects:
    """The patients of a batch and their called cells; without a report on patients there are none.

    ``wanted`` is the parasitaemia, in [0, 1]; a negative call rules it out.
    """

    answers: BatchAnswers
    detector: DetectorCard | None
    wanted: float
    _owners: dict[str, Patient] = field(default_factory=dict)  # of cells that somebody marked

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """List the rows of the report on patients, the positive ones first."""
        found = find_report(self.answers.store, self.answers.batch, PATIENTS)
        return list(positive_first(found).to_pylist()) if len(found) else []

    @cached_property
    def every(self) -> list[Suspect]:
        """List all patients in that order; those nobody is asked about have no cells."""
        if not self.rows:
            return []
        cells, suspects = self._cells(), []
        measured = measured_on(self.answers.store, self.detector) if self.detector else None
        slides = defaultdict(list)
        for slide in self._slides.select(OF_SLIDES).to_pylist():
            slides[patient_of(slide)].append(slide)
        for row in self.rows:
            read, theirs = cells.of(patient_of(row)), slides[patient_of(row)]
            called, others = (
                tuple(each["image_id"] for each in read if each["called"] is is_called)
                for is_called in (True, False)
            )
            name = patient_name(row)
            suspects.append(
                Suspect(
                    name,
                    row["call"],
                    called,
                    others,
                    cells=row["cells_read"],
                    looking=row["parasitized"],
                    red_cells=sum(slide["red_cells"] for slide in theirs),
                    is_covered=measured is not None and all(map(measured.covers, theirs)),
                )
            )
        return suspects

    @cached_property
    def asked(self) -> list[Suspect]:
        """List the patients that persons are asked about."""
        return [each for each in self.every if each.call in ASKED and each.order]

    def row(self, suspect: Suspect) -> dict[str, Any]:
        """Return a patient's row of the report."""
        pairs = zip(self.rows, self.every, strict=True)
        return next(row for row, each in pairs if each is suspect)

    def next_cell(self, suspect: Suspect, reader: str) -> str | None:
        """Return the first cell of a patient that a reader has not read; None if all are read.

        A parasite among the most probable cells does not end it: the count needs the others too.
        """
        answers = self.answers.of_reader(reader)
        return next((image for image in suspect.order if image not in answers), None)

    def confirmation(self, suspect: Suspect, reader: str | None = None) -> Confirmation:
        """Return the answer of a reader, or of the majority of all readers, on a patient."""
        given = (
            self.answers.by_reader() if reader is None else {reader: self.answers.of_reader(reader)}
        )
        answers = agreement.consensus(given) if reader is None else given[reader]
        return self._confirmed(suspect, answers, given, self._elsewhere(given))

    def confirmations(self) -> list[tuple[Suspect, Confirmation]]:
        """List the answers of the majority on patients that are asked about, or have a parasite."""
        given = self.answers.by_reader()
        answers, marked = agreement.consensus(given), self._elsewhere(given)
        asked = set(map(id, self.asked))
        pairs = zip(self.every, map(patient_of, self.rows), strict=True)
        some = [each for each, patient in pairs if id(each) in asked or patient in marked]
        return [(each, self._confirmed(each, answers, given, marked)) for each in some]

    def by_patient(self) -> dict[Patient, Confirmation]:
        """Return the answers on the patients of whom somebody has read a cell."""
        if not self.answers.readers():
            return {}
        confirmed = self.confirmations()
        return {patient_of(self.row(each)): answer for each, answer in confirmed if answer.read}

    def _confirmed(
        self, suspect: Suspect, answers: Mapping[str, str], given: ByReader, marked: Marked
    ) -> Confirmation:
        positive, row = self.answers.card.classes[0], self.row(suspect)
        # By the rates of the threshold at which this patient's cells were called.
        store, detector = self.answers.store, self.detector
        rates = None if detector is None else rates_of(store, detector, row["counting_threshold"])
        suspect = replace(suspect, elsewhere=marked.get(patient_of(row), ()))
        cells = {*suspect.order, *suspect.elsewhere}
        disputed = cells.intersection(chain(*given.values())) - answers.keys()
        confirmation = confirm(suspect, answers, positive, rates, self.wanted, disputed)
        by = {reader: theirs for reader, theirs in given.items() if theirs.keys() & cells}
        if confirmation.answer in DECIDED:
            is_seen = confirmation.answer == PatientAnswer.CONFIRMED
            agreed = {
                (image, answer)
                for image, answer in answers.items()
                if image in cells and (answer == positive or not is_seen)
            }
            by = {reader: theirs for reader, theirs in by.items() if theirs.items() & agreed}
        return replace(confirmation, readers=tuple(by), read_at=self.answers.last_at(cells, by))

    @cached_property
    def _shown(self) -> set[str]:
        return {image for each in self.every for image in each.order}

    def _elsewhere(self, given: ByReader) -> Marked:
        """List the cells that readers call parasites, but were not asked about, by patient."""
        said = chain.from_iterable(theirs.items() for theirs in given.values())
        positive = self.answers.card.classes[0]
        marked = {image for image, answer in said if answer == positive} - self._shown
        if new := marked - self._owners.keys():
            batch, columns = self.answers.batch, ["image_id", "slide_id", "patient_id"]
            images = report_path(batch.name, batch.batch_date)
            for part in iterate_rows(self.answers.store, *images, columns=columns):
                some = part.filter(pc.is_in(part["image_id"], pa.array(sorted(new))))
                self._owners |= {row["image_id"]: patient_of(row) for row in some.to_pylist()}
        found = defaultdict(list)
        for image in sorted(marked & self._owners.keys()):
            found[self._owners[image]].append(image)
        return {patient: tuple(images) for patient, images in found.items()}

    def seconds(self, suspect: Suspect) -> float:
        """Sum how long persons have looked at a patient's cells."""
        return self.answers.looked(set(suspect.order))

    @cached_property
    def _slides(self) -> pa.Table:
        return read_report(self.answers.store, self.answers.batch, SLIDES)

    def _cells(self) -> CalledCells:
        """Collect the called cells of the patients that are asked about."""
        store, batch = self.answers.store, self.answers.batch
        cells = cells_behind(
            [row for row in self.rows if row["call"] in ASKED],
            self._slides,
            most=MOST_CALLED,
            least=MOST_READ,
        )
        images = report_path(batch.name, batch.batch_date)
        for part in iterate_rows(store, *images, columns=[*COLUMNS, CHANCE]):
            cells.count(part)
        return cells


def refuse_second_review(store: Store, model: str, batch: str, images: Sources) -> None:
    """Raise StoreError if the statistics contain another import of the same labels."""
    night = labelled_batch(store, images)
    for name in fitted_from(store, model, night) if night else []:
        if name != batch:
            raise StoreError(
                f"the labels of batch {night} are in the statistics already, as batch {name}, "
                "and a cell must count once: take it out with "
                f"{shell_command('retract', '--batch', name, '--model', model)}, then fit again"
            )
