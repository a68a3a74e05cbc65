"""Set the Prefect state of a batch: Completed, with its light; Failed if it is lost.

A batch with a published report is Completed. Its state is called ``Amber`` or ``Red`` where its
light is that, and its message begins with the patients. It is Failed if nothing could be scored, or
a share of `FAILED_RED` of its images failed.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from flows.monitoring.prefect_runs import in_prefect_run
from flows.outcome import printable
from tasks.counting.call import Call
from tasks.images.access.addresses import redact
from tasks.reports.night.light import FAILED_RED
from tasks.types import Light
from tasks.words import counted

# Calls of patients, the most urgent first.
CALLS = (Call.POSITIVE, Call.INDETERMINATE, Call.NEGATIVE, Call.UNREADABLE)
OURS = ("flows.", "tasks.", "storage.")  # modules whose errors are one clear sentence


class NightOutcome(Protocol):
    """The outcome of a batch, as far as its state shows it."""

    light: str
    reasons: list[str]
    images: int
    scored: int
    failures: dict[str, int]
    patients: dict[str, int]


def ended(night: Any, least: Light = Light.GREEN) -> Any:
    """Return the outcome of a published batch; for Prefect, in a state named after its light."""
    if not in_prefect_run():
        return night
    from prefect.states import Completed

    return Completed(name=_name(least, night), message=told(night), data=night)


def ended_by(error: Exception) -> Any:
    """Return the outcome of a published batch that an error carries, as `ended` does.

    For Prefect an error of ours that lost the batch is a state; any other is raised again.
    """
    night: NightOutcome | None = getattr(error, "outcome", None)
    if night is not None and not is_lost(night):
        return ended(night, Light.AMBER)
    if in_prefect_run() and type(error).__module__.startswith(OURS):
        from prefect.states import Failed

        # The message says what is wrong; a traceback through our code helps nobody.
        return Failed(message=printable(redact(str(error))), data=error)
    raise error


def is_lost(night: NightOutcome) -> bool:
    """Return whether a batch is lost because too many of its images failed."""
    return not night.scored or 1 - night.scored / night.images >= FAILED_RED


def told(night: NightOutcome) -> str:
    """Write what a person asks first about a batch: patients, images and light."""
    failed = night.images - night.scored
    parts = [f"patients: {by_name(by_call(night.patients))}"] if night.patients else []
    parts.append(counted(night.images, "image"))
    if failed:
        parts[-1] += f", of which {failed:,} failed ({by_name(night.failures)})"
    reasons = f"; {night.light}: {'; '.join(night.reasons)}" if night.reasons else ""
    return printable(redact("; ".join(parts) + reasons))


def by_call(patients: Mapping[str, int]) -> dict[str, int]:
    """Sort the counts of patients, the most urgent call first.

    >>> by_call({"negative": 9, "positive": 2})
    {'positive': 2, 'negative': 9}
    """
    return {call.value: patients[call] for call in CALLS if call in patients}


def by_name(counts: Mapping[str, int]) -> str:
    """Write counts by name.

    >>> by_name({"positive": 2, "negative": 1200})
    '2 positive, 1,200 negative'
    """
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def _name(least: Light, night: NightOutcome) -> str | None:
    """Name a state after the light, which is at least one; None is Prefect's own Completed."""
    lights = list(Light)
    light = max(least, Light(night.light), key=lights.index)
    return None if light is Light.GREEN else light.value.capitalize()
