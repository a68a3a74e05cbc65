"""Keep what nights have added to detectors that learn: ``learned/<name>/<digest>.safetensors``.

The versions of a detector share these files, and a night can be taken out again exactly.
"""

from storage import records
from storage.batches import features, manifests
from storage.models import tunings
from storage.models.classifiers import ModelCard
from storage.models.detectors import (
    DetectorCard,
    LearnedNight,
    detector_names,
    load_detector_card,
    name_of,
)
from storage.store import Store, digest_of

FOLDER = "learned"
ALL, NONE = "all", "none"  # of a night's slides that are known to be negative


def detectors_that_learned(store: Store, on_damage: records.Tell | None) -> list[DetectorCard]:
    """List the detectors that have learned, oldest first; see `read_readable` for damaged ones."""
    names = detector_names(store)
    cards = records.read_readable(lambda name: load_detector_card(store, name), names, on_damage)
    return sorted((card for card in cards if card.learned), key=lambda card: card.sequence)


def newest_learned(store: Store, on_damage: records.Tell | None = None) -> list[DetectorCard]:
    """List the newest version of each detector that has learned, as `detectors_that_learned`."""
    newest = {name_of(card.name): card for card in detectors_that_learned(store, on_damage)}
    return [newest[name] for name in sorted(newest)]


def save_night(store: Store, name: str, content: bytes) -> str:
    """Write what a night adds to a detector of this name, and return its digest."""
    digest = digest_of(content)
    path = (FOLDER, name, f"{digest}.safetensors")
    if not store.exists(*path):
        store.write_bytes(content, *path)
    return digest


def load_night(store: Store, name: str, night: LearnedNight) -> records.Arrays:
    """Load what a night has added to a detector of this name, and verify its digest."""
    path = (FOLDER, name, f"{night.digest}.safetensors")
    what = f"what night {night.batch} added to detector {name}"
    content = records.read_verified(store, path, night.digest, what, remedy="")
    return records.arrays_from_bytes(content)


def images_of_batch(store: Store, model: ModelCard, batch: manifests.Batch) -> frozenset[bytes]:
    """Collect the sha256 digests of the images of a batch that have features."""
    under = tunings.as_begun(store, batch, model).features
    block = features.read_block(store, under, batch.key, 0, batch.rows, taps=False)
    return frozenset(row.tobytes() for row in block.image_id[block.status == features.SCORED])
