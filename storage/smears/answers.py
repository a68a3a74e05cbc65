"""Keep persons' answers on a batch's cells, and the labels that they make.

Readers' answers are under ``answers/<batch and attempt>/``; those of earlier attempts count too, on
cells that are outlined again. ``sample.json`` lists the cells, chosen once for all readers. Each
answer is a file of its own, ``<number>-<random>.json``, written at once and never changed: a reader
who changes her mind adds another. The number is higher than all earlier ones, so answers keep their
order whichever server wrote them and whatever its clock says.

Imported answers are labels, ``labels/<batch>/<n>.parquet``. Every import writes a new file, once:
all imported answers on the batch up to then, one row per image. So the newest file is the current
state, the older ones are its history, and each is a manifest that can be fitted.
"""

import re
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import pyarrow as pa
from pydantic import Field

from storage import parquet, records
from storage.batches.manifests import Sources, key_of, load_batch
from storage.models.statistics import latest_statistics
from storage.store import Store, StoreError, digest_of

OnDamage = Callable[[str, StoreError], None]
FOLDER, SAMPLE, LABELS = "answers", "sample.json", "labels"
ANSWERED = "slidewatch.answered"  # in a manifest: the batch on whose cells its labels are answers
SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("label", pa.string()),  # the answer if it is a class to be fitted, else null
        ("slide_id", pa.string()),
        ("patient_id", pa.string()),
        ("acquired_at", pa.timestamp("us")),
        ("answer", pa.string()),
        ("note", pa.string()),
        ("reader", pa.string()),
        ("answered_at", pa.timestamp("us", "UTC")),
        # The place of a region, as in its batch's manifest; null for a whole file.
        *((name, pa.string()) for name in ("source_uri", "source_id", "source_stamp")),
        *((name, pa.int64()) for name in ("x", "y", "width", "height")),
        ("level", pa.int8()),
        ("scale", pa.float64()),
        ("outline", pa.list_(pa.float32())),
        ("failure", pa.string()),
    ]
)


class Stratum(records.Entry):
    """The number of a batch's cells with one diagnosis that were flagged, or were not."""

    flagged: bool
    diagnosis: str
    cells: int


class KeptSample(records.Record):
    """The cells that readers see, by digest, and the number of cells of each kind."""

    image_ids: list[str]
    strata: list[Stratum]


class Answer(records.Record):
    """A reader's answer on an image; None takes back the reader's last one on it.

    ``seconds`` is how long the reader looked.
    """

    reader: str
    image_id: str
    answer: str | None
    at: datetime
    seconds: float = Field(ge=0, allow_inf_nan=False)


def find_sample(store: Store, batch: str) -> KeptSample | None:
    """Load the sample of a batch and attempt; None if nobody has read it yet."""
    return KeptSample.find(store, FOLDER, batch, SAMPLE)


def keep_sample(store: Store, batch: str, sample: KeptSample) -> KeptSample:
    """Keep a sample and return it, or return the one that another server kept meanwhile."""
    return sample.kept(store, FOLDER, batch, SAMPLE)


def add_answer(
    store: Store, batch: str, answer: Answer, number: int, *, named: bool = False
) -> str:
    """Write an answer under a number from `next_number`, and return its file name.

    The name is random, or ``named`` after the answer, as when a sheet is imported again.
    """
    words = f"{answer.reader}\n{answer.image_id}\n{answer.answer}"
    name = f"{number:08d}-{(digest_of(words.encode()) if named else uuid4().hex)[:12]}.json"
    answer.write(store, FOLDER, batch, name, once=True)
    return name


def next_number(store: Store, batch: str) -> int:
    """Return a number above those of all answers on a batch, from any server."""
    return max(map(_number, _files(store, batch)), default=-1) + 1


def in_order(answers: Mapping[str, Answer]) -> list[Answer]:
    """Sort answers, by their file names, in the order in which they were given.

    Two servers may use the same number at the same moment; then their clocks decide.
    """
    names = sorted(answers, key=lambda name: (_number(name), answers[name].at, name))
    return [answers[name] for name in names]


def read_answers(
    store: Store,
    batch: str,
    known: Container[str] = (),
    on_damage: OnDamage | None = None,
) -> Iterator[tuple[str, Answer]]:
    """Read the answers on a batch, except those in known files.

    ``on_damage`` is called with the name of each damaged file and the error; without it the error
    is raised.
    """
    for name, key in _files(store, batch).items():
        if name in known:
            continue
        try:
            yield name, Answer.read(store, FOLDER, key, name)
        except records.NewerError:
            raise
        except StoreError as error:
            if on_damage is None:
                raise
            on_damage(name, error)


def copy_answers(store: Store, key: str, source: str, on_damage: OnDamage) -> None:
    """Count the answers on a batch, the ``source``, on the same cells of another one."""
    for name, answer in read_answers(store, source, _files(store, key), on_damage):
        answer.write(store, FOLDER, key, name, once=True)


def digest_of_answers(store: Store, batch: str) -> str | None:
    """Return a digest that changes with every answer on a batch; None where there are none."""
    names = _files(store, batch)
    return digest_of(" ".join(sorted(names)).encode()) if names else None


def verify_answers(store: Store, batch: str, name: str) -> None:
    """Read one file of the answers on a batch; StoreError if it is damaged."""
    if name == SAMPLE:
        KeptSample.read(store, FOLDER, batch, SAMPLE)
    elif name.endswith(".json"):
        Answer.read(store, FOLDER, batch, name)


def _files(store: Store, batch: str) -> dict[str, str]:
    batch, _, attempt = batch.partition("~")
    keys = [key_of(batch, each) for each in range(1, int(attempt or 1) + 1)]
    names = ((name, key) for key in keys for name in store.names(FOLDER, key))
    return {name: key for name, key in names if name.endswith(".json") and name != SAMPLE}


def _number(name: str) -> int:
    digits = re.match(r"\d+", name)
    return int(digits[0]) if digits else 0


@dataclass(frozen=True)
class Labels:
    """The imported answers on a batch after its n-th import: a table of `SCHEMA`."""

    batch: str
    number: int
    rows: pa.Table

    @property
    def path(self) -> tuple[str, ...]:
        """Locate the table, relative to the store."""
        return (LABELS, self.batch, f"{self.number:04d}.parquet")


def latest_labels(store: Store, batch: str) -> Labels:
    """Load the newest labels of a batch; number 0, without rows, before the first import."""
    names = [name for name in store.names(LABELS, batch) if name.endswith(".parquet")]
    if not names:
        return Labels(batch, 0, SCHEMA.empty_table())
    number = int(names[-1].removesuffix(".parquet"))
    return Labels(batch, number, parquet.read_table(store, LABELS, batch, names[-1]))


def other_labels(store: Store, batch: str) -> Iterator[Labels]:
    """Load the newest labels of every other batch."""
    for name in store.names(LABELS):
        if name != batch:
            yield latest_labels(store, name)


def save_labels(store: Store, labels: Labels) -> None:
    """Write labels; StoreError if another run has imported answers meanwhile."""
    with records.once(
        f"answers on batch {labels.batch} were imported by another run meanwhile: run the command "
        "again, and it will build on them"
    ):
        parquet.write_table(store, labels.rows.cast(SCHEMA), *labels.path, once=True)


def verify_labels(store: Store, *path: str) -> None:
    """Read a whole table of labels; StoreError if it is damaged.

    Names of columns are checked too: they are in the footer, which has no checksum.
    """
    schema = parquet.read_table(store, *path).schema
    other = [each.name for each in schema if each.name not in SCHEMA.names]
    if other or not {"image_id", "answer"} <= set(schema.names):
        raise StoreError("its columns are not those of labels: restore it from a backup")


def labelled_batch(store: Store, images: Sources) -> str | None:
    """Return the batch whose labels are this source of images; None for any other source."""
    if not isinstance(images, str) or not images.endswith(".parquet"):
        return None
    root, folder = Store(images).root, f"{store.path(LABELS)}/"
    batch, _, name = root.removeprefix(folder).partition("/")
    return batch if root.startswith(folder) and name and "/" not in name else None


def fitted_from(store: Store, model: str, night: str) -> list[str]:
    """List the fitted batches that were made from the labels of a night."""
    latest = latest_statistics(store, model)
    return [
        each.batch
        for each in (latest.contributions if latest else [])
        if labelled_batch(store, load_batch(store, each.batch, each.attempt).images) == night
    ]
