"""Keep the seals of calls: ``batches/<batch>/called/<screening>.json``."""

from storage.batches.manifests import Batch, attempts_at, load_batch_of_key
from storage.records import Record
from storage.store import Store

FOLDER = "called"


class CallSeal(Record):
    """The record that slides, patients and night of a sealed report on images were judged.

    ``report_digest`` is that of the report on images; ``digests`` are those of the reports made
    from it, by kind.
    """

    report_digest: str
    digests: dict[str, str]


def read_call_seal(store: Store, batch: Batch, key: str) -> CallSeal | None:
    """Read the seal of the calls on a screening; None if there are none yet."""
    return CallSeal.find(store, "batches", batch.key, FOLDER, f"{key}.json")


def called(store: Store, key: str) -> list[str]:
    """List the screenings of an attempt at a batch whose calls are sealed."""
    return [name.removesuffix(".json") for name in store.names("batches", key, FOLDER)]


def call_seals_of(store: Store, name: str) -> list[CallSeal]:
    """List the seals of the calls on all attempts at a batch."""
    batches = [load_batch_of_key(store, key) for key in attempts_at(store, name)]
    found = (
        read_call_seal(store, batch, key) for batch in batches for key in called(store, batch.key)
    )
    return [seal for seal in found if seal]


def write_call_seal(store: Store, batch: Batch, key: str, seal: CallSeal) -> None:
    """Write the seal that declares the calls on a screening published."""
    seal.write(store, "batches", batch.key, FOLDER, f"{key}.json")
