"""Metrics of nights: what they say, that they arrive, and that no night depends on it."""

import re
import shutil
import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from flows import nightly as nightly_module
from flows.fit import fit
from flows.monitoring import prometheus as module
from flows.monitoring.prometheus import NightMetrics, series_of, written
from flows.options.flows import Fit, Nightly
from flows.settings import Settings
from flows.smears.night import nightly
from storage.models.detectors import list_detectors
from storage.reports.tables import BATCHES, report_path
from storage.smears.schemas.batches import BATCH_SCHEMA
from storage.store import Store
from tests.support.reports import publish_report
from tests.support.waiting import until

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Samples:
    """Samples by name and labels; the series is left out."""
    return {
        (
            sample.name.removeprefix("slidewatch_"),
            tuple(sorted((k, v) for k, v in sample.labels.items() if k != "series")),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def samples_of(metrics: NightMetrics) -> Samples:
    return parse(generate_latest(metrics.registry).decode())


def publish_night(store: Store, batch: str, day: date, **values: Any) -> None:
    """Publish a row in the history of nights."""
    row = {"images": 0, "scored": 0, "failures": [], "abnormal": 0, "review": 0, "light": "red"}
    row |= {"files": 0, "files_failed": 0}
    rows = pa.Table.from_pylist([row | values], BATCH_SCHEMA)
    publish_report(store, report_path(batch, day, BATCHES), BATCH_SCHEMA, [rows])


# --- what the store knows


def test_the_last_good_night_is_told_by_the_store_after_nights_that_were_not(store: Store) -> None:
    failures = [("damaged", 1)]
    good = {"images": 10, "scored": 9, "failures": failures, "abnormal": 3, "review": 4}
    good |= {"files": 3, "files_failed": 1}
    publish_night(store, "night-2026-03-01", date(2026, 3, 1), **good, light="amber")
    before = time.time()
    metrics = NightMetrics("night")
    metrics.read(store)
    found = samples_of(metrics)
    published_at = found["last_success_timestamp_seconds", ()]
    assert before - 60 < published_at < before + 60
    assert found["night_images", (("status", "scored"),)] == 9
    assert found["night_images", (("status", "failed"),)] == 1
    assert found["night_failures", (("reason", "damaged"),)] == 1
    assert found["night_files", (("status", "failed"),)] == 1
    assert found["night_abnormal_images", ()] == 3
    assert found["night_review_images", ()] == 4
    assert found["night_light", ()] == 1
    for day in (2, 3):
        publish_night(store, f"night-2026-03-0{day}", date(2026, 3, day))
    publish_night(store, "other-2026-03-04", date(2026, 3, 4), **good)
    metrics.read(store)
    found = samples_of(metrics)
    assert found["last_success_timestamp_seconds", ()] == published_at
    assert found["night_images", (("status", "scored"),)] == 0
    # What happened in an earlier night has not happened in this one.
    assert found["night_failures", (("reason", "damaged"),)] == 0
    assert found["night_light", ()] == 2


def test_a_store_without_a_night_says_never_and_nothing_of_a_night(store: Store) -> None:
    metrics = NightMetrics("night")
    metrics.read(store)
    found = samples_of(metrics)
    assert found["last_success_timestamp_seconds", ()] == 0
    assert found["last_run_success", ()] == 0
    assert not {name for name, _ in found} & {"night_light", "detector_created_timestamp_seconds"}


def test_no_label_grows_with_the_nights(store: Store) -> None:
    for day in range(1, 20):
        publish_night(store, f"night-2026-03-{day:02}", date(2026, 3, day), scored=day)
        publish_night(store, f"ward-{day}", date(2026, 3, day), scored=day)
    metrics = NightMetrics(series_of("ward-3"))
    metrics.read(store)
    assert samples_of(metrics)["night_images", (("status", "scored"),)] == 19
    text = generate_latest(metrics.registry).decode()
    assert set(re.findall(r'(\w+)="', text)) == {"series", "status"}
    assert set(re.findall(r'series="([^"]*)"', text)) == {""}


# --- how they get there


def test_a_file_is_there_from_the_beginning_and_whole_at_any_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WRITE_EVERY", 0.01)
    file, metrics = tmp_path / "night.prom", NightMetrics("night")
    with written(metrics, str(file)):
        assert parse(file.read_text())["run_in_progress", ()] == 1
        for number in range(1, 30):
            metrics.images("scored").inc()
            assert parse(file.read_text())["images_total", (("status", "scored"),)] <= number
        until(lambda: parse(file.read_text())["images_total", (("status", "scored"),)] == 29)
        metrics.end(succeeded=True)
    found = parse(file.read_text())
    assert found["run_in_progress", ()] == 0
    assert found["last_run_success", ()] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["night.prom"]


def test_where_metrics_cannot_be_written_it_is_said_once_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "WRITE_EVERY", 0.01)
    with written(NightMetrics("night"), str(tmp_path / "none" / "night.prom")):
        time.sleep(0.1)
    assert capsys.readouterr().err.count("metrics cannot be written to") == 1


# --- nights


@pytest.fixture
def night(
    scheduler: str, store_with_model: Store, cells: Path, tmp_path: Path
) -> tuple[Settings, Path, Path]:
    """Settings with a detector, an inbox in which one file is cut short, and where metrics go."""
    file, inbox = tmp_path / "night.prom", tmp_path / "inbox"
    settings = Settings(
        store=store_with_model.url,
        cluster="scheduler",
        scheduler=scheduler,
        shard_rows=8,
        metrics=str(file),
    )
    fit.fn(Fit(images=str(cells), batch="first"), settings)
    assert not file.exists()  # metrics are of nights
    shutil.copytree(cells, inbox)
    cut = min(inbox.rglob("*.png"))
    cut.write_bytes(cut.read_bytes()[:100])
    return settings, inbox, file


def test_a_night_with_a_bad_image_and_one_that_fails_after_it(
    night: tuple[Settings, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, inbox, file = night

    def run_at(day: int) -> None:
        moment = datetime(2026, 3, day, 12, tzinfo=UTC)
        monkeypatch.setattr(nightly_module, "scheduled_start", lambda: moment)
        monkeypatch.setattr(nightly_module, "now", lambda: moment)
        nightly.fn(Nightly(inbox=str(inbox), settle=0), settings)

    before = time.time()
    run_at(1)
    found = parse(file.read_text())
    assert found["images_total", (("status", "scored"),)] == 23
    assert found["images_total", (("status", "failed"),)] == 1
    assert found["failures_total", (("reason", "damaged"),)] == 1
    assert found["shard_seconds_count", ()] == 3
    stages = {dict(labels)["stage"] for name, labels in found if name == "stage_seconds_count"}
    assert stages == {"take", "recognise", "freeze", "extract", "score", "publish", "call", "page"}
    assert found["night_images", (("status", "scored"),)] == 23
    assert found["last_run_success", ()] == 1
    assert found["run_in_progress", ()] == 0
    published_at = found["last_success_timestamp_seconds", ()]
    assert before <= published_at <= time.time()
    (detector,) = list_detectors(Store(settings.store))
    made = found["detector_created_timestamp_seconds", ()]
    assert made == detector.created_at.timestamp()

    inbox.rename(inbox.with_name("unmounted"))
    with pytest.raises(Exception, match="is the folder mounted"):
        run_at(2)
    found = parse(file.read_text())
    assert found["last_run_success", ()] == 0
    assert found["run_in_progress", ()] == 0
    assert found["last_success_timestamp_seconds", ()] == published_at
    assert found["night_images", (("status", "scored"),)] == 23
