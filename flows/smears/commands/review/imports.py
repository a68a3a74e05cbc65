"""Make persons' answers labels, from a sheet or from the pages of readers.

A cell counts once, however often answers on it are imported. Every import holds all answers on its
batch, so the newest replaces the one before: labels fitted from that one are retracted first,
and `slidewatch fit` refuses to hold two imports of one batch. A cell of two batches with an
answer in both is a label in the batch that was answered first.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from flows.cluster.trials import ClusterError
from flows.monitoring.console import tell, warn
from flows.options.flows import CallAgain
from flows.options.tools import ReviewImport
from flows.outcome import Outcome, numbered, shell_command, table
from flows.prefect.decorators import run
from flows.settings import Settings
from flows.smears.call import call
from flows.smears.commands.review.sheets import read_sheet_file
from flows.smears.stages.answers import BatchAnswers
from storage import leases
from storage.batches.manifests import Batch, find_rows
from storage.models.classifiers import ModelCard, load_card
from storage.models.statistics import latest_statistics
from storage.parquet import iterate_groups
from storage.records import now
from storage.reports.tables import published_batch, report_path
from storage.smears.answers import Labels, fitted_from, latest_labels, other_labels, save_labels
from storage.store import Store, StoreError
from tasks import types, words
from tasks.smears.answers.agreement import share
from tasks.smears.answers.sheets import (
    OTHER,
    UNNAMED,
    WHITE,
    AnswerError,
    Line,
    check_answers,
    precision,
    read_sheet,
)

FROM_SCORED = ("image_id", "uri", "slide_id", "patient_id", "acquired_at")


class ReviewOutcome(Outcome):
    """Persons' answers on a batch, and the precision of its abnormal list by them."""

    batch: str
    answers: dict[str, int]
    abnormal_looked_at: int
    abnormal_other: int
    abnormal_wrong: int
    precision: float | None
    precision_low: float | None
    precision_high: float | None

    def _text(self) -> str:
        answers = words.counted(sum(self.answers.values()), "imported answer")
        return f"batch {self.batch}: {answers}\n{table(self.rows())}"

    def rows(self) -> list[tuple[str, object]]:
        """List the answers and the precision as names and texts."""
        worth = self.abnormal_other + self.abnormal_wrong
        abnormal = "no imported answer is of an abnormal cell"
        if self.precision is not None:
            abnormal = (
                f"{worth:,} of {self.abnormal_looked_at:,} looked at were worth a look: precision "
                f"{self.precision:.2f} ({self.precision_low:.2f} to {self.precision_high:.2f}); "
                f"{self.abnormal_other:,} not a cell, {self.abnormal_wrong:,} wrongly diagnosed"
            )
        return [("imported", numbered(self.answers) or "none"), ("abnormal", abnormal)]


class ImportOutcome(ReviewOutcome):
    """The changes that an import of answers made, and the commands that fit them."""

    file: str
    kept: bool
    new: int
    changed: int
    labels: int
    elsewhere: int
    without_patient: int
    review: str
    commands: list[str]

    def _text(self) -> str:
        rows = self.rows()
        if self.elsewhere:
            text = f"{self.elsewhere:,} of them: already labels of another batch"
            rows.append(("left out", text))
        if self.without_patient:
            text = f"{words.counted(self.without_patient, 'label')} without a patient: a detector "
            text += "fitted with them is calibrated by slides or images, which is too optimistic"
            rows.append(("warning", text))
        if self.kept:
            rows.append(("review", self.review))
            rows += [("next", command) for command in self.commands]
            more = ("--batch", self.batch, "--to", f"{self.batch}.parquet", "--dry-run")
            rows.append(("for a laboratory", shell_command("review apply", *more)))
        else:
            rows.append(("next", "to keep them, run the same command without --dry-run"))
        if not self.labels:
            rows.append(("next", "nothing to fit: no answer is a class of the model"))
        would = "" if self.kept else "would have "
        changes = f"{would}{words.counted(self.new, 'new answer')}, {self.changed:,} changed"
        return f"batch {self.batch}: {changes}\n{table(rows)}"


def import_answers(options: ReviewImport, settings: Settings) -> ImportOutcome:
    """An answer is a class of the model, ``other`` if the image shows no such cell, or empty if
    nobody looked at it. A later answer on a cell replaces the earlier one.
    """
    store = Store(settings.store)
    try:
        named, lines = read_sheet(read_sheet_file(options.file))
    except AnswerError as error:
        raise AnswerError(f"{options.file}: {error}") from None
    keep = not options.dry_run
    imported = import_lines(store, named, lines, options.file, keep=keep, from_sheet=True)
    if keep:
        show_answers(named, settings)
    return imported


def show_answers(batch: str, settings: Settings) -> None:
    """Make the page of a batch again with persons' answers, which are kept already.

    A failure is a warning.
    """
    tell(f"the page of batch {batch} is made again, with the answers")
    try:
        problem = run(call, CallAgain(batch=batch, page_only=True, wait=True), settings).problem
    except (StoreError, ClusterError) as error:
        problem = str(error)
    if problem:
        warn(f"the answers are kept, but the page does not show them: {problem}")


def import_lines(
    store: Store,
    batch: str,
    lines: Sequence[Line],
    file: str,
    *,
    keep: bool = True,
    from_sheet: bool = False,
) -> ImportOutcome:
    """Keep answers on a batch, all or none, and list the commands that fit them.

    Messages name ``file``, where the answers come from. Those ``from_sheet`` are kept as their
    readers' answers, too. Without ``keep`` only what would change is said. AnswerError if an answer
    or an image is unknown, or an image is judged twice.
    """
    # One import at a time, because each checks that a cell is no label of another batch.
    with leases.lease(store, "labels", wait=True, on_wait=tell) as held:
        frozen = published_batch(store, batch)
        try:
            scored, card = _scored(store, frozen)
            answers = check_answers(lines, batch=batch, known=scored, classes=card.classes)
        except AnswerError as error:
            raise AnswerError(f"{file}: {error}") from None
        before = latest_labels(store, batch)
        uris = [scored[each.image_id]["uri"] for each in answers]
        places = {row["uri"]: row for row in find_rows(store, frozen, uris).to_pylist()}
        labels, new, changed, elsewhere = _next_labels(store, before, answers, scored, places, card)
        if not (new or changed):
            labels = before
        # Everything that can fail comes before anything is kept.
        labelled = labels.rows.filter(labels.rows["label"].is_valid())
        commands = _commands(store, card, labels) if labelled.num_rows else []
        figures = judged(store, frozen, labels).model_dump()
        if keep and (new or changed):
            save_labels(held.store, labels)
        if keep and from_sheet:
            _keep_answers(BatchAnswers(store=held.store, batch=frozen, card=card), answers)
    return ImportOutcome(
        **figures,
        file=file,
        kept=keep,
        new=new,
        changed=changed,
        labels=labelled.num_rows,
        elsewhere=elsewhere,
        without_patient=labelled["patient_id"].null_count,
        review=store.address(*labels.path),
        commands=commands,
    )


def _keep_answers(answers: BatchAnswers, lines: Sequence[Line]) -> None:
    """Keep the lines of a sheet as answers of their readers, where they answered otherwise."""
    given = defaultdict[str, dict[str, str | None]](dict)
    for each in lines:
        answer = WHITE if each.note == WHITE else each.answer
        given[each.reader or UNNAMED][each.image_id] = answer
    answers.refresh()
    for reader, theirs in given.items():
        known = answers.of_reader(reader)
        new = {image: each for image, each in theirs.items() if known.get(image) != each}
        answers.keep(reader, new, named=True)


def _commands(store: Store, card: ModelCard, labels: Labels) -> list[str]:
    """List the commands that retract earlier answers and fit the newest."""
    # The number comes first, so that it survives where a long name is cut off.
    batch = f"reviewed-{labels.number:04d}-{labels.batch}"[:120]
    end = ("--model", card.name, "--store", store.url)
    retract = [
        shell_command("retract", "--batch", name, *end)
        for name in fitted_from(store, card.name, labels.batch)
        if name != batch
    ]
    if latest_statistics(store, card.name) is None:  # a fit would forget what its maker fitted
        return []
    images = store.address(*labels.path)
    return [*retract, shell_command("fit", "--images", images, "--batch", batch, *end)]


def report_rows(store: Store, batch: Batch, columns: list[str]) -> Iterator[pa.Table]:
    """Read the rows of a batch's image report, part by part."""
    return iterate_groups(store, *report_path(batch.name, batch.batch_date), columns=columns)


def _scored(store: Store, batch: Batch) -> tuple[dict[str, dict[str, Any]], ModelCard]:
    """Read a report's scored images by digest, and the card of the model that diagnosed them."""
    columns = [*FROM_SCORED, "status", "model"]
    scored: dict[str, dict[str, Any]] = {}
    model = None
    for part in report_rows(store, batch, columns):
        for row in part.to_pylist():
            model = row["model"]
            if row["status"] == types.ImageStatus.SCORED:
                scored.setdefault(row["image_id"], row)
    if model is None:
        raise AnswerError(f"batch {batch.name} has no images to answer on")
    return scored, load_card(store, model)


def _next_labels(
    store: Store,
    before: Labels,
    answers: Sequence[Line],
    scored: dict[str, dict[str, Any]],
    places: dict[str, dict[str, Any]],
    card: ModelCard,
) -> tuple[Labels, int, int, int]:
    """Merge new answers into a batch's; count the new, the changed, and labels elsewhere."""
    # A batch screened again may have lost images, whose answers stay in its history.
    known: dict[str, dict[str, Any]] = {
        row["image_id"]: row for row in before.rows.to_pylist() if row["image_id"] in scored
    }
    when, new, changed = now(), 0, 0
    for each in answers:
        old = known.get(each.image_id)
        given = {"answer": each.answer, "note": each.note or None, "reader": each.reader or None}
        if old is None:
            new += 1
        elif any(old[name] != value for name, value in given.items()):
            changed += 1
        else:
            continue
        row = scored[each.image_id]
        known[each.image_id] = {
            **places[row["uri"]],
            **{name: row[name] for name in FROM_SCORED},
            **given,
            "answered_at": when,
        }
    labels_elsewhere = {
        image_id
        for other in other_labels(store, before.batch)
        for image_id in other.rows.filter(other.rows["label"].is_valid())["image_id"].to_pylist()
    }
    elsewhere = 0
    for image_id, row in known.items():
        is_class = row["answer"] in card.classes
        elsewhere += is_class and image_id in labels_elsewhere
        row["label"] = row["answer"] if is_class and image_id not in labels_elsewhere else None
    rows = pa.Table.from_pylist(list(known.values()), before.rows.schema)
    return Labels(before.batch, before.number + 1, rows), new, changed, elsewhere


def judged(store: Store, batch: Batch, labels: Labels) -> ReviewOutcome:
    """Count answers on a batch, and measure the precision of its abnormal list by them."""
    ids, answers = labels.rows["image_id"].to_pylist(), labels.rows["answer"].to_pylist()
    counts = Counter(answers)
    looked_at, other, wrong = precision(
        report_rows(store, batch, ["image_id", "diagnosis", "abnormal"]),
        dict(zip(ids, answers, strict=True)),
    )
    worth = share(other + wrong, looked_at)
    return ReviewOutcome(
        batch=batch.name,
        answers={name: counts[name] for name in sorted(counts, key=lambda n: (n == OTHER, n))},
        abnormal_looked_at=looked_at,
        abnormal_other=other,
        abnormal_wrong=wrong,
        precision=worth and worth.value,
        precision_low=worth and worth.low,
        precision_high=worth and worth.high,
    )
