"""Run the commands `review`: give a person cells to look at, and make answers labels."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from flows.commands.written import to_write, written
from flows.options.tools import LIMIT, PER_SLIDE, UNMARKED, ReviewExport, ReviewReport
from flows.outcome import DamageOutcome, Outcome, numbered, shell_command, table
from flows.settings import Settings
from flows.smears.commands.review.apply import labels_of_folds, trained_images
from flows.smears.commands.review.figures import (
    PatientRow,
    ToldFigure,
    figures,
    patient_answers,
    patient_figures,
)
from flows.smears.commands.review.imports import ReviewOutcome, judged, report_rows
from flows.smears.commands.review.session import open_session
from flows.smears.commands.review.sheets import PICTURES, SHEET, read_picture, write_sheet
from flows.smears.jobs.drawings import find_refs
from flows.smears.stages.answers import Suspects
from flows.smears.stages.calling import screened_batch
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard, load_card
from storage.reports.tables import SLIDES, read_report
from storage.smears import answers
from storage.store import Store
from tasks.detector.verdict import format_reasons
from tasks.images import decoding, regions
from tasks.images.access.files import SourceError
from tasks.reports.image_columns import is_for_review
from tasks.smears.answers import sheets
from tasks.words import counted

SLIDE_SHEET = "slides.csv"
OF_SLIDES = ("slide_id", "patient_id", "cells", "abnormal", "shift", "review_reasons")


class ExportOutcome(Outcome):
    """The sheet of cells for a person, and the cells left out of it."""

    source: str  # the batch, or the model whose labels they are
    sheet: str
    slides: int | None  # of a batch
    cells: int
    left_out: dict[str, int]
    unreadable: list[str]
    command: str

    @property
    def failed(self) -> bool:
        """Return whether the image of a cell could not be read."""
        return bool(self.unreadable)

    def _text(self) -> str:
        rows: list[tuple[str, object]] = [
            ("left out", numbered(self.left_out) or "none"),
            *(("unreadable", each) for each in self.unreadable),
            ("sheet", self.sheet),
            ("next", "fill in the column 'answer', then run " + self.command),
        ]
        if self.slides is not None:
            text = f"{self.slides:,} to look at as a whole, in {SLIDE_SHEET} in the same folder"
            rows.insert(-2, ("slides", text))
        return f"{self.source}: {counted(self.cells, 'cell')} to look at\n{table(rows)}"


def export(options: ReviewExport, settings: Settings) -> ExportOutcome:
    """The pictures are the original files, or PNG files of cells cut out of a larger file, named by
    their digest. Cells that have an answer already are left out.
    """
    store = Store(settings.store)
    folder = Path(options.to)
    for name in (SHEET, SLIDE_SHEET):  # a sheet may hold answers
        to_write(f"{options.to}/{name}", store, force=options.force)
    if options.model is not None:
        return _export_labels(store, folder, load_card(store, options.model), options.limit)
    frozen = screened_batch(store, options.batch)
    reviewed = set(answers.latest_labels(store, frozen.name).rows["image_id"].to_pylist())
    candidates, left_out = sheets.candidates(
        report_rows(store, frozen, [*sheets.FROM_REPORT, "verdict", "status"]),
        done=reviewed,
        per_slide=options.per_slide,
    )
    rows = candidates.select(sheets.FROM_REPORT)
    refs = find_refs(store, frozen, rows["uri"].to_pylist())
    cells, unreadable = _write_cells(store, folder, rows, refs, options.limit)
    left_out["beyond the limit"] += rows.num_rows - cells - len(unreadable)
    slides = _slides_for_review(store, frozen)
    write_sheet(folder / SLIDE_SHEET, OF_SLIDES, slides)
    return ExportOutcome(
        source=f"batch {frozen.name}",
        sheet=str(folder / SHEET),
        slides=len(slides),
        cells=cells,
        left_out={reason: n for reason, n in left_out.items() if n},
        unreadable=unreadable,
        command=shell_command("review import", str(folder / SHEET)),
    )


def _export_labels(store: Store, folder: Path, card: ModelCard, limit: int) -> ExportOutcome:
    ranked = sheets.ranked_labels(labels_of_folds(store, card), card.classes)
    rows = ranked.add_column(1, "model", pa.array([card.name] * ranked.num_rows))
    refs = {ref.uri: ref for ref in regions.image_refs(trained_images(card))}
    cells, unreadable = _write_cells(store, folder, rows, refs, limit)
    beyond = rows.num_rows - cells - len(unreadable)
    return ExportOutcome(
        source=f"labels of model {card.name}",
        sheet=str(folder / SHEET),
        slides=None,
        cells=cells,
        left_out={"beyond the limit": beyond} if beyond else {},
        unreadable=unreadable,
        command=shell_command("review apply", str(folder / SHEET), "--to", "corrected.parquet"),
    )


def _write_cells(
    store: Store, folder: Path, rows: pa.Table, refs: Mapping[str, regions.ImageRef], limit: int
) -> tuple[int, list[str]]:
    """Write a sheet and pictures; return its number of cells, and those that cannot be read."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    sheet: list[list[object]] = []
    unreadable: list[str] = []
    for row in rows.to_pylist():
        if len(sheet) == limit:
            break
        try:
            if row["uri"] not in refs:
                raise SourceError("it is no longer among the training images")
            name, content = read_picture(refs[row["uri"]], row["image_id"])
        except (OSError, SourceError, decoding.BadImageError) as error:
            unreadable.append(f"{row['uri']}: {error}")
            continue
        with written(to_write(f"{folder}/{PICTURES}/{name}", store, force=True)) as stage:
            stage.write_bytes(content)
        sheet.append([*row.values(), *("" for _ in sheets.FROM_PERSON), f"{PICTURES}/{name}"])
    write_sheet(folder / SHEET, [*rows.column_names, *sheets.FROM_PERSON, "image"], sheet)
    return len(sheet), unreadable


def _slides_for_review(store: Store, batch: Batch) -> list[list[object]]:
    rows = read_report(store, batch, SLIDES)
    chosen = rows.filter(pa.array(is_for_review(rows))).to_pylist()
    chosen.sort(key=lambda row: (-(row["shift"] or 0.0), row["slide_id"] or ""))
    return [
        [*(row[name] for name in OF_SLIDES[:-1]), format_reasons(row["review_reasons"])]
        for row in chosen
    ]


class ReportOutcome(ReviewOutcome, DamageOutcome):
    """Persons' answers on a batch, and how far its readers agree."""

    figures: list[ToldFigure]
    patients: list[PatientRow]

    def rows(self) -> list[tuple[str, object]]:
        """List the answers, the precision and the figures as names and texts."""
        return [
            *super().rows(),
            *((each.name, each.text) for each in self.figures),
            *((each.name, each.text) for each in self.patients),
        ]


def report(options: ReviewReport, settings: Settings) -> ReportOutcome:
    """Compare the answers with the report, and with each other."""
    store, wanted = Store(settings.store), settings.negative_percent / 100
    frozen = screened_batch(store, options.batch)
    rows: list[ToldFigure] = []
    patients: list[PatientRow] = []
    damaged: list[str] = []
    if answers.digest_of_answers(store, frozen.key) or answers.find_sample(store, frozen.key):
        session, detector = open_session(
            store, frozen, limit=LIMIT, per_slide=PER_SLIDE, unmarked=UNMARKED, keep=False
        )
        suspects = Suspects(session, detector, wanted)
        rows = [*figures(session), *patient_figures(suspects)]
        patients = patient_answers(suspects)
        damaged = list(session.damaged.values())
    review = judged(store, frozen, answers.latest_labels(store, frozen.name))
    return ReportOutcome(**review.model_dump(), figures=rows, patients=patients, damaged=damaged)
