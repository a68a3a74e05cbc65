"""Nights of an inbox where images arrive all the time."""

import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from flows import nightly as module
from flows.monitoring.logs import JsonHandler
from flows.nightly import MissedNightError, night_of
from flows.options.flows import Nightly
from flows.settings import Settings
from flows.smears import night as night_flows
from flows.smears.night import NightOutcome, nightly
from storage.batches.nights import find_night, list_nights
from storage.leases import HeldByOtherError, lease
from storage.store import Store, StoreError
from tests.support.images import write_cells

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


# --- what a night is called


@pytest.mark.parametrize(
    ("moment", "timezone", "expected"),
    [
        ("2026-03-01T22:30:00+00:00", "UTC", "2026-03-01"),
        ("2026-03-01T22:30:00+00:00", "Africa/Kampala", "2026-03-02"),
        ("2026-03-01T04:30:00+00:00", "America/New_York", "2026-02-28"),
        # The clock goes from 02:00 to 03:00 on this day.
        ("2026-03-29T21:59:59+00:00", "Europe/Berlin", "2026-03-29"),
        ("2026-03-29T22:00:00+00:00", "Europe/Berlin", "2026-03-30"),
    ],
)
def test_a_night_has_the_date_of_its_scheduled_start(
    moment: str, timezone: str, expected: str
) -> None:
    assert night_of(datetime.fromisoformat(moment), timezone) == date.fromisoformat(expected)


# --- nights


@pytest.fixture(scope="module")
def arriving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells that are to arrive."""
    folder = tmp_path_factory.mktemp("arriving")
    write_cells(folder, 2, 12, seed=51, first=51)
    return folder


@dataclass
class Ward:
    """An inbox where cells arrive, and a clock that tests set."""

    settings: Settings
    inbox: Path
    cells: Iterator[Path]
    patch: pytest.MonkeyPatch

    def arrive(self, count: int, *, age: float = 3e7) -> list[str]:
        """Copy new cells into the inbox, and return their names."""
        names = []
        for cell in islice(self.cells, count):
            then = time.time() - age
            os.utime(shutil.copy(cell, self.inbox), (then, then))
            names.append(cell.name)
        return sorted(names)

    def at(self, scheduled: datetime, moment: datetime | None = None) -> None:
        """Set when the run was scheduled, and what time it is, by default the same."""
        self.patch.setattr(module, "scheduled_start", lambda: scheduled)
        self.patch.setattr(module, "now", lambda: moment or scheduled)

    def run(self, **given: Any) -> NightOutcome:
        """Run a night of the inbox."""
        usual: dict[str, Any] = {"inbox": str(self.inbox)}
        return nightly.fn(Nightly(**usual | given), self.settings)


@pytest.fixture
def ward(ready: Settings, arriving: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ward:
    (tmp_path / "inbox").mkdir()
    settings = ready.model_copy(update={"shard_rows": 8})
    made = Ward(settings, tmp_path / "inbox", iter(sorted(arriving.rglob("*.png"))), monkeypatch)
    made.at(NOON)
    return made


def names_of(outcome: NightOutcome) -> list[str]:
    uris = pq.ParquetFile(outcome.report).read()["uri"].to_pylist()
    return sorted(uri.rsplit("/", 1)[1] for uri in uris)


def test_each_night_takes_what_came_since_the_last(
    ward: Ward, capsys: pytest.CaptureFixture[str]
) -> None:
    first, late = ward.arrive(5), ward.arrive(1, age=2)
    outcome = ward.run(timezone="Africa/Kampala")
    assert outcome.batch == "night-2026-03-01"
    assert "batch_date=2026-03-01" in outcome.report
    assert names_of(outcome) == first
    assert "1 image still being written" in capsys.readouterr().err
    os.utime(ward.inbox / late[0], (0, 0))
    second = ward.arrive(3)
    ward.at(NOON + DAY)
    outcome = ward.run()
    assert outcome.batch == "night-2026-03-02"
    assert names_of(outcome) == sorted(late + second)


def test_a_night_that_runs_again_returns_its_report_and_takes_nothing_more(
    ward: Ward, capsys: pytest.CaptureFixture[str]
) -> None:
    first = ward.arrive(4)
    ward.run()
    more = ward.arrive(2)
    ward.at(NOON + timedelta(hours=6))
    again = ward.run()
    assert again.repeated
    assert names_of(again) == first
    assert re.search("2 new images of .* left for the night after", capsys.readouterr().err)
    ward.at(NOON + DAY)
    assert names_of(ward.run()) == more
    ward.at(NOON + 30 * DAY)
    long_after = ward.run(date=date(2026, 3, 1))
    assert long_after.repeated
    assert long_after.report == again.report
    assert not ward.run(date=date(2026, 3, 1), force=True).repeated


def test_a_night_that_was_killed_goes_on_with_the_images_it_had(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = []

    def killed(*_: object, **__: object) -> None:
        logged.append(json.loads(JsonHandler().format(logging.makeLogRecord({}))))
        raise RuntimeError("killed")

    first = ward.arrive(4)
    with monkeypatch.context() as patch:
        patch.setattr(night_flows, "screen_sources", killed)
        with pytest.raises(RuntimeError, match="killed"):
            ward.run()
    assert [line["batch"] for line in logged] == ["night-2026-03-01"]
    ward.arrive(2)
    ward.at(NOON, NOON + 3 * DAY)  # Prefect runs the same night again, three days later
    outcome = ward.run()
    assert not outcome.repeated
    assert (outcome.batch, names_of(outcome)) == ("night-2026-03-01", first)


def test_a_changed_file_is_taken_again_if_its_size_tells(
    ward: Ward, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ward.arrive(3)
    ward.at(NOON)
    ward.run()
    with (ward.inbox / names[0]).open("ab") as file:
        file.write(b"more")
    os.utime(ward.inbox / names[0], (0, 0))
    os.utime(ward.inbox / names[1], (time.time() - 100,) * 2)  # after NOON, which is long ago
    ward.at(NOON + DAY)
    outcome = ward.run()
    assert names_of(outcome) == [names[0]]
    assert "1 image rewritten" in capsys.readouterr().err


def test_an_inbox_without_anything_new_is_red_until_something_comes(ward: Ward) -> None:
    first = ward.arrive(2)
    ward.run()
    ward.at(NOON + DAY)
    for _ in range(2):
        none = ward.run()
        assert "no images for batch night-2026-03-02" in none.problem
        assert (none.light, none.reasons) == ("red", ["there are no images"])
        assert names_of(none) == []
        batch = none.report.replace("/images/", "/batches/")
        assert pq.ParquetFile(batch).read()["light"].to_pylist() == ["red"]
    more = ward.arrive(2)
    outcome = ward.run()
    assert (outcome.images, outcome.scored, names_of(outcome)) == (2, 2, more)
    assert first != more


def test_an_empty_night_that_is_over_takes_nothing_of_another(ward: Ward) -> None:
    assert ward.run().failed
    names = ward.arrive(2)
    ward.at(NOON + DAY)
    first = ward.run(date=date(2026, 3, 1))
    assert "night-2026-03-01" in first.problem
    assert names_of(ward.run()) == names


def test_the_next_night_takes_the_images_of_those_that_were_missed(ward: Ward) -> None:
    """The worker was away for three days; then all runs that were due come at once."""
    names = ward.arrive(4)
    back = NOON + 3 * DAY + timedelta(hours=8)
    for missed in range(3):
        ward.at(NOON + missed * DAY, back)
        with pytest.raises(MissedNightError, match=f"night-2026-03-0{1 + missed} has not begun"):
            ward.run()
    ward.at(NOON + 3 * DAY, back)
    outcome = ward.run()
    assert (outcome.batch, names_of(outcome)) == ("night-2026-03-04", names)
    assert len(list_nights(Store(ward.settings.store), "night")) == 1


@pytest.mark.parametrize("day", [date(2026, 2, 28), date(2026, 3, 2)])
def test_a_date_is_for_a_night_that_began_or_is_tonight(ward: Ward, day: date) -> None:
    ward.arrive(2)
    with pytest.raises(MissedNightError):
        ward.run(date=day)
    assert ward.run(date=NOON.date()).images == 2


def test_two_inboxes_are_two_series(ward: Ward, tmp_path: Path) -> None:
    ward.arrive(2)
    shutil.copytree(ward.inbox, tmp_path / "other")
    ward.run()
    with pytest.raises(StoreError, match="or another --series"):
        ward.run(inbox=str(tmp_path / "other"))
    outcome = ward.run(inbox=str(tmp_path / "other"), series="other")
    assert outcome.batch == "other-2026-03-01"


def test_a_night_that_is_being_worked_on_says_by_whom(ward: Ward) -> None:
    ward.arrive(2)
    with (
        lease(Store(ward.settings.store), "batches", "night-2026-03-01"),
        pytest.raises(HeldByOtherError, match=str(os.getpid())),
    ):
        ward.run()
    frozen = find_night(Store(ward.settings.store), "night", NOON.date())
    assert frozen is not None
    assert frozen.images == ward.run().images == 2


def test_an_inbox_that_is_gone_freezes_nothing(ward: Ward) -> None:
    """A share that is not mounted is no night without images."""
    ward.inbox.rmdir()
    with pytest.raises(Exception, match="is the folder mounted"):
        ward.run()
    assert list_nights(Store(ward.settings.store), "night") == []


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "Europe", "", "../zone"])
def test_a_time_zone_that_is_none_is_refused(timezone: str) -> None:
    with pytest.raises(ValidationError, match=f"no time zone '{re.escape(timezone)}'"):
        nightly.fn(Nightly(inbox="inbox", timezone=timezone), Settings())
