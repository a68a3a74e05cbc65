"""Copy a model, detector and laboratory, all that screening needs, into another store."""

from storage.models.detectors import DetectorCard, load_model_of
from storage.models.laboratories import LaboratoryCard
from storage.store import Store


def borrow(
    store: Store, into: Store, detector: DetectorCard, laboratory: LaboratoryCard | None
) -> None:
    """Copy a detector, its model and a version of a laboratory, unchanged."""
    folders: list[tuple[str, ...]] = [
        ("models", load_model_of(store, detector).name),
        ("detectors", detector.name),
    ]
    if laboratory is not None:
        folders.append(laboratory.folder)
    for parts in folders:
        for name in store.names(*parts):
            into.write_bytes(store.read_bytes(*parts, name), *parts, name)
