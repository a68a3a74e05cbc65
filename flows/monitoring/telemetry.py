"""Log a run's stages, shards and failed images, and keep its metrics."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import TypeVar

from flows.jobs.shard import ShardResult
from flows.jobs.worker import return_freed_memory
from flows.monitoring import console, logs, prometheus
from flows.options.flows import Options
from flows.outcome import Outcome
from flows.settings import Settings

Taken = TypeVar("Taken", bound=Options)
Result = TypeVar("Result", bound=Outcome)

# Words for a stage at a terminal.
DOING = {
    "take": "listing new files in the inbox",
    "recognise": "recognising the files",
    "survey": "finding the fields",
    "segment": "finding the cells",
    "freeze": "listing the images",
    "extract": "running the network",
    "score": "scoring",
    "publish": "writing the reports",
    "page": "making the page",
}
TO_PREFECT = 20  # failed images per shard that Prefect keeps a line of; standard error has all

_OBSERVED: ContextVar[bool] = ContextVar("observed", default=False)
_METRICS: ContextVar[prometheus.NightMetrics | None] = ContextVar("metrics", default=None)


def observed(
    *, night: bool = False
) -> Callable[[Callable[[Taken, Settings], Result]], Callable[[Taken, Settings], Result]]:
    """Decorate a flow's function to log as the settings say; a ``night`` has metrics, too."""

    def decorate(
        function: Callable[[Taken, Settings], Result],
    ) -> Callable[[Taken, Settings], Result]:
        @wraps(function)
        def run(options: Taken, settings: Settings) -> Result:
            batch = getattr(options, "batch", None)
            with logs.bind(batch=batch):
                if _OBSERVED.get():  # a flow called by another, which logs both
                    return function(options, settings)
                return_freed_memory()
                logs.use_logs(settings.logs)
                series = getattr(options, "series", None) or prometheus.series_of(batch or "")
                measuring = prometheus.measured(series, settings) if night else nullcontext()
                with (
                    logs.setting(_OBSERVED, True),
                    measuring as gauges,
                    logs.setting(_METRICS, gauges),
                ):
                    scored = 0
                    try:
                        outcome = function(options, settings)
                        scored = getattr(outcome, "scored", 0)
                    finally:
                        if gauges is not None:
                            # Another metric counts the images that failed.
                            gauges.end(succeeded=scored > 0)
                    level = logging.WARNING if outcome.failed else logging.INFO
                    logs.log(level, outcome.text(), outcome=outcome.model_dump(mode="json"))
                    return outcome

        return run

    return decorate


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Log when a stage begins and ends, and measure how long it takes."""
    begun, event = time.monotonic(), "end"
    logs.log(logging.INFO, f"{name}: begin", stage=name, event="begin")
    console.working(DOING.get(name, name))
    return_freed_memory()
    try:
        yield
    except BaseException:
        event = "cut off"
        raise
    finally:
        seconds = time.monotonic() - begun
        if metrics := _METRICS.get():
            metrics.stage_seconds(name).observe(seconds)
        text = f"{name}: {event} after {seconds:.1f} s"
        logs.log(logging.INFO, text, stage=name, event=event, seconds=round(seconds, 3))


def shard_done(result: ShardResult) -> None:
    """Log and count a complete shard, and each of its images that failed."""
    shard, failed = result.shard, len(result.failures)
    images = shard.stop - shard.start
    for number, failure in enumerate(result.failures):
        logs.log(
            logging.WARNING,
            f"{failure.uri} failed: {failure.reason}: {failure.message}",
            prefect=number < TO_PREFECT,
            shard=shard.number,
            row=shard.start + failure.row,
            uri=failure.uri,
            image_id=failure.image_id,
            reason=failure.reason,
        )
    logs.log(
        logging.INFO,
        f"shard {shard.number}: {images} images, {failed} failed, {result.seconds:.1f} s",
        shard=shard.number,
        images=images,
        failures=failed,
        reused=result.reused,
        tries=result.tries,
        seconds=round(result.seconds, 3),
        worker=result.worker,
    )
    if metrics := _METRICS.get():
        metrics.images("scored").inc(images - failed)
        metrics.images("failed").inc(failed)
        for failure in result.failures:
            metrics.failures(failure.reason).inc()
        metrics.shard_seconds().observe(result.seconds)
