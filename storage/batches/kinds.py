"""List the kinds of files of batches: their records, and what nights took."""

from collections.abc import Callable, Iterable, Iterator

from storage import parquet
from storage.batches import ledger, manifests, nights
from storage.kinds import Check, Kind, kinds, lease_checks, leases_of
from storage.store import Store, StoreError, check_name, which


def batch_checks(store: Store, name: str) -> Iterator[Check]:
    """List the checks of a batch's attempts and reports; StoreError if there is no such batch."""
    if not manifests.attempts_at(store, check_name("batch", name)):
        have = [batch.name for batch in manifests.list_batches(store, on_damage=lambda _: None)]
        raise StoreError(f"no batch {name!r} in {store.url}; {which(name, have)}")
    for kind in kinds():
        yield from kind.batch_checks(store, name)


def kind_of_attempts(name: str, checks: Callable[[Store, str], Iterable[Check]]) -> Kind:
    """Make a kind of files that each attempt at a batch has; it is checked by the attempt's key."""

    def of_all(store: Store) -> Iterator[Check]:
        for key in store.folders("batches", having="batch.json"):
            yield from checks(store, key)

    def of_batch(store: Store, batch: str) -> Iterator[Check]:
        for key in manifests.attempts_at(store, batch):
            yield from checks(store, key)

    return Kind(name, checks=of_all, batch_checks=of_batch)


def kind_of_files(name: str, folder: str, verify: Callable[[Store, str, str], object]) -> Kind:
    """Make a kind of JSON files in a ``folder`` of each attempt, verified by its key and a name."""

    def checks(store: Store, key: str) -> Iterator[Check]:
        for file in store.names("batches", key, folder):
            path = f"batches/{key}/{folder}/{file}"
            yield Check.of(path, verify, store, key, file.removesuffix(".json"))

    return kind_of_attempts(name, checks)


def _attempt_checks(store: Store, key: str) -> Iterator[Check]:
    folder = f"batches/{key}"
    yield Check.of(f"{folder}/batch.json", manifests.load_batch_of_key, store, key)
    try:
        batch = manifests.load_batch_of_key(store, key)
    except StoreError:  # reported by that check
        return
    yield Check.of(f"{folder}/manifest.parquet", _manifest, store, batch)
    for name, verify in {
        "sealed": _seal,
        "screenings": ledger.screening_start,
        "announced": _announced,
    }.items():
        for file in store.names("batches", key, name):
            path = f"{folder}/{name}/{file}"
            yield Check.of(path, verify, store, batch, file.removesuffix(".json"))


def _manifest(store: Store, batch: manifests.Batch) -> None:
    manifests.verify_manifest(store, batch)
    rows = parquet.read_footer(store, "batches", batch.key, "manifest.parquet").num_rows
    if rows != batch.rows:
        raise StoreError(f"it has {rows} rows, but batch.json says {batch.rows}")


def _seal(store: Store, batch: manifests.Batch, key: str) -> None:
    """Compare a seal's figures with its batch, and its table of slides with its digest."""
    seal = ledger.read_seal(store, batch, key)
    assert seal is not None
    if (seal.batch, seal.rows, seal.scored + seal.failed) != (batch.name, batch.rows, batch.rows):
        raise StoreError("its figures are not those of its batch: restore it from a backup")
    path = ledger.slides_path(batch, key)
    if not store.exists(*path) or store.digest(*path) != seal.shifts_digest:
        raise StoreError(
            f"the table of slides that it seals is lost: restore {store.address(*path)}"
        )


def _announced(store: Store, batch: manifests.Batch, key: str) -> None:
    """Read the note of an announcement; one about an earlier report is not damaged."""
    if seal := ledger.read_seal(store, batch, key):
        ledger.is_announced(store, batch, seal)


def _night_checks(store: Store) -> Iterator[Check]:
    for series in store.names("nights"):
        yield Check.of(f"nights/{series}", _nights, store, series)
    yield from leases_of(store, "nights")


def _nights(store: Store, series: str) -> None:
    for night in nights.list_nights(store, series):
        nights.read_taken(store, night)


KINDS = (
    kind_of_attempts("attempts", _attempt_checks),
    Kind(
        "leases on batches",
        checks=lambda store: leases_of(store, "batches"),
        batch_checks=lambda store, batch: lease_checks(store, "batches", batch),
    ),
    Kind("nights", checks=_night_checks),
)
