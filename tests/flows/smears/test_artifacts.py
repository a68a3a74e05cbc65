"""What Prefect is told of a night, read back from its API."""

import logging
import re
import time
from datetime import date
from pathlib import Path
from typing import Any

import prefect.artifacts
import prefect.events
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

from flows.options.flows import Screen
from flows.outcome import numbered
from flows.prefect.decorators import run
from flows.settings import Settings
from flows.smears import artifacts
from flows.smears.artifacts import ABNORMAL, FAILED, NIGHT, PAGE, announce, markdown_text
from flows.smears.commands.review.imports import show_answers
from flows.smears.night import NightOutcome, screen
from flows.smears.stages.answers import BatchAnswers
from storage.batches.manifests import load_batch
from storage.models.classifiers import list_models
from storage.parquet import read_table
from storage.reports.tables import report_path
from storage.smears.schemas.patients import PATIENT_SCHEMA
from storage.store import Store
from tasks.smears.counting.call import by_call
from tasks.types import Light
from tests.support import batches, fitted, images, nights

DAY = date(2026, 3, 1)
HOSTILE = "night | <b>`x`</b> [l](j:s) _i_"


@pytest.fixture(scope="module")
def settings(tiny_fitted: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store of these tests' own, in which they screen batches of their own."""
    return fitted.copied(tiny_fitted, tmp_path_factory.mktemp("artifacts") / "store", shard_rows=8)


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A night in a folder of a hostile name, in which one file is cut short."""
    folder = tmp_path_factory.mktemp("images") / HOSTILE
    images.write_mixed_night(folder, 2, 8, 1)
    return folder


def screen_night(night: Path, settings: Settings, batch: str) -> NightOutcome:
    outcome = run(screen, Screen(images=str(night), batch=batch, date=DAY), settings)
    assert outcome.failed
    return outcome


def artifacts_of(key: str, batch: str) -> list[Any]:
    """Read the versions of an artifact that tell of a batch."""
    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        found = client.read_artifacts(artifact_filter=wanted)
    return [each for each in found if each.description.startswith(f"{batch}:")]


def events_of(batch: str) -> dict[str, Any]:
    """Events reach the server in their own time."""
    wanted = EventFilter(
        event=EventNameFilter(prefix=["slidewatch."]),
        resource=EventResourceFilter(id=[f"slidewatch.batch.{batch}"]),
    )
    for _ in range(100):
        with get_client(sync_client=True) as client:
            found = {event.event: event for event in client.read_events(wanted, limit=50).events}
        if {FAILED, ABNORMAL} <= found.keys():
            return found
        time.sleep(0.2)
    raise AssertionError(f"only {sorted(found)} came")


def test_prefect_shows_a_night_and_can_act_on_it(
    prefect_api: str, settings: Settings, night: Path
) -> None:
    settings = settings.model_copy(update={"pages_url": "https://lab.example/pages/"})
    outcome = screen_night(night, settings, "Night_1")
    (summary,) = artifacts_of(NIGHT, "Night_1")
    title, _, patients = summary.data.splitlines()[:3]
    assert title == f"# Night\\_1: {outcome.light}"
    calls = numbered(by_call(outcome.patients))
    assert patients == f"**{sum(outcome.patients.values())} patients: {calls}**"
    assert outcome.light in summary.description
    assert f"{outcome.images:,} of " in summary.data
    assert "damaged" in summary.data
    assert "<b>" not in summary.data
    rows = [line for line in summary.data.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3, 6}

    (page,) = artifacts_of(PAGE, "Night_1")
    assert page.data == "[Page of Night_1](https://lab.example/pages/Night_1.html)"

    events = events_of("Night_1")
    assert events[FAILED].payload["failed"] == 1
    assert events[ABNORMAL].payload["light"] == outcome.light
    assert events[ABNORMAL].resource["slidewatch.light"] == outcome.light
    assert events[FAILED].payload["report"] == outcome.report

    # What was published before is not announced again, unless a person has answered.
    assert screen_night(night, settings, "Night_1").repeated
    assert len(artifacts_of(NIGHT, "Night_1")) == 1
    store = Store(settings.store)
    images_read = read_table(store, *report_path("Night_1", DAY))["image_id"].drop_null()
    answers = BatchAnswers(
        store=store, batch=load_batch(store, "Night_1"), card=list_models(store)[-1]
    )
    answers.keep("Ada", dict.fromkeys(images_read.to_pylist(), "Uninfected"))
    show_answers("Night_1", settings)
    told = [each.data for each in artifacts_of(NIGHT, "Night_1")]
    assert ["; refused by Ada |" in each for each in sorted(told, key=len)] == [False, True]


def test_a_night_is_published_although_prefect_cannot_be_told(
    prefect_api: str,
    settings: Settings,
    night: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def down(*_: object, **__: object) -> None:
        raise ConnectionError("the API is down")

    monkeypatch.setattr(prefect.artifacts, "create_markdown_artifact", down)
    monkeypatch.setattr(prefect.events, "emit_event", down)
    settings = settings.model_copy(update={"pages_url": "https://lab.example/pages/"})
    with caplog.at_level(logging.WARNING, logger="prefect"):
        outcome = screen_night(night, settings, "night-without-prefect")
    assert Path(outcome.report).exists()
    warnings = [
        record.getMessage() for record in caplog.records if "did not record" in record.getMessage()
    ]
    assert len(warnings) == 2
    assert all("the API is down" in each for each in warnings)
    # One that fails does not take the others along.
    assert len(artifacts_of(PAGE, "night-without-prefect")) == 1


# --- without a server


class Told:
    """Stands for Prefect and remembers what it was told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        monkeypatch.setattr(artifacts, "current_run", object)
        for what in ("markdown", "link"):
            name = f"create_{what}_artifact"
            monkeypatch.setattr(prefect.artifacts, name, lambda *_, **__: None)
        monkeypatch.setattr(
            prefect.events, "emit_event", lambda name, **_: self.events.append(name)
        )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    return Told(monkeypatch)


@pytest.mark.parametrize(
    ("failed", "light", "events"),
    [
        (0, "green", []),
        (1, "green", [FAILED]),
        (0, "amber", [ABNORMAL]),
        (0, "red", [ABNORMAL]),
        (2, "red", [FAILED, ABNORMAL]),
    ],
)
def test_an_event_is_emitted_where_somebody_has_to_act(
    store: Store, told: Told, failed: int, light: str, events: list[str]
) -> None:
    batch = batches.freeze(store, batches.manifest(3), batch_date=DAY)
    announce(store, batch, batches.seal(3, failed), nights.summary_of(light=Light(light)), {})
    assert told.events == events


@given(st.text())
def test_no_text_breaks_a_table_or_becomes_markup(text: str) -> None:
    found = markdown_text(text)
    assert "\n" not in found
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*_\[\]]", found)
    assert "<" not in found


def test_the_summary_shows_the_likeliest_parasites_of_patients(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [dict.fromkeys(PATIENT_SCHEMA.names) | {"parasitized": 0} | each for each in (
        {"patient_id": "P|1", "call": "suspected", "cells_read": 900},
        {"slide_id": "s2", "call": "negative", "cells_read": 5000},
        {"slide_id": "s3", "call": "positive", "cells_read": 40},
    )]  # fmt: skip
    monkeypatch.setattr(artifacts.tables, "read_report", lambda *_: pa.Table.from_pylist(rows))
    monkeypatch.setattr(artifacts.tables, "find_report", lambda *_: pa.table({}))
    night = nights.summary_of(patient_calls={"suspected": 1, "negative": 1, "positive": 1})
    pictures = {(None, "P|1"): [b"cell"] * 9, ("s2", None): [b"healthy"]}
    batch = batches.freeze(store, batches.manifest(3), batch_date=DAY)
    lines = artifacts._patients(store, batch, night, pictures)
    third, first = lines[-2:]
    assert third == "| s3 | positive |  |  | 40 |"
    cell = "![cell](data:image/webp;base64,Y2VsbA==)"
    assert first == f"| P\\|1 | suspected | {' '.join([cell] * 4)} |  | 900 |"
