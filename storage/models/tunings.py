"""Keep tunings (`tasks.network.tuning`): ``tunings/<model>/<digest>.safetensors``, written once.

``batches/<batch>/tunings/<model>.json`` says which one a batch was begun with, or why it has none,
so that all its features are of one network. A learned detector has one on its card.
"""

from storage import records
from storage.batches import ledger
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard
from storage.store import Store, digest_of

FOLDER = "tunings"


class BatchTuning(records.Record):
    """The tuning of a batch or detector, by its digest, or None; ``why`` tells a person."""

    tuning: str | None
    why: str


def path_of(model: str, digest: str) -> tuple[str, ...]:
    """Return the file of a tuning, relative to the store."""
    return (FOLDER, model, f"{digest}.safetensors")


def save_tuning(store: Store, model: str, content: bytes) -> str:
    """Write a tuning of a model, and return its digest."""
    digest = digest_of(content)
    path = path_of(model, digest)
    if not store.exists(*path):
        store.write_bytes(content, *path)
    return digest


def load_tuning(store: Store, model: str, digest: str) -> records.Arrays:
    """Load a tuning and verify its digest."""
    path = path_of(model, digest)
    what = f"a tuning of model {model}"
    return records.arrays_from_bytes(records.read_verified(store, path, digest, what))


def begin_with(store: Store, batch: Batch, model: str, tuning: BatchTuning) -> BatchTuning:
    """Return the tuning with which a batch was begun, set by the first call."""
    return tuning.kept(store, "batches", batch.key, FOLDER, f"{model}.json")


def tuning_of(store: Store, batch: Batch, model: str) -> BatchTuning | None:
    """Return the tuning of a batch; None if it was not begun yet."""
    known = BatchTuning.find(store, "batches", batch.key, FOLDER, f"{model}.json")
    if known is None and ledger.complete_shards(store, batch, model):
        return BatchTuning(tuning=None, why="its features were made without")
    return known


def as_begun(store: Store, batch: Batch, card: ModelCard) -> ModelCard:
    """Return a model's card with the tuning of a batch."""
    known = tuning_of(store, batch, card.name)
    return card.tuned(known.tuning if known else None)
