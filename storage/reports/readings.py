"""Keep what readers say of a batch's cells, under ``readings/<batch and attempt>/``.

``sample.json`` lists the cells, chosen once for all readers. Beside it is a file for each verdict,
``<number>-<random>.json``, written when it is said and never again: whoever changes her mind adds
another. So nothing is lost by a crash, and readers at once do not disturb each other.
"""

from collections.abc import Container, Iterator
from datetime import datetime
from uuid import uuid4

from storage.records import Part, Record
from storage.store import AlreadyExistsError, Store

FOLDER, SAMPLE = "readings", "sample.json"


class Stratum(Part):
    """Count the cells of a batch that were flagged or not, by diagnosis."""

    flagged: bool
    diagnosis: str
    cells: int


class ReadingSample(Record):
    """The cells that readers look at, by digest, and how many cells of their kinds there are."""

    image_ids: list[str]
    strata: list[Stratum]


class Reading(Record):
    """A verdict of a reader on an image; None takes back that reader's last one on it.

    ``seconds`` is how long the reader looked. ``act`` is the same in verdicts that were said at
    once on several images, and None in one that stands alone.
    """

    reader: str
    image_id: str
    verdict: str | None
    at: datetime
    seconds: float
    act: str | None = None


def find_sample(store: Store, batch: str) -> ReadingSample | None:
    """Load the sample of a batch and attempt; None where nobody has read it."""
    if not store.exists(FOLDER, batch, SAMPLE):
        return None
    return ReadingSample.read(store, FOLDER, batch, SAMPLE)


def keep_sample(store: Store, batch: str, sample: ReadingSample) -> ReadingSample:
    """Keep a sample, and return it, or the one that another server has kept meanwhile."""
    try:
        sample.write(store, FOLDER, batch, SAMPLE, once=True)
    except AlreadyExistsError:
        return ReadingSample.read(store, FOLDER, batch, SAMPLE)
    return sample


def add_reading(store: Store, batch: str, reading: Reading, number: int) -> str:
    """Write a reading, and return the name of its file.

    ``number`` is how many the writer knows, so that its own follow each other in any clock.
    """
    name = f"{number:08d}-{uuid4().hex[:12]}.json"
    reading.write(store, FOLDER, batch, name, once=True)
    return name


def read_readings(
    store: Store, batch: str, known: Container[str] = ()
) -> Iterator[tuple[str, Reading]]:
    """Read the readings of a batch but those whose files are known, in order."""
    for name in store.names(FOLDER, batch):
        if name.endswith(".json") and name != SAMPLE and name not in known:
            yield name, Reading.read(store, FOLDER, batch, name)
