"""Keep the detector that comes with slidewatch: a store in the package, with one model.

`make detector` makes it. Its model has the network as OpenVINO's graph alone, so that the weights
are in the package once: whatever needs them for PyTorch needs a model that was trained here.
"""

from pathlib import Path

from storage.records import Tell
from storage.store import Store, StoreError, refuse_absent

FOLDER = Path(__file__).parents[1] / "shipped"


def shipped() -> Store:
    """Return the store in the package."""
    return Store(str(FOLDER))


def store_or_shipped(address: str, tell: Tell) -> Store:
    """Return the store at an address, or the package's if there is none."""
    store = Store(address)
    try:
        refuse_absent(store)
    except StoreError:
        tell(f"there is no store in {store.url}: the detector that comes with slidewatch is used")
        return shipped()
    return store


def adopt(store: Store) -> None:
    """Copy the detector that comes with slidewatch, and its model, to a store that has neither."""
    known = shipped()
    for kind in ("models", "detectors"):
        for name in known.folders(kind, having="card.json"):
            copy_described(known, store, kind, name)


def copy_described(store: Store, into: Store, *folder: str) -> None:
    """Copy a folder with a card to another store, unchanged; the card last, as it completes it."""
    for name in sorted(store.names(*folder), key=lambda name: name == "card.json"):
        into.write_bytes(store.read_bytes(*folder, name), *folder, name)
