"""Look at a store as commands do that may meet damage in it, and say what each of them says."""

import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from flows.commands.status import verify
from flows.options.flows import Retract, Screen
from flows.options.tools import Verify
from flows.retract import retract
from flows.settings import Settings
from flows.smears.night import screen
from storage.kinds import tables
from storage.reports.sql import answer
from storage.store import Store
from tests.support.faults.runs import files_of

# What people and later commands read of what the commands make.
MADE = ("reports/", "statistics/tiny/v0002/", "detectors/tiny-v0002/")
NOT_FOR_EVER = {"seconds", "repeated"}


def examine(settings: Settings, night: str, later: str, whole: dict[str, str]) -> dict[str, str]:
    """Verify, query, screen a night again and a later one, retract: what each says or makes.

    Args:
        settings: of the store.
        night: images of the batch ``night``, which is published.
        later: images of a batch that is not.
        whole: digests of the store's files before one of them was damaged.

    Returns:
        By command, ``error: ...``, or a digest of all that it has told and made.
    """
    commands: dict[str, Callable[[], Any]] = {
        "verify": lambda: verify(Verify(), settings).damaged,
        "query": lambda: {name: _rows(settings, name) for name in tables()},
        "screen again": lambda: _told(screen.fn(Screen(images=night, batch="night"), settings)),
        "screen": lambda: _told(screen.fn(Screen(images=later, batch="later"), settings)),
        "retract": lambda: _told(retract.fn(Retract(patient="C120P20"), settings)),
    }
    found, damaged = {}, files_of(settings.store)
    for name, command in commands.items():
        try:
            told = command()
        except Exception as error:
            found[name] = f"error: {type(error).__name__}: {error}"
            continue
        if name == "verify":
            found[name] = "; ".join(told)
            continue
        # That a file stays damaged, or is made whole again, is no difference.
        made = {
            path: digest
            for path, digest in files_of(settings.store).items()
            if path.startswith(MADE) and digest not in (damaged.get(path), whole.get(path))
        }
        content = json.dumps([told, made], sort_keys=True, default=str)
        found[name] = sha256(content.encode()).hexdigest()
    return found


def _told(outcome: Any) -> dict[str, Any]:
    return {k: v for k, v in outcome.model_dump(mode="json").items() if k not in NOT_FOR_EVER}


def _rows(settings: Settings, name: str) -> list[dict[str, Any]]:
    with answer(Store(settings.store), f"select * from {name} order by all") as reader:
        return list(reader.read_all().to_pylist())
