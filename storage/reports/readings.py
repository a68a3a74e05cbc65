"""Keep readers' verdicts on a batch's cells, under ``readings/<batch and attempt>/``.

``sample.json`` lists the cells, chosen once for all readers. Each verdict is a file of its own,
``<number>-<random>.json``, written at once and never changed: a reader who changes her mind adds
another. So a crash loses nothing, and simultaneous readers do not disturb each other. The number is
higher than all earlier ones, so verdicts keep their order whichever server wrote them and whatever
its clock says.
"""

import re
from collections.abc import Callable, Container, Iterator, Mapping
from datetime import datetime
from uuid import uuid4

from pydantic import Field

from storage.records import Entry, NewerError, Record
from storage.store import AlreadyExistsError, Store, StoreError, digest_of

FOLDER, SAMPLE = "readings", "sample.json"


class Stratum(Entry):
    """The number of a batch's cells with one diagnosis that were flagged, or were not."""

    flagged: bool
    diagnosis: str
    cells: int


class ReadingSample(Record):
    """The cells that readers see, by digest, and the number of cells of each kind."""

    image_ids: list[str]
    strata: list[Stratum]


class Reading(Record):
    """A reader's verdict on an image; None takes back the reader's last one on it.

    ``seconds`` is how long the reader looked.
    """

    reader: str
    image_id: str
    verdict: str | None
    at: datetime
    seconds: float = Field(ge=0, allow_inf_nan=False)


def find_sample(store: Store, batch: str) -> ReadingSample | None:
    """Load the sample of a batch and attempt; None if nobody has read it yet."""
    if not store.exists(FOLDER, batch, SAMPLE):
        return None
    return ReadingSample.read(store, FOLDER, batch, SAMPLE)


def keep_sample(store: Store, batch: str, sample: ReadingSample) -> ReadingSample:
    """Keep a sample and return it, or return the one that another server kept meanwhile."""
    try:
        sample.write(store, FOLDER, batch, SAMPLE, once=True)
    except AlreadyExistsError:
        return ReadingSample.read(store, FOLDER, batch, SAMPLE)
    return sample


def add_reading(store: Store, batch: str, reading: Reading, number: int) -> str:
    """Write a reading under a number from `next_number`, and return its file name."""
    name = f"{number:08d}-{uuid4().hex[:12]}.json"
    reading.write(store, FOLDER, batch, name, once=True)
    return name


def next_number(store: Store, batch: str) -> int:
    """Return a number above those of all readings of a batch, from any server."""
    return max(map(_number, _files(store, batch)), default=-1) + 1


def in_order(readings: Mapping[str, Reading]) -> list[Reading]:
    """Sort readings, by their file names, in the order in which they were given.

    Two servers may use the same number at the same moment; then their clocks decide.
    """
    names = sorted(readings, key=lambda name: (_number(name), readings[name].at, name))
    return [readings[name] for name in names]


def read_readings(
    store: Store,
    batch: str,
    known: Container[str] = (),
    on_damage: Callable[[str, StoreError], None] | None = None,
) -> Iterator[tuple[str, Reading]]:
    """Read the readings of a batch, except those in known files.

    ``on_damage`` is called with the name of each damaged file and the error; without it the error
    is raised.
    """
    for name in _files(store, batch):
        if name in known:
            continue
        try:
            yield name, Reading.read(store, FOLDER, batch, name)
        except NewerError:
            raise
        except StoreError as error:
            if on_damage is None:
                raise
            on_damage(name, error)


def digest_of_readings(store: Store, batch: str) -> str | None:
    """Return a digest that changes with every reading of a batch; None where there are none."""
    names = _files(store, batch)
    return digest_of(" ".join(sorted(names)).encode()) if names else None


def read_reading_file(store: Store, batch: str, name: str) -> None:
    """Read one file of the readings of a batch; StoreError if it is damaged."""
    if name == SAMPLE:
        ReadingSample.read(store, FOLDER, batch, SAMPLE)
    elif name.endswith(".json"):
        Reading.read(store, FOLDER, batch, name)


def _files(store: Store, batch: str) -> list[str]:
    names = store.names(FOLDER, batch)
    return [name for name in names if name.endswith(".json") and name != SAMPLE]


def _number(name: str) -> int:
    found = re.match(r"\d+", name)
    return int(found[0]) if found else 0
