"""Run the commands `review`: give a person cells to look at, and make verdicts labels.

A cell counts once, however often verdicts on it are imported. Every import holds all that is known
of its batch, so the newest replaces the one before: what was fitted from that is retracted first,
and `slidewatch fit` refuses to hold two imports of one batch. A cell that lies in two batches and
has a verdict in both is a label in the one whose verdict came first.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa

from flows.commands.review.sheets import PICTURES, SHEET, new_folder, write_picture, write_sheet
from flows.monitoring.console import tell
from flows.options.described import described
from flows.options.tools import LIMIT, PER_SLIDE, ReviewExport, ReviewImport, ReviewReport
from flows.outcome import Outcome, shell_command, table
from flows.settings import Settings
from flows.stages.batch import find_refs
from storage.batches.manifests import Batch, find_rows
from storage.leases import lease
from storage.models.classifiers import ModelCard, load_card
from storage.parquet import iterate_groups, read_table
from storage.records import now
from storage.reports.reviews import Review, fitted_from, latest_review, other_reviews, save_review
from storage.reports.tables import SLIDES, published_batch, report_path
from storage.store import Store
from tasks.detector.verdict import format_reasons
from tasks.images.decoding import BadImageError
from tasks.images.files import SourceError, read_bytes
from tasks.reports.columns import is_for_review
from tasks.reports.reviews import (
    FROM_PERSON,
    FROM_REPORT,
    OTHER,
    Precision,
    Verdict,
    VerdictError,
    candidates,
    check_verdicts,
    precision,
    read_verdicts,
)
from tasks.types import Status

FROM_SCORED = ("image_id", "uri", "slide_id", "patient_id", "acquired_at")
SLIDE_SHEET = "slides.csv"
OF_SLIDES = ("slide_id", "patient_id", "cells", "abnormal", "shift", "shift_tap", "review_reasons")


class ExportOutcome(Outcome):
    """The sheet of cells for a person to look at, and the cells that were left out."""

    batch: str
    sheet: str
    slides: int
    cells: int
    left_out: dict[str, int]
    unreadable: list[str]

    @property
    def failed(self) -> bool:
        """Tell whether the image of a cell could not be read."""
        return bool(self.unreadable)

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        left_out = ", ".join(f"{n:,} {reason}" for reason, n in self.left_out.items())
        rows: list[tuple[str, object]] = [
            ("left out", left_out or "none"),
            ("slides", f"{self.slides:,} to look at as a whole, in {SLIDE_SHEET} beside the sheet"),
            ("sheet", self.sheet),
            (
                "next",
                "fill in its column 'verdict', then: " + shell_command("review import", self.sheet),
            ),
        ]
        rows[1:1] = [("unreadable", each) for each in self.unreadable]
        return f"batch {self.batch}: {self.cells:,} cells to look at\n{table(rows)}"


class ReviewOutcome(Outcome):
    """Persons' verdicts on a batch, and the precision of its abnormal list by them."""

    batch: str
    verdicts: dict[str, int]
    abnormal_looked_at: int
    abnormal_other: int
    abnormal_wrong: int
    precision: float | None
    precision_low: float | None
    precision_high: float | None

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        return f"batch {self.batch}: {sum(self.verdicts.values()):,} verdicts\n{table(self.rows())}"

    def rows(self) -> list[tuple[str, object]]:
        """List the verdicts and the precision as names and texts."""
        verdicts = ", ".join(f"{n:,} {name}" for name, n in self.verdicts.items())
        worth = self.abnormal_other + self.abnormal_wrong
        abnormal = "nobody has looked at an abnormal cell yet"
        if self.precision is not None:
            abnormal = (
                f"{worth:,} of {self.abnormal_looked_at:,} looked at were worth it: precision "
                f"{self.precision:.2f} ({self.precision_low:.2f} to {self.precision_high:.2f}); "
                f"{self.abnormal_other:,} no such cell, {self.abnormal_wrong:,} diagnosed wrongly"
            )
        return [("verdicts", verdicts or "none"), ("abnormal", abnormal)]


class ImportOutcome(ReviewOutcome):
    """The changes that an import of verdicts made, and the commands that fit them."""

    file: str
    new: int
    changed: int
    labels: int
    elsewhere: int
    without_patient: int
    review: str
    commands: list[str]

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        rows = self.rows()
        if self.elsewhere:
            rows.append(("counted", f"{self.elsewhere:,} of them as a label of another batch"))
        if self.without_patient:
            rows.append(
                (
                    "warning",
                    f"{self.without_patient:,} labels name no patient: a detector fitted with "
                    "them is calibrated by slides or images, which is too optimistic",
                )
            )
        rows.append(("review", self.review))
        rows += [("next", command) for command in self.commands]
        if not self.labels:
            rows.append(("next", "nothing to fit: no verdict is a class of the model"))
        return f"batch {self.batch}: {self.new:,} new verdicts, {self.changed:,} changed\n" + table(
            rows
        )


@described(ReviewExport)
def export(
    batch: str,
    to: str,
    limit: int = LIMIT,
    per_slide: int = PER_SLIDE,
    settings: Settings | None = None,
) -> ExportOutcome:
    """Write a batch's slides and cells for review, most abnormal first, as sheets and pictures.

    The images are the original bytes, or PNG files of what was cut out of a larger file, named by
    their digest. Cells that have a verdict already are left out.
    """
    store = Store((settings or Settings()).store)
    folder = new_folder(to)
    frozen = published_batch(store, batch)
    reviewed = set(latest_review(store, frozen.name).rows["image_id"].to_pylist())
    found = candidates(
        _report(store, frozen, [*FROM_REPORT, "verdict", "status"]),
        done=reviewed,
        per_slide=per_slide,
    )
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    sheet: list[list[object]] = []
    unreadable: list[str] = []
    rows = found.rows.select(FROM_REPORT).to_pylist()
    refs = find_refs(store, frozen, [row["uri"] for row in rows])
    for row in rows:
        if len(sheet) == limit:
            break
        try:
            name = write_picture(folder / PICTURES, refs[row["uri"]], row["image_id"])
        except (OSError, SourceError, BadImageError) as error:
            unreadable.append(f"{row['uri']}: {error}")
            continue
        sheet.append([*row.values(), *("" for _ in FROM_PERSON), f"{PICTURES}/{name}"])
    found.left_out["beyond the limit"] += len(rows) - len(sheet) - len(unreadable)
    slides = _slides_for_review(store, frozen)
    write_sheet(folder / SLIDE_SHEET, OF_SLIDES, slides)
    write_sheet(folder / SHEET, [*FROM_REPORT, *FROM_PERSON, "image"], sheet)
    return ExportOutcome(
        batch=frozen.name,
        sheet=str(folder / SHEET),
        slides=len(slides),
        cells=len(sheet),
        left_out={reason: n for reason, n in found.left_out.items() if n},
        unreadable=unreadable,
    )


def _slides_for_review(store: Store, batch: Batch) -> list[list[object]]:
    """List the slides that a person looks at as a whole, the furthest from fitted ones first."""
    path = report_path(batch.name, batch.batch_date, SLIDES)
    # Nights of before there was such a report have none, and older ones know no shift.
    if not store.exists(*path):
        return []
    rows = read_table(store, *path)
    chosen = rows.filter(pa.array(is_for_review(rows))).to_pylist()
    chosen.sort(key=lambda row: (-(row.get("shift") or 0.0), row["slide_id"] or ""))
    reasons = (format_reasons(row["review_reasons"]) for row in chosen)
    return [
        [*(row.get(name) for name in OF_SLIDES[:-1]), told]
        for row, told in zip(chosen, reasons, strict=True)
    ]


@described(ReviewImport)
def import_verdicts(
    file: str,
    settings: Settings | None = None,
) -> ImportOutcome:
    """Keep a person's verdicts in the store, all or none, and say how to fit them.

    A verdict is a class of the model, ``other`` for what is no such cell, or empty for a cell that
    nobody looked at. A later verdict on a cell replaces the earlier one.
    """
    store = Store((settings or Settings()).store)
    try:
        content = read_bytes(file)
        batch, lines = read_verdicts(content)
    except FileNotFoundError:
        raise SourceError(f"{file} does not exist") from None
    except VerdictError as error:
        raise VerdictError(f"{file}: {error}") from None
    # One import at a time: it looks whether a cell is a label of another batch.
    with lease(store, "reviews", wait=True, on_wait=tell) as held:
        frozen = published_batch(store, batch)
        try:
            scored, card = _scored(store, frozen)
            verdicts = check_verdicts(lines, batch=batch, known=scored, classes=card.classes)
        except VerdictError as error:
            raise VerdictError(f"{file}: {error}") from None
        before = latest_review(store, batch)
        uris = [str(scored[each.image_id]["uri"]) for each in verdicts]
        places = {row["uri"]: row for row in find_rows(store, frozen, uris).to_pylist()}
        review, new, changed, elsewhere = _next_review(
            store, before, verdicts, scored, places, card
        )
        if new or changed:
            save_review(held.store, review)
        else:
            review = before
    labelled = review.rows.filter(review.rows["label"].is_valid())
    return ImportOutcome(
        **_judged(store, frozen, review).model_dump(),
        file=file,
        new=new,
        changed=changed,
        labels=labelled.num_rows,
        elsewhere=elsewhere,
        without_patient=labelled["patient_id"].null_count,
        review=store.address(*review.path),
        commands=_commands(store, card, review) if labelled.num_rows else [],
    )


@described(ReviewReport)
def report(
    batch: str,
    settings: Settings | None = None,
) -> ReviewOutcome:
    """Say how many of a batch's abnormal cells were worth a person's look, by its verdicts."""
    store = Store((settings or Settings()).store)
    frozen = published_batch(store, batch)
    return _judged(store, frozen, latest_review(store, frozen.name))


def _commands(store: Store, card: ModelCard, review: Review) -> list[str]:
    """List the commands that fit the newest verdicts, after taking earlier ones out."""
    # The number first, so that it is not what is cut off a long name.
    batch = f"reviewed-{review.number:04d}-{review.batch}"[:120]
    end = ("--model", card.name, "--store", store.url)
    retract = [
        shell_command("retract", "--batch", name, *end)
        for name in fitted_from(store, card.name, review.batch)
        if name != batch
    ]
    images = store.address(*review.path)
    return [*retract, shell_command("fit", "--images", images, "--batch", batch, *end)]


def _report(store: Store, batch: Batch, columns: list[str]) -> Iterator[pa.Table]:
    return iterate_groups(store, *report_path(batch.name, batch.batch_date), columns=columns)


def _scored(store: Store, batch: Batch) -> tuple[dict[str, dict[str, object]], ModelCard]:
    """Read a report's scored images by digest, and the card of the model that diagnosed them."""
    columns = [*FROM_SCORED, "status", "model"]
    scored: dict[str, dict[str, object]] = {}
    model = None
    for part in _report(store, batch, columns):
        for row in part.to_pylist():
            model = row["model"]
            if row["status"] == Status.SCORED:
                scored.setdefault(row["image_id"], row)
    if model is None:
        raise VerdictError(f"batch {batch.name} has no images that a verdict could be on")
    return scored, load_card(store, model)


def _next_review(
    store: Store,
    before: Review,
    verdicts: list[Verdict],
    scored: dict[str, dict[str, object]],
    places: dict[str, dict[str, object]],
    card: ModelCard,
) -> tuple[Review, int, int, int]:
    """Merge new verdicts into a batch's; count the new, the changed, and labels elsewhere."""
    # A batch that was forced since may have lost images; verdicts on these stay in its history.
    known: dict[str, dict[str, object]] = {
        row["image_id"]: row for row in before.rows.to_pylist() if row["image_id"] in scored
    }
    when: datetime = now()
    new = changed = 0
    for each in verdicts:
        old = known.get(each.image_id)
        said = {"verdict": each.verdict, "note": each.note, "reviewer": each.reviewer}
        if old is None:
            new += 1
        elif any(old[name] != value for name, value in said.items()):
            changed += 1
        else:
            continue
        row = scored[each.image_id]
        known[each.image_id] = {
            **places[str(row["uri"])],
            **{name: row[name] for name in FROM_SCORED},
            **said,
            "reviewed_at": when,
        }
    labels_elsewhere = {
        image_id
        for other in other_reviews(store, before.batch)
        for image_id in other.rows.filter(other.rows["label"].is_valid())["image_id"].to_pylist()
    }
    elsewhere = 0
    for image_id, row in known.items():
        is_class = row["verdict"] in card.classes
        elsewhere += is_class and image_id in labels_elsewhere
        row["label"] = row["verdict"] if is_class and image_id not in labels_elsewhere else None
    rows = pa.Table.from_pylist(list(known.values()), before.rows.schema)
    return Review(before.batch, before.number + 1, rows), new, changed, elsewhere


def _judged(store: Store, batch: Batch, review: Review) -> ReviewOutcome:
    ids, said = review.rows["image_id"].to_pylist(), review.rows["verdict"].to_pylist()
    counts = Counter(said)
    found: Precision = precision(
        _report(store, batch, ["image_id", "diagnosis", "abnormal"]),
        dict(zip(ids, said, strict=True)),
    )
    low, high = found.interval or (None, None)
    return ReviewOutcome(
        batch=batch.name,
        verdicts={name: counts[name] for name in sorted(counts, key=lambda n: (n == OTHER, n))},
        abnormal_looked_at=found.looked_at,
        abnormal_other=found.other,
        abnormal_wrong=found.wrong,
        precision=found.share,
        precision_low=low,
        precision_high=high,
    )
