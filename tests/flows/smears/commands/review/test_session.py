"""Cells that readers see, their answers, and what becomes of these."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.options.tools import ReviewReport
from flows.settings import Settings
from flows.smears.commands.review.queue import report
from flows.smears.commands.review.session import Session, open_session
from storage.smears.answers import Answer, add_answer, latest_labels
from storage.store import Store, StoreError
from tests.support.reading import FLAGGED, night

SIZE = 12  # nine flagged cells, and a quarter of others


@pytest.fixture
def session(store_with_model: Store, tmp_path: Path) -> Session:
    return opened(store_with_model, night(store_with_model, tmp_path / "cells"))


def opened(store: Store, batch: object, limit: int = 100) -> Session:
    made, _ = open_session(store, batch, limit=limit, per_slide=99, unmarked=0.25)  # type: ignore[arg-type]
    return made


def test_all_readers_get_the_same_cells_each_in_another_order(session: Session) -> None:
    ada, ben = session.queue("Ada"), session.queue("Ben")
    assert len(ada) == SIZE
    assert sorted(ada) == sorted(ben)
    assert ada != ben
    flagged = [bool(session.cells[image]["flagged"]) for image in ada]
    assert sum(flagged) == FLAGGED


def test_the_cells_stay_though_another_limit_is_asked(session: Session) -> None:
    assert len(opened(session.store, session.batch, limit=2).cells) == SIZE


def test_an_answer_is_there_after_a_crash_and_undone_by_another_file(session: Session) -> None:
    first, second = session.queue("Ada")[:2]
    session.answer("Ada", first, "Parasitized", 2.0)
    session.answer("Ada", second, "unsure", 4.0)
    again = opened(session.store, session.batch)
    assert again.on_sample("Ada") == {first: "Parasitized", second: "unsure"}
    assert again.seconds("Ada") == 3.0
    assert again.undo("Ada") == second
    assert opened(session.store, session.batch).on_sample("Ada") == {first: "Parasitized"}
    assert again.undo("Ada") == first
    assert again.undo("Ada") is None


def test_readers_at_two_servers_do_not_disturb_each_other(session: Session) -> None:
    other = opened(session.store, session.batch)
    image = session.queue("Ada")[0]
    session.answer("Ada", image, "Parasitized", 1.0)
    other.answer("Ben", image, "Uninfected", 1.0)
    for each in (session, other):
        each.refresh()
        assert each.sampled_by_reader() == {
            "Ada": {image: "Parasitized"},
            "Ben": {image: "Uninfected"},
        }


def test_what_one_reader_says_later_at_another_server_stands(session: Session) -> None:
    """As from a stale tab: neither server has looked at what the other has written."""
    other = opened(session.store, session.batch)
    image = session.queue("Ada")[0]
    session.answer("Ada", image, "Parasitized", 1.0)
    session.answer("Ada", image, "unsure", 1.0)
    other.answer("Ada", image, "Uninfected", 1.0)
    for each in (session, other, opened(session.store, session.batch)):
        each.refresh()
        assert each.on_sample("Ada") == {image: "Uninfected"}
    assert session.undo("Ada") == image
    other.refresh()
    assert other.on_sample("Ada") == {}


def test_of_two_answers_of_one_number_the_later_stands(session: Session) -> None:
    image, now = session.queue("Ada")[0], datetime(2026, 3, 1, tzinfo=UTC)
    said = {"reader": "Ada", "image_id": image, "seconds": 1.0}
    for seconds, answer in ((2, "unsure"), (0, "other"), (1, "Parasitized")):
        at = now + timedelta(seconds=seconds)
        add_answer(session.store, session.batch.key, Answer(answer=answer, at=at, **said), 0)  # type: ignore[arg-type]
    session.refresh()
    assert session.on_sample("Ada") == {image: "unsure"}


def test_a_damaged_answer_stops_no_reader_and_makes_no_label(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = session.queue("Ada")[:2]
    session.answer("Ada", first, "Parasitized", 1.0)
    store, folder = session.store, ("answers", session.batch.key)
    store.write_bytes(b"{", *folder, "00000007-0123456789ab.json")
    again = opened(store, session.batch)
    again.refresh()
    assert capsys.readouterr().err.count("00000007-0123456789ab.json is not valid JSON") == 1
    again.answer("Ada", second, "unsure", 1.0)
    assert again.on_sample("Ada") == {first: "Parasitized", second: "unsure"}
    assert store.names(*folder)[-2].startswith("00000008-")
    with pytest.raises(StoreError, match="a damaged answer may have changed"):
        again.imported(keep=True)
    told = report(ReviewReport(batch="night"), Settings(store=store.url))
    assert told.failed
    assert len(told.damaged) == 1


def test_a_third_reader_gets_what_two_differ_on_first_and_decides(session: Session) -> None:
    images = sorted(session.cells)
    for image in images:
        session.answer("Ada", image, "Parasitized", 1.0)
        session.answer("Ben", image, "Uninfected" if image == images[7] else "Parasitized", 1.0)
    assert session.queue("Cleo")[0] == images[7]
    assert len(session.lines()) == SIZE - 1
    session.answer("Cleo", images[7], "Uninfected", 1.0)
    assert len(session.lines()) == SIZE


def test_what_an_import_would_change_is_told_before_it_does_so(session: Session) -> None:
    parasite, white, doubt = session.queue("Ada")[:3]
    session.answer("Ada", parasite, "Parasitized", 1.0)
    session.answer("Ada", white, "white cell", 1.0)
    session.answer("Ada", doubt, "unsure", 1.0)
    told = session.imported(keep=False)
    assert told is not None
    assert (told.new, told.changed, told.labels) == (2, 0, 1)
    assert latest_labels(session.store, "night").number == 0
    done = session.imported(keep=True)
    assert done is not None
    rows = {row["image_id"]: row for row in latest_labels(session.store, "night").rows.to_pylist()}
    assert {(row["answer"], row["note"]) for row in rows.values()} == {
        ("Parasitized", None),
        ("other", "white cell"),
    }
    assert rows[parasite]["reader"] == "Ada"
    again = session.imported(keep=False)
    assert again is not None
    assert (again.new, again.changed) == (0, 0)


def test_the_report_tells_how_far_readers_agree(session: Session) -> None:
    for image, row in session.cells.items():
        session.answer("Ada", image, str(row["diagnosis"]), 1.0)
        session.answer("Ben", image, str(row["diagnosis"]), 2.0)
    told = report(ReviewReport(batch="night"), Settings(store=session.store.url))
    figures = {each.name: each for each in told.figures}
    assert figures["Ada and Ben: Cohen's kappa"].value == 1.0
    assert figures["persons and machine: Cohen's kappa"].value == 1.0
    assert "Ada: seconds per cell, 12 of 12 read" in told.text()


def test_a_cell_chosen_in_a_picture_is_in_no_figure_and_goes_to_a_third_where_two_differ(
    session: Session,
) -> None:
    image = next(
        str(row["image_id"])
        for row in session.scored.to_pylist()
        if row["image_id"] not in session.cells
    )
    session.answer("Ada", image, "other", 1.0)
    assert session.of_reader("Ada") == {image: "other"}
    assert session.on_sample("Ada") == {}
    assert [line.image_id for line in session.lines()] == [image]
    session.answer("Ben", image, "Parasitized", 1.0)
    assert session.queue("Cleo")[0] == image
    assert image not in session.queue("Ada")
    assert session.lines() == []
