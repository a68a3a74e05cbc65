"""Measure a run, and the store's last batches of its series, for Prometheus by node exporter."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from itertools import islice
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Summary,
    disable_created_metrics,
    write_to_textfile,
)
from prometheus_client.metrics import MetricWrapperBase

from flows.monitoring.console import warn
from flows.settings import Settings
from storage.models import classifiers, detectors
from storage.reports.tables import newest_batches
from storage.store import Store
from tasks.types import ImageStatus, Light

WRITE_EVERY = 15.0  # seconds: about as often as Prometheus asks
LOOK_BACK = 400  # nights among which the last good one is looked for
LIGHTS = {light: number for number, light in enumerate(Light)}
SHARD_SECONDS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600)

# The time at which a counter was made says nothing: they all begin with the run.
disable_created_metrics()


class NightMetrics:
    """The metrics of a run by its series; labels are few, as none is an image, a batch or a run."""

    def __init__(self, series: str) -> None:
        self.series = series
        self.registry = CollectorRegistry()
        self._reasons: set[str] = set()
        count, gauge = partial(self._make, Counter), partial(self._make, Gauge)
        # The progress of the run.
        self.images = count("images", "Images that this run is done with", "status")
        self.failures = count("failures", "Images that failed in this run", "reason")
        self.stage_seconds = self._make(Summary, "stage_seconds", "Time of a stage", "stage")
        self.shard_seconds = self._make(
            Histogram, "shard_seconds", "Time that a worker took for a shard", buckets=SHARD_SECONDS
        )
        # Its state, and its end.
        self.running = gauge("run_in_progress", "1 while a run works")
        self.succeeded = gauge("last_run_success", "1 if the last run ended in a report, else 0")
        self.updated = gauge("updated_timestamp_seconds", "When a run last told its metrics")
        # The knowledge of the store.
        self.last_success = gauge(
            "last_success_timestamp_seconds", "When the last night with scored images was published"
        )
        self.night_images = gauge("night_images", "Images of the last night", "status")
        self.night_files = gauge(
            "night_files", "Files of it; failed: without scored image", "status"
        )
        self.night_failures = gauge("night_failures", "Images of it that failed", "reason")
        self.night_abnormal = gauge("night_abnormal_images", "Images of it that are abnormal")
        self.night_review = gauge("night_review_images", "Images of it for review by a person")
        self.night_light = gauge("night_light", "Its light: 0 green, 1 amber, 2 red")
        self.model = gauge("model_created_timestamp_seconds", "When the newest model was made")
        self.detector = gauge("detector_created_timestamp_seconds", "When the newest detector was")
        # A rate needs a beginning, and a run has failed until it is known that it has not.
        self.images("scored"), self.images("failed")
        self.running().set(1)
        self.succeeded().set(0)
        self.last_success().set(0)

    def _make(
        self, kind: type[MetricWrapperBase], name: str, meaning: str, *labels: str, **more: Any
    ) -> Callable[..., Any]:
        """Make a metric of the series; call it with the values of its other labels to set it."""
        metric = kind(
            f"slidewatch_{name}", meaning, ["series", *labels], registry=self.registry, **more
        )
        return partial(metric.labels, self.series)

    def read(self, store: Store) -> None:
        """Set the metrics of the series' nights, the model and the detector from the store."""
        nights = newest_batches(
            store, lambda batch: series_of(batch) == self.series, on_damage=warn
        )
        for number, (night, published_at) in enumerate(islice(nights, LOOK_BACK)):
            if number == 0:
                self._show_night(night)
            if night["scored"]:
                self.last_success().set(published_at.timestamp())
                break
        if models := classifiers.list_models(store, on_damage=warn):
            self.model().set(models[-1].created_at.timestamp())
        if made := detectors.list_detectors(store, on_damage=warn):
            self.detector().set(made[-1].created_at.timestamp())

    def _show_night(self, night: Mapping[str, Any]) -> None:
        self.night_images(ImageStatus.SCORED).set(night["scored"])
        self.night_images(ImageStatus.FAILED).set(night["images"] - night["scored"])
        lost = night.get("files_failed", 0)  # a report of 0.14 does not say
        self.night_files(ImageStatus.SCORED).set(night.get("files", 0) - lost)
        self.night_files(ImageStatus.FAILED).set(lost)
        # A reason of the night before may not have happened in this one.
        failures = dict.fromkeys(self._reasons, 0) | night["failures"]
        self._reasons |= failures.keys()
        for reason, count in failures.items():
            self.night_failures(reason).set(count)
        self.night_abnormal().set(night["abnormal"])
        self.night_review().set(night["review"])
        self.night_light().set(LIGHTS[Light(night["light"])])

    def end(self, *, succeeded: bool) -> None:
        """Set the metrics that say how the run ended."""
        self.running().set(0)
        self.succeeded().set(int(succeeded))


def series_of(batch: str) -> str:
    """Find the series of nights that a batch belongs to: its name without the date at the end.

    Batches that are not called like nights are one series without a name, however many there are.

    >>> series_of("night-2026-03-01"), series_of("2026-03-01"), series_of("ward-7")
    ('night', '', '')
    """
    series, date = batch[:-10].removesuffix("-"), batch[-10:]
    is_date = [len(part) for part in date.split("-") if part.isdecimal()] == [4, 2, 2]
    return series if is_date else ""


@contextmanager
def measured(series: str, settings: Settings) -> Iterator[NightMetrics | None]:
    """Make and write the metrics of a batch during the block; None if none are wanted."""
    if settings.metrics is None:
        yield None
        return
    metrics = NightMetrics(series)

    def read() -> None:
        try:
            metrics.read(Store(settings.store))
        except Exception as error:  # the batch does not need its metrics
            warn(
                f"metrics of earlier batches cannot be read from {settings.store} "
                f"({type(error).__name__}: {error}); the work continues without them"
            )

    read()
    with written(metrics, settings.metrics):
        try:
            yield metrics
        finally:
            read()


@contextmanager
def written(metrics: NightMetrics, file: str) -> Iterator[None]:
    """Write metrics to a ``.prom`` file during the block; without it the work continues."""
    warned = False

    def write() -> None:
        nonlocal warned
        metrics.updated().set_to_current_time()
        try:
            write_to_textfile(file, metrics.registry)
        except OSError as error:
            if not warned:
                warn(
                    f"metrics cannot be written to {file} ({type(error).__name__}: {error}); the "
                    "work continues without them"
                )
            warned = True

    write()
    done = threading.Event()

    def now_and_then() -> None:
        while not done.wait(WRITE_EVERY):
            write()

    # In a copy of this context a warning belongs to the run, as any other.
    thread = threading.Thread(target=copy_context().run, args=(now_and_then,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        write()
