"""Answers come in by sheets: histories against a model, and a death at each write.

On a disk and on S3, in one process that dies by an exception.
"""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pyarrow.parquet as pq
import pytest
from hypothesis import settings as of_test
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from flows.commands.review.apply import apply
from flows.commands.review.queue import import_answers
from flows.commands.status import verify
from flows.options.tools import ReviewApply, ReviewImport, Verify
from flows.settings import Settings
from storage.reports.answers import latest_labels
from storage.store import Store, StoreError
from tasks.answers.sheets import AnswerError
from tasks.images.access.files import SourceError
from tests.support.exchanges import Exchange, contents, doings, exchange_in
from tests.support.faults.counts import Counts
from tests.support.photographs import CELLS

WHEN = datetime(2026, 3, 1, 6, tzinfo=UTC)
BUCKETS = iter(range(10**6))  # each trial on S3 has a folder of its own
WORDS = ("Parasitized", "Uninfected", "other")


@pytest.fixture(scope="module")
def exchange(_store_with_model: Store, tmp_path_factory: pytest.TempPathFactory) -> Exchange:
    return exchange_in(tmp_path_factory.mktemp("exchange"), _store_with_model)


@pytest.fixture(autouse=True)
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.commands.review.imports.now", lambda: WHEN)


# Histories


class Exchanges(RuleBasedStateMachine):
    """A store, beside what is known of it: the answers on its night."""

    exchange: ClassVar[Exchange]
    place: ClassVar[Callable[[], str]]
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.store = self.exchange.put(self.place())
        self.settings = Settings(store=self.store.url)
        self.empty = contents(self.store)
        self.answers: dict[str, str] = {}
        self.counted["histories"] += 1

    def refused(self, kinds: Any, do: Callable[[], object]) -> None:
        before = contents(self.store)
        with pytest.raises(kinds) as error:
            do()
        assert "\n" not in str(error.value)
        assert contents(self.store) == before
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
        kept = contents(self.store)
        more = {path for path in kept if path not in self.empty}
        assert {path: kept[path] for path in self.empty} == self.empty
        assert all(path.startswith("labels/night/") for path in more)

    def teardown(self) -> None:
        assert verify(Verify(), self.settings).damaged == []


def run_histories(exchange: Exchange, place: Callable[[], str], examples: int, steps: int) -> None:
    counted: Counter[str] = Counter()
    machine = type("Machine", (Exchanges,), {
        "exchange": exchange, "place": staticmethod(place), "counted": counted,
    })  # fmt: skip
    options = of_test(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(machine, settings=options)
    print("\n" + ", ".join(f"{count:,} {name}" for name, count in counted.items()))
    assert counted["steps"] > examples


@pytest.fixture
def disk(tmp_path: Path) -> Callable[[], str]:
    """Name the place of a store on a disk, which is the same each time."""
    return lambda: str(tmp_path / "store")


@pytest.fixture
def s3(s3_bucket: str) -> Callable[[], str]:
    """Name places of stores on S3."""
    return lambda: f"{s3_bucket}/exchange-{next(BUCKETS)}"


def test_histories_of_exchanges(exchange: Exchange, disk: Callable[[], str]) -> None:
    run_histories(exchange, disk, examples=4, steps=12)


@pytest.mark.slow
def test_long_histories_of_exchanges(exchange: Exchange, disk: Callable[[], str]) -> None:
    run_histories(exchange, disk, examples=60, steps=30)


@pytest.mark.slow
def test_histories_of_exchanges_on_s3(exchange: Exchange, s3: Callable[[], str]) -> None:
    run_histories(exchange, s3, examples=4, steps=12)


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


BEFORE = {
    "answers are applied": ["a sheet is imported"],
}
DONE = (StoreError, SourceError)  # which say that it is done already


def _die_everywhere(exchange: Exchange, place: Callable[[], str], every: int) -> None:
    counts, to = Counts("a death at a write"), exchange.folder / "out.parquet"
    steps = doings(exchange, to)
    for name, do in steps.items():

        def fresh(name: str = name) -> Settings:
            to.unlink(missing_ok=True)
            settings = Settings(store=exchange.put(place()).url)
            for first in BEFORE.get(name, []):
                steps[first](settings)
            return settings

        calm = fresh()
        with Writes() as writes:
            do(calm)
        wanted = contents(Store(calm.store)), to.exists() and to.read_bytes()
        for at in range(1, writes.count + 1, every):
            for when in ("before", "after"):
                settings = fresh()
                with Writes(at, when), pytest.raises(DeathError):
                    do(settings)
                try:
                    do(settings)
                except DONE as error:
                    assert "already" in str(error)  # noqa: PT017
                found = contents(Store(settings.store)), to.exists() and to.read_bytes()
                counts.add(name, f"{when} write {at}", *([] if found == wanted else ["mixed"]))
    counts.check()


def test_a_death_at_a_write_leaves_what_the_same_command_finishes(
    exchange: Exchange, disk: Callable[[], str]
) -> None:
    _die_everywhere(exchange, disk, every=1)


@pytest.mark.slow
def test_a_death_at_a_write_on_s3_leaves_what_the_same_command_finishes(
    exchange: Exchange, s3: Callable[[], str]
) -> None:
    _die_everywhere(exchange, s3, every=1)
