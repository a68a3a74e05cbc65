"""Answers come in by sheets: histories against a model, and a death at each write."""

import csv
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pyarrow.parquet as pq
import pytest
from hypothesis import settings as of_test
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from flows.commands.status import verify
from flows.options.tools import ReviewApply, ReviewImport, Verify
from flows.settings import Settings
from flows.smears.commands.review.apply import apply
from flows.smears.commands.review.queue import import_answers
from storage.smears.answers import latest_labels
from storage.store import Store, StoreError
from tasks.images.access.files import SourceError
from tasks.smears.answers.sheets import AnswerError
from tests.support.faults.counts import Counts
from tests.support.faults.runs import files_of
from tests.support.photographs import CELLS, screened_photograph

WHEN = datetime(2026, 3, 1, 6, tzinfo=UTC)
WORDS = ("Parasitized", "Uninfected", "other")


@dataclass(frozen=True)
class Exchange:
    """A store without answers in ``template``, whose night readers judge elsewhere."""

    folder: Path
    cells: tuple[str, ...]

    def sheet(self, answers: Mapping[str, str]) -> str:
        """Write a sheet of answers by digest."""
        path = self.folder / "sheet.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image_id", "batch", "answer"])
            rows.writerows([cell, "night", answer] for cell, answer in answers.items())
        return str(path)

    def fresh(self) -> Store:
        """Copy the template to a place that is the same each time."""
        shutil.rmtree(self.folder / "store", ignore_errors=True)
        return Store(str(shutil.copytree(self.folder / "template", self.folder / "store")))


@pytest.fixture(scope="module")
def exchange(_store_with_model: Store, tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    folder = tmp_path_factory.mktemp("exchange")
    shutil.copytree(_store_with_model.root, folder / "template")
    store = screened_photograph(Store(str(folder / "template")), folder)
    (report,) = Path(store.root, "reports", "images").rglob("*.parquet")
    return Exchange(folder, tuple(pq.read_table(report, partitioning=None)["image_id"].to_pylist()))


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.smears.commands.review.imports.now", lambda: WHEN)


# Histories


class Exchanges(RuleBasedStateMachine):
    """A store, beside what is known of it: the answers on its night."""

    exchange: ClassVar[Exchange]
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.store = self.exchange.fresh()
        self.settings = Settings(store=self.store.url)
        self.empty = files_of(self.store.root)
        self.answers: dict[str, str] = {}
        self.counted["histories"] += 1

    def refused(self, kinds: Any, do: Callable[[], object]) -> None:
        before = files_of(self.store.root)
        with pytest.raises(kinds) as error:
            do()
        assert "\n" not in str(error.value)
        assert files_of(self.store.root) == before
        self.counted["refused"] += 1

    @rule(said=st.dictionaries(st.integers(0, CELLS - 1), st.sampled_from(WORDS), min_size=1))
    def a_sheet_is_imported(self, said: dict[int, str]) -> None:
        answers = {self.exchange.cells[cell]: word for cell, word in said.items()}
        sheet = self.exchange.sheet(answers)
        told = import_answers(ReviewImport(file=sheet, dry_run=True), self.settings)
        done = import_answers(ReviewImport(file=sheet), self.settings)
        assert (told.new, told.changed) == (done.new, done.changed)
        assert done.new == len(answers.keys() - self.answers.keys())
        self.answers |= answers
        self.counted["sheets"] += 1

    @rule(word=st.sampled_from(["Tumour", "\x1b[31m"]), cell=st.integers(0, CELLS))
    def a_sheet_with_a_mistake_is_refused(self, word: str, cell: int) -> None:
        ids = [*self.exchange.cells, "0" * 64]
        sheet = self.exchange.sheet({ids[0]: "other", ids[cell]: word})
        self.refused(AnswerError, lambda: import_answers(ReviewImport(file=sheet), self.settings))

    @rule()
    def answers_are_applied(self) -> None:
        to = self.exchange.folder / "applied.parquet"
        to.unlink(missing_ok=True)
        if not self.answers:
            self.refused(
                StoreError, lambda: apply(ReviewApply(to=str(to), batch="night"), self.settings)
            )
            assert not to.exists()
            return
        apply(ReviewApply(to=str(to), batch="night"), self.settings)
        labels = pq.read_table(to)["label"].to_pylist()
        said = [self.answers.get(cell) for cell in self.exchange.cells]
        assert labels == [word for word in said if word != "other"]
        self.counted["applied"] += 1

    @invariant()
    def the_store_is_what_the_model_says(self) -> None:
        rows = latest_labels(self.store, "night").rows.to_pylist()
        assert {row["image_id"]: row["answer"] for row in rows} == self.answers
        self.counted["steps"] += 1

    @invariant()
    def nothing_but_labels_has_changed(self) -> None:
        kept = files_of(self.store.root)
        more = {path for path in kept if path not in self.empty}
        assert {path: kept[path] for path in self.empty} == self.empty
        assert all(path.startswith("labels/night/") for path in more)

    def teardown(self) -> None:
        assert verify(Verify(), self.settings).damaged == []


def test_histories_of_exchanges(exchange: Exchange) -> None:
    counted: Counter[str] = Counter()
    machine = type("Machine", (Exchanges,), {"exchange": exchange, "counted": counted})
    options = of_test(max_examples=4, stateful_step_count=12, deadline=None)
    run_state_machine_as_test(machine, settings=options)
    print("\n" + ", ".join(f"{count:,} {name}" for name, count in counted.items()))
    assert counted["steps"] > 4


# A death at each write


class DeathError(BaseException):
    """The process ends here."""


class Writes:
    """Count the writes and removals of a store and of files, and die before or after one."""

    def __init__(self, at: int = 0, when: str = "never") -> None:
        self.at, self.when, self.count = at, when, 0

    def __enter__(self) -> "Writes":
        self._patches = [
            mock.patch.object(owner, name, self._dying(getattr(owner, name)))
            for owner, name in ((Store, "reveal"), (Store, "remove"), (Path, "replace"))
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()

    def _dying(self, honest: Callable[..., Any]) -> Callable[..., Any]:
        def call(owner: Any, *arguments: Any, **options: Any) -> Any:
            # Whoever dies with a lease of a process that lives on would wait for itself.
            counts = owner.name.startswith(".part-") if isinstance(owner, Path) else (
                "lease" not in arguments
            )  # fmt: skip
            self.count += counts
            dies = counts and self.count == self.at
            if dies and self.when == "before":
                raise DeathError
            done = honest(owner, *arguments, **options)
            if dies and self.when == "after":
                raise DeathError
            return done

        return call


DONE = (StoreError, SourceError)  # which say that it is done already


def test_a_death_at_a_write_leaves_what_the_same_command_finishes(exchange: Exchange) -> None:
    counts, to = Counts("a death at a write"), exchange.folder / "out.parquet"
    answers = dict(zip(exchange.cells, WORDS, strict=False))

    def importing(settings: Settings) -> None:
        import_answers(ReviewImport(file=exchange.sheet(answers)), settings)

    def applying(settings: Settings) -> None:
        apply(ReviewApply(to=str(to), batch="night"), settings)

    for name, first, do in (
        ("a sheet is imported", None, importing), ("answers are applied", importing, applying)
    ):  # fmt: skip

        def fresh(first: Callable[[Settings], None] | None = first) -> Settings:
            to.unlink(missing_ok=True)
            settings = Settings(store=exchange.fresh().url)
            if first:
                first(settings)
            return settings

        calm = fresh()
        with Writes() as writes:
            do(calm)
        wanted = files_of(calm.store), to.exists() and to.read_bytes()
        for at in range(1, writes.count + 1):
            for when in ("before", "after"):
                settings = fresh()
                with Writes(at, when), pytest.raises(DeathError):
                    do(settings)
                try:
                    do(settings)
                except DONE as error:
                    assert "already" in str(error)  # noqa: PT017
                found = files_of(settings.store), to.exists() and to.read_bytes()
                counts.add(name, f"{when} write {at}", *([] if found == wanted else ["mixed"]))
    counts.check()
