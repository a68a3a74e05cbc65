"""Set the time limit of reads on workers."""

from typing import Any

from distributed import WorkerPlugin

from tasks.images.access.patience import wait_at_most


class ReadLimit(WorkerPlugin):
    """A plugin that sets the time limit of reads on workers, even those that join later."""

    name = "read-limit"

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def setup(self, worker: Any) -> None:
        """Set the limit in the worker's process."""
        wait_at_most(self._seconds)
