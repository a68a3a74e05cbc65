"""Choose cells and labels for a person to see, read sheets of answers, and measure precision.

A reader who sees only cells that the machine flagged cannot find the ones it missed, and learns to
expect something. So some cells that were not flagged are mixed in. Every reader gets the same
cells, in a different order.
"""

from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.images.access.addresses import EXTENSIONS, extension_of
from tasks.reports import image_columns, spreadsheet
from tasks.types import ImageStatus

OTHER = "other"  # a white cell, an artefact, no cell at all
WHITE, UNSURE = "white cell", "unsure"  # further answers of a reader
UNNAMED = "unnamed"  # a reader of whom a sheet says nothing
KEYS = "puwo?"  # of the answers, in the order of `possible_answers`
FROM_REPORT = (
    "image_id", "batch", "uri", "slide_id", "patient_id", "diagnosis", "abnormality", "p_value",
    "review_reason",
)  # fmt: skip
FROM_PERSON = ("answer", "note", "reader")
DOUBTED = (
    "image_id", "uri", "slide_id", "patient_id", "label", "diagnosis", "label_probability",
)  # fmt: skip
PROBLEMS_SHOWN = 5
COLUMNS = (*FROM_REPORT, "verdict", "status", "abnormal", "kind")  # that a sample of cells needs


class AnswerError(Exception):
    """Answers cannot be imported; the message names the lines."""


def possible_answers(classes: Sequence[str]) -> tuple[str, ...]:
    """List the answers that a reader can give, for the classes of a model."""
    return (*classes, WHITE, OTHER, UNSURE)


def candidates(
    parts: Iterator[pa.Table], *, done: Collection[str], per_slide: int
) -> tuple[pa.Table, Counter[str]]:
    """Choose the cells of a report that a person should look at, the most abnormal first.

    An image that is in the batch under two names is one cell. The number of cells per slide is
    limited, because a slide out of focus would otherwise fill the list; images without a slide are
    not limited. The parts are image rows of `FROM_REPORT`, ``verdict`` and ``status``; ``done`` are
    digests of images that have an answer already. Return their rows, and counts of the others by
    the reason why they are left out.
    """
    # A night without images has no parts.
    chosen = [pa.table({name: pa.nulls(0, pa.string()) for name in (*FROM_REPORT, "status")})]
    chosen = [part.filter(pa.array(image_columns.is_for_review(part))) for part in parts] or chosen
    rows = pa.concat_tables(chosen).unify_dictionaries()
    rows = rows.sort_by([("abnormality", "descending"), ("uri", "ascending")])
    left_out: Counter[str] = Counter()
    keep: list[int] = []
    taken: set[str] = set()
    slides: Counter[str | None] = Counter()
    columns = (rows[name].to_pylist() for name in ("image_id", "slide_id", "status"))
    for row, (image_id, slide, status) in enumerate(zip(*columns, strict=True)):
        if status != ImageStatus.SCORED:
            left_out["failed"] += 1
        elif image_id in taken:
            left_out["the same image again"] += 1
        elif image_id in done:
            left_out["reviewed before"] += 1
        elif slide is not None and slides[slide] >= per_slide:
            left_out["beyond the limit of their slide"] += 1
        else:
            keep.append(row)
            taken.add(image_id)
            slides[slide] += 1
    return rows.take(pa.array(keep, pa.int64())), left_out


def ranked_labels(out_of_fold: pa.Table, classes: Sequence[str]) -> pa.Table:
    """Rank all labels in a table of `DOUBTED`, the least probable first; equal images count once.

    A network that has not seen a patient diagnoses that patient's cells; a label that it finds
    improbable is probably wrong. This is the ranking by self-confidence of Northcutt, Jiang &
    Chuang (2021, arXiv 1911.00068). Such a network's ``probability`` and ``log_odds`` in
    ``out_of_fold`` are those of the first of two ``classes``, in the order of logits.
    """
    first = np.asarray(pc.equal(out_of_fold["label"], classes[0]))
    probability = out_of_fold["probability"].to_numpy()
    confidence = np.where(first, probability, 1.0 - probability)
    # Probabilities of 1 and 0 are ties; log-odds are not.
    odds = out_of_fold["log_odds"].to_numpy()
    order = np.lexsort((out_of_fold["uri"].to_pylist(), np.where(first, odds, -odds), confidence))
    labels = out_of_fold.append_column("label_probability", pa.array(confidence)).append_column(
        "diagnosis", pa.array(np.where(odds > 0, classes[0], classes[1]))
    )
    labels = labels.take(pa.array(order))
    _, once = np.unique(labels["image_id"].to_pylist(), return_index=True)
    return labels.take(pa.array(np.sort(once))).select(DOUBTED)


def image_name(image_id: str, uri: str) -> str:
    """Make a file name that every filesystem accepts, whatever the image was called.

    >>> image_name("0a1b", "file:///night/con: |a?.PNG")
    '0a1b.png'
    """
    ending = extension_of(uri)
    return f"{image_id}{ending if ending in EXTENSIONS else ''}"


@dataclass(frozen=True)
class Line:
    """A row of a sheet with an answer: a class, or `OTHER`."""

    number: int
    image_id: str
    batch: str
    answer: str
    note: str
    reader: str


def read_sheet(content: bytes, subject: str = "batch") -> tuple[str, list[Line]]:
    """Read the batch of a file of answers, and the rows that have an answer.

    The ``subject`` is the column that names the batch, or the model for a sheet of its labels.

    Raises:
        AnswerError: it is not a file of answers, has no answer, or names several batches.
    """
    try:
        columns, rows = spreadsheet.read_csv(content)
        missing = {"image_id", subject, "answer"} - set(columns)
        if missing:
            raise AnswerError(
                f"it has no column {', '.join(sorted(missing))}; it has: {', '.join(columns)}"
            )
        lines = [
            Line(number, row["image_id"].lower(), row[subject], row["answer"],
                 row.get("note", ""), row.get("reader", ""))
            for number, row in rows
            if row["answer"]
        ]  # fmt: skip
    except spreadsheet.SpreadsheetError as error:
        raise AnswerError(str(error)) from None
    if not lines:
        raise AnswerError("no row has an answer yet: fill in the column 'answer'")
    batch = lines[0].batch
    named = [
        f"line {each.number}: {subject} {each.batch!r}" for each in lines if each.batch != batch
    ]
    refuse(named, f"its first answer is on {subject} {batch!r}, but not all are")
    return batch, lines


def check_answers(
    lines: Sequence[Line], *, batch: str, known: Container[str], classes: Sequence[str]
) -> list[Line]:
    """Check the answers of a file: each must be on a known image, and no image may have two.

    Raises:
        AnswerError: an answer or an image is unknown, or an image is judged twice.
    """
    names = {name.lower(): name for name in (*classes, OTHER)}
    first: dict[str, Line] = {}
    problems: list[str] = []
    for line in lines:
        if line.answer.lower() not in names:
            problems.append(
                f"line {line.number}: no answer {line.answer!r}; there are "
                f"{', '.join(names.values())}, or nothing"
            )
        if line.image_id not in known:
            problems.append(
                f"line {line.number}: no image {line.image_id!r} was scored in batch {batch}"
            )
        before = first.setdefault(line.image_id, line)
        if before is not line:
            same = before.answer.lower() == line.answer.lower()
            problems.append(
                f"line {line.number}: the image of line {before.number} again"
                + ("" if same else f", there {before.answer!r} and here {line.answer!r}")
            )
    refuse(problems, "nothing was imported")
    return [replace(line, answer=names[line.answer.lower()]) for line in lines]


def corrected(
    manifest: pa.Table,
    image_ids: Sequence[str],
    answers: Mapping[str, str],
    classes: Collection[str],
) -> pa.Table:
    """Replace labels by answers; ``published_label`` keeps the old ones.

    Answers are by digest. One that is not a class removes the label, so that nothing is learned
    from the image.
    """
    published = manifest["label"].to_pylist()
    labels = [answers.get(i, label) for i, label in zip(image_ids, published, strict=True)]
    kept = [label if label in classes else None for label in labels]
    place = manifest.column_names.index("label")
    made = manifest.set_column(place, "label", pa.array(kept, pa.string()))
    return made.add_column(place + 1, "published_label", pa.array(published, pa.string()))


def precision(parts: Iterator[pa.Table], answers: Mapping[str, str]) -> tuple[int, int, int]:
    """Count a report's abnormal images that a person saw, the others of these, and the wrong.

    An image was worth the look if the answer is ``other``, or the diagnosis was wrong. The parts
    are image rows with ``image_id``, ``diagnosis`` and ``abnormal``; answers are by digest.
    """
    seen: set[str] = set()
    other = wrong = 0
    for part in parts:
        abnormal = part.filter(pc.fill_null(part["abnormal"], False))
        columns = (abnormal[name].to_pylist() for name in ("image_id", "diagnosis"))
        for image_id, diagnosis in zip(*columns, strict=True):
            answer = answers.get(image_id)
            if answer is None or image_id in seen:
                continue
            seen.add(image_id)
            other += answer == OTHER
            wrong += answer not in (OTHER, diagnosis)
    return len(seen), other, wrong


def refuse(problems: Sequence[str], summary: str) -> None:
    """Raise a AnswerError with the first of some problems, if there are any."""
    if problems:
        shown = "; ".join(problems[:PROBLEMS_SHOWN])
        more = len(problems) - PROBLEMS_SHOWN
        raise AnswerError(f"{summary}: {shown}" + (f"; and {more} more" if more > 0 else ""))


@dataclass(frozen=True)
class Sample:
    """The cells that readers see, a table of `COLUMNS` and ``flagged``, and counts of the batch.

    ``of`` counts the batch's scored cells, which the chosen ones represent, by whether they are
    flagged and by diagnosis.
    """

    rows: pa.Table
    of: Mapping[tuple[bool, str], int]


def choose(scored: pa.Table, *, limit: int, per_slide: int, unmarked: float) -> Sample:
    """Choose cells for review, the most abnormal first, and a random share of others.

    The choice depends only on the batch, so all readers get the same cells at any time. ``scored``
    is from `scored_cells`. At most ``limit`` cells are for review, ``per_slide`` of a slide;
    ``unmarked`` is the share of others among all chosen, in [0, 1).
    """
    keys = zip(scored["flagged"].to_pylist(), scored["diagnosis"].to_pylist(), strict=True)
    marked, _ = candidates(iter([scored]), done=(), per_slide=per_slide)
    marked = marked.slice(0, limit)
    others = scored.filter(pc.invert(scored["flagged"]))
    wanted = round(marked.num_rows * unmarked / (1 - unmarked)) if marked.num_rows else limit
    order = ordered(others["image_id"].to_pylist(), "unmarked")
    chosen = [*marked["image_id"].to_pylist(), *order[: min(wanted, limit)]]
    return Sample(recalled(scored, chosen), Counter(keys))


def recalled(scored: pa.Table, image_ids: Iterable[str]) -> pa.Table:
    """Find the rows of cells that were chosen before among those of `scored_cells`."""
    wanted = pa.array(list(image_ids), pa.string())
    return scored.filter(pc.is_in(scored["image_id"].cast(pa.string()), wanted))


def scored_cells(parts: Iterable[pa.Table]) -> pa.Table:
    """Collect the scored cells of a report, each once, and mark those for review as ``flagged``.

    The parts are image rows of `COLUMNS`, all rows of a batch in order; ``row`` is added, the
    number in the batch.
    """
    # A night without images has no parts.
    none = pa.table({name: pa.nulls(0, pa.string()) for name in COLUMNS})
    rows = pa.concat_tables(list(parts) or [none]).unify_dictionaries()
    rows = rows.append_column("flagged", pa.array(image_columns.is_for_review(rows)))
    rows = rows.append_column("row", pa.array(np.arange(rows.num_rows)))
    rows = rows.filter(pc.equal(rows["status"].cast(pa.string()), ImageStatus.SCORED))
    _, first = np.unique(np.asarray(rows["image_id"].to_pylist(), object), return_index=True)
    return rows.take(pa.array(np.sort(first), pa.int64()))


def ordered(image_ids: Iterable[str], reader: str) -> list[str]:
    """Shuffle digests of images in an order that is always the same for one reader."""
    return sorted(image_ids, key=lambda each: sha256(f"{reader}\0{each}".encode()).digest())
