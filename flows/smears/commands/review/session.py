"""Keep the answers of readers on a batch's cells, and choose the next cell of each reader."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa

from flows.smears.commands.review.imports import ImportOutcome, import_lines, report_rows
from flows.smears.stages.answers import BatchAnswers
from storage.batches.manifests import Batch, rows_at
from storage.models import classifiers, detectors
from storage.smears import answers
from storage.store import Store, StoreError
from tasks.images.regions import ImageRef, image_refs
from tasks.smears.answers import agreement
from tasks.smears.answers.sheets import (
    COLUMNS,
    OTHER,
    UNSURE,
    WHITE,
    Line,
    Sample,
    choose,
    ordered,
    possible_answers,
    recalled,
    scored_cells,
)

NEIGHBOURS = 8  # other cells of the slide


@dataclass(kw_only=True)
class Session(BatchAnswers):
    """The cells of a batch that readers look at, and readers' answers, kept at once."""

    sample: Sample
    scored: pa.Table  # of all cells of the batch, see `scored_cells`
    _refs: dict[str, ImageRef] = field(default_factory=dict)  # of cells that were shown, by digest

    @property
    def possible(self) -> tuple[str, ...]:
        """List the answers that a reader can give."""
        return possible_answers(self.card.classes)

    @cached_property
    def cells(self) -> dict[str, dict[str, Any]]:
        """Find the row of the report of each cell, by digest."""
        return {row["image_id"]: row for row in self.sample.rows.to_pylist()}

    def row(self, image_id: str) -> dict[str, Any] | None:
        """Find the row of the report of any scored cell of the batch; None of another."""
        if image_id in self.cells:
            return self.cells[image_id]
        rows = self.scored.filter(pa.compute.equal(self.scored["image_id"], image_id))
        return rows.slice(0, 1).to_pylist()[0] if rows.num_rows else None

    def neighbours(self, image_id: str) -> list[str]:
        """List some other cells of a cell's slide, by digest."""
        row = self.row(image_id)
        slide = row and row["slide_id"]
        if slide is None:
            return []
        same = pa.compute.equal(self.scored["slide_id"].cast(pa.string()), slide)
        some = self.scored.filter(same).select(["image_id", "row"])
        rows = dict(zip(*(column.to_pylist() for column in some.columns), strict=True))
        rows.pop(image_id, None)
        chosen = ordered(rows, image_id)[:NEIGHBOURS]
        return list(self.refs({each: rows[each] for each in chosen}))

    def ref(self, image_id: str) -> ImageRef | None:
        """Find the image of a cell of the batch; None of another."""
        if image_id not in self._refs and (row := self.row(image_id)) is not None:
            self.refs({image_id: row["row"]})
        return self._refs.get(image_id)

    def refs(self, rows: Mapping[str, int]) -> dict[str, ImageRef]:
        """Find the images of cells, all at once, given their rows in the batch."""
        missing = {image_id: row for image_id, row in rows.items() if image_id not in self._refs}
        refs = image_refs(rows_at(self.store, self.batch, list(missing.values())))
        self._refs |= dict(zip(missing, refs, strict=True))
        return {image_id: self._refs[image_id] for image_id in rows}

    def on_sample(self, reader: str) -> dict[str, str]:
        """Return a reader's current answers on the random sample that every reader sees.

        Cells that were chosen in a picture would bias every figure.
        """
        given = self.of_reader(reader)
        return {image: answer for image, answer in given.items() if image in self.cells}

    def sampled_by_reader(self) -> dict[str, dict[str, str]]:
        """Return the current answers on the sample, by reader and by digest."""
        return {reader: self.on_sample(reader) for reader in self.readers()}

    def seconds(self, reader: str) -> float | None:
        """Compute how many seconds a reader looks at a cell on average; None before the first."""
        looks = [
            each.seconds
            for each in self._answers.values()
            if each.reader == reader and each.answer is not None
        ]
        return sum(looks) / len(looks) if looks else None

    def queue(self, reader: str) -> list[str]:
        """List the cells that a reader has not read; those on which others differ come first."""
        others = self.by_reader()
        given = others.pop(reader, {})
        order = [*ordered(agreement.discordant(others), reader), *ordered(self.cells, reader)]
        return [image for image in dict.fromkeys(order) if image not in given]

    def answer(self, reader: str, image_id: str, answer: str | None, seconds: float) -> None:
        """Keep a reader's answer on a cell; None takes the last one back."""
        self.keep(reader, {image_id: answer}, seconds)

    def undo(self, reader: str) -> str | None:
        """Take back a reader's last answer, and return the digest of its image."""
        self.refresh()  # the last may have been given at another server
        last = next(reversed(self.of_reader(reader)), None)
        if last is not None:
            self.answer(reader, last, None, 0.0)
        return last

    def lines(self) -> list[Line]:
        """List the majority's answers as lines of a sheet, without unsure ones."""
        by_reader = self.by_reader()
        lines: list[Line] = []
        for image_id, answer in agreement.consensus(by_reader).items():
            if answer == UNSURE:
                continue
            names = [name for name, given in by_reader.items() if given.get(image_id) == answer]
            note, answer = (WHITE, OTHER) if answer == WHITE else ("", answer)
            lines.append(
                Line(len(lines) + 1, image_id, self.batch.name, answer, note, " and ".join(names))
            )
        return lines

    def imported(self, *, keep: bool) -> ImportOutcome | None:
        """Make the majority's answers labels, or count what would change; None without answers."""
        lines = self.lines()
        if not lines:
            return None
        if keep and self.damaged:
            first = next(iter(self.damaged.values()))
            raise StoreError(
                "a damaged answer may have changed any of these answers, so none becomes a "
                f"label: restore its file from a backup, or remove it ({first})"
            )
        return import_lines(self.store, self.batch.name, lines, "the answers of readers", keep=keep)


def open_session(
    store: Store, batch: Batch, *, limit: int, per_slide: int, unmarked: float, keep: bool = True
) -> tuple[Session, detectors.DetectorCard | None]:
    """Load the cells of a published batch that were chosen for reading, and the answers on them.

    If none were, choose at most ``limit`` flagged ones, ``per_slide`` of a slide, and a share
    ``unmarked`` of others, and ``keep`` them. StoreError if the batch has no scored cell.
    """
    kept = answers.find_sample(store, batch.key)
    scored = scored_cells(report_rows(store, batch, list(COLUMNS)))
    if kept is None:
        sample = choose(scored, limit=limit, per_slide=per_slide, unmarked=unmarked)
        if not sample.rows.num_rows:
            raise StoreError(f"batch {batch.name} has no scored cell to read")
        strata = [
            answers.Stratum(flagged=flagged, diagnosis=diagnosis, cells=n)
            for (flagged, diagnosis), n in sorted(sample.of.items())
        ]
        kept = answers.KeptSample(image_ids=sample.rows["image_id"].to_pylist(), strata=strata)
        kept = answers.keep_sample(store, batch.key, kept) if keep else kept
    rows = recalled(scored, kept.image_ids)
    sample = Sample(rows, {(each.flagged, each.diagnosis): each.cells for each in kept.strata})
    by = next(report_rows(store, batch, ["model", "detector"])).to_pylist()[0]
    detector = detectors.load_detector_card(store, by["detector"]) if by["detector"] else None
    card = classifiers.load_card(store, by["model"])
    session = Session(store=store, batch=batch, card=card, sample=sample, scored=scored)
    session.refresh()
    return session, detector
