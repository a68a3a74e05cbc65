"""Show the progress of a batch in Prefect; if Prefect cannot be reached, the work continues."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

from flows.monitoring import logs
from flows.prefect.runs import in_prefect_run

PROGRESS = "slidewatch-progress"  # key of the artifact
UPDATE_EVERY = 15.0  # seconds: spare the server, however short shards are


@contextmanager
def progress_artifact(batch: str, total: int) -> Iterator["NightProgress"]:
    """Show a batch's progress in Prefect during the block, and 100% when it ends well."""
    progress = NightProgress(batch, total)
    yield progress
    progress.update(total, last=True)


class NightProgress:
    """The progress of a batch, sent to Prefect at intervals until sending fails."""

    def __init__(self, batch: str, total: int) -> None:
        self._total, self._told = total, time.monotonic()
        self._artifact: UUID | None = None
        if not in_prefect_run():
            return
        from prefect.artifacts import create_progress_artifact

        with or_warn("the progress"):
            made = create_progress_artifact(
                0.0, key=PROGRESS, description=f"{batch}: how much of it is done"
            )
            # Its type says that a coroutine would get a coroutine.
            self._artifact = cast(UUID, made)

    def update(self, done: int, *, last: bool = False) -> None:
        """Send Prefect the number of finished shards, at most every `UPDATE_EVERY` seconds."""
        if self._artifact is None or not (last or time.monotonic() - self._told > UPDATE_EVERY):
            return
        from prefect.artifacts import update_progress_artifact

        artifact, self._artifact = self._artifact, None
        with or_warn("the progress"):
            # A batch without images has no shards, and is done.
            share = done / self._total if self._total else 1.0
            update_progress_artifact(artifact, 100.0 * share)
            self._artifact = artifact
        self._told = time.monotonic()


@contextmanager
def or_warn(what: str, errors: list[Exception] | None = None) -> Iterator[None]:
    """Warn that Prefect did not record something if the block fails; add the error to a list."""
    try:
        yield
    except Exception as error:  # the batch does not need Prefect
        if errors is not None:
            errors.append(error)
        logs.log(
            logging.WARNING,
            f"Prefect did not record {what} ({type(error).__name__}: {error}); the work continues "
            "without it",
        )
