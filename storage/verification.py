"""Compare the contents of a store with the digests and checksums that it keeps."""

from collections.abc import Iterator

from storage.batches.manifests import attempts_at, list_batches
from storage.kinds import Check, kinds
from storage.store import Store, StoreError, check_name, which


def all_checks(store: Store) -> Iterator[Check]:
    """List the checks of everything in a store."""
    for kind in kinds():
        yield from kind.checks(store)


def batch_checks(store: Store, name: str) -> Iterator[Check]:
    """List the checks of a batch's attempts and reports; StoreError if there is no such batch."""
    if not attempts_at(store, check_name("batch", name)):
        have = [batch.name for batch in list_batches(store, on_damage=lambda _: None)]
        raise StoreError(f"no batch {name!r} in {store.url}; {which(name, have)}")
    for kind in kinds():
        yield from kind.batch_checks(store, name)
