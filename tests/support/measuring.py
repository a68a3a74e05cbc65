"""A clock for benchmarks that is fair to all, and the type of what tells a figure."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

QUICK = os.environ.get("SLIDEWATCH_BENCH_QUICK") == "1"


class Record(Protocol):
    """See `record`."""

    def __call__(
        self,
        name: str,
        unit: str,
        *,
        ours: Sequence[float],
        rival: Sequence[float] | None = None,
        limit: float | None = None,
        higher_is_better: bool = False,
    ) -> dict[str, Any]: ...


def in_turn(rounds: int, runs: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """The seconds that every run takes, A B C A B C: what else the machine does is unfair to none.

    A run that returns a float has measured itself, and that is what counts.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            own = run()
            seconds = time.perf_counter() - started
            taken[name].append(own if isinstance(own, float) else seconds)
    return taken
