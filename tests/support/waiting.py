"""Wait for what another thread, process or server does."""

import time
from collections.abc import Callable
from typing import Any


def until(
    there: Callable[[], Any],
    seconds: float = 30,
    pause: float = 0.01,
    told: Callable[[], str] = str,
) -> Any:
    """Return the first result that is true; ``told`` says more where there is none in time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := there():
            return found
        time.sleep(pause)
    raise AssertionError(f"it never came to that in {seconds:g} seconds {told()}")
