"""Set the Prefect state of a batch, by its light; Failed if the batch is lost.

A batch with a published report is Completed, and its state is called ``Amber`` where its light is.
A red one is published too, but its state, called ``Red``, is of the type FAILED: Prefect shows any
other end with a green tick. The message begins with the patients. A batch is Failed if nothing
could be scored, or a share of `FAILED_RED` of its images failed.
"""

from typing import Any, Protocol, runtime_checkable

from flows.outcome import numbered, printable
from tasks import words
from tasks.images.access.addresses import redact
from tasks.limits import FAILED_RED
from tasks.types import Light

OURS = ("flows.", "tasks.", "storage.")  # modules whose errors are one clear sentence


class IncompleteError(Exception):
    """Results are kept, but too many images failed, or a step after the report did."""


class RedError(Exception):
    """The results of a batch are published, but should not be used before a person has looked."""


@runtime_checkable
class EndedNight(Protocol):
    """The outcome of a batch, as far as its state shows it."""

    light: str
    reasons: list[str]
    images: int
    scored: int
    failures: dict[str, int]
    patients: dict[str, int]
    failed: bool
    problem: str


def end_state(outcome: Any) -> Any:
    """Return the Prefect state of a batch, by its light, or of a problem; else the outcome."""
    from prefect.states import Completed, Failed

    if not isinstance(outcome, EndedNight) or is_lost(outcome):
        problem = printable(redact(outcome.problem))
        return Failed(message=problem, data=IncompleteError(problem)) if problem else outcome
    lights = list(Light)
    least = Light.AMBER if outcome.failed else Light.GREEN
    light = max(least, Light(outcome.light), key=lights.index)
    name, message = light.value.capitalize(), told(outcome)
    if light is Light.RED:
        return Failed(name=name, message=message, data=RedError(message))
    return Completed(name=None if light is Light.GREEN else name, message=message, data=outcome)


def error_state(error: BaseException) -> Any:
    """Return the Prefect state, without a traceback, of an error of ours; raise others again."""
    if not type(error).__module__.startswith(OURS):
        raise error
    from prefect.states import Failed

    return Failed(message=printable(redact(str(error))), data=error)


def is_lost(night: EndedNight) -> bool:
    """Return whether a batch is lost because too many of its images failed."""
    return not night.scored or 1 - night.scored / night.images >= FAILED_RED


def told(night: EndedNight) -> str:
    """Write what a person asks first about a batch: patients, images and light."""
    failed = night.images - night.scored
    parts = [f"patients: {numbered(night.patients)}"] if night.patients else []
    parts.append(words.counted(night.images, "image"))
    if failed:
        parts[-1] += f", of which {failed:,} failed ({numbered(night.failures)})"
    reasons = f"; {night.light}: {'; '.join(night.reasons)}" if night.reasons else ""
    return printable(redact("; ".join(parts) + reasons))
