"""Keep the detector of slidewatch, made by `make detector`, without weights for PyTorch."""

from collections.abc import Iterator
from pathlib import Path

from storage.records import Tell
from storage.store import MissingError, Store, StoreError, digest_of, refuse_absent

FOLDER = Path(__file__).parents[1] / "shipped"
# A digest of all its files, because a card says only that its own file fits it.
DIGEST = "985237a788ea734dd0a06fff87e5af28e6e0dee076811e74195cadd65f69cf1e"


def shipped() -> Store:
    """Return the store in the package; StoreError if it is not the one of this version."""
    store = Store(str(FOLDER))
    if digest_of_files(store) != DIGEST:
        raise StoreError(
            f"the detector in {FOLDER} is not the one that comes with this version of slidewatch "
            "(sha256 differs): install slidewatch again, or use a store with a detector of your own"
        )
    return store


def digest_of_files(store: Store) -> str:
    """Compute the digest of the models and detectors in a store, by names and content."""
    files = ((*folder, name) for folder in _folders(store) for name in store.names(*folder))
    lines = (f"{store.digest(*file)} {'/'.join(file)}\n" for file in files)
    return digest_of("".join(lines).encode())


def store_or_shipped(address: str, tell: Tell) -> Store:
    """Return the store at an address, or the package's if there is none."""
    store = Store(address)
    try:
        refuse_absent(store)
    except MissingError:
        tell(f"there is no store in {store.url}: the detector that comes with slidewatch is used")
        return shipped()
    return store


def adopt(store: Store) -> None:
    """Copy the detector that comes with slidewatch to a store without any other, or some of it."""
    if set(_folders(store)) <= set(_folders(Store(str(FOLDER)))):
        known = shipped()
        for folder in _folders(known):
            copy_described(known, store, *folder)


def _folders(store: Store) -> Iterator[tuple[str, str]]:
    for kind in ("models", "detectors"):
        for name in store.folders(kind, having="card.json"):
            yield kind, name


def copy_described(store: Store, into: Store, *folder: str) -> None:
    """Copy a folder with a card to another store, unchanged; the card last, as it completes it."""
    for name in sorted(store.names(*folder), key=lambda name: name == "card.json"):
        into.write_bytes(store.read_bytes(*folder, name), *folder, name)
