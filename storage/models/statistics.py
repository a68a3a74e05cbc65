"""Class statistics: ``statistics/<model>/<version>/{moments.safetensors, lineage.json}``.

A version is written once and says which contributions it holds, so that what was merged can be
recognised (and merged once only) and taken out again.
"""

from storage.arrays import Arrays, arrays_from_bytes
from storage.records import Card, Part, load_described, save_described
from storage.store import AlreadyExistsError, Store, StoreError


class Contribution(Part):
    """What one batch gave to the statistics, and what was taken out of it since."""

    batch: str
    attempt: int
    manifest_digest: str
    images: int
    held_out: int
    without_patients: tuple[str, ...] = ()
    without_slides: tuple[str, ...] = ()


class Lineage(Card):
    """Where a version of the statistics comes from. ``images`` counts by class."""

    model: str
    version: int
    parent: int | None
    operation: str
    contributions: list[Contribution]
    images: dict[str, int]

    def contribution(self, batch: str) -> Contribution | None:
        """The batch's contribution to this version, or None."""
        return next((each for each in self.contributions if each.batch == batch), None)


def version_name(version: int) -> str:
    """The folder of a version, e.g. ``v0003``."""
    return f"v{version:04d}"


def save_statistics(store: Store, lineage: Lineage, moments: bytes) -> None:
    """Write a version; StoreError where somebody else has written it meanwhile."""
    version = version_name(lineage.version)
    try:
        save_described(
            store,
            moments,
            lineage,
            "statistics",
            lineage.model,
            version,
            file="moments.safetensors",
            card_file="lineage.json",
        )
    except AlreadyExistsError:
        raise StoreError(
            f"statistics {version} of model {lineage.model} were written by another run "
            "meanwhile: run the command again, and it will build on them"
        ) from None


def list_statistics(store: Store, model: str) -> list[Lineage]:
    """All versions for a model, oldest first."""
    folders = store.folders("statistics", model, having="lineage.json")
    found = (Lineage.read(store, "statistics", model, name, "lineage.json") for name in folders)
    return sorted(found, key=lambda lineage: lineage.version)


def latest_statistics(store: Store, model: str) -> Lineage | None:
    """The newest version for a model, or None before the first fit."""
    versions = list_statistics(store, model)
    return versions[-1] if versions else None


def load_statistics(store: Store, model: str, version: int) -> Lineage:
    """The lineage of one version."""
    return Lineage.read(store, "statistics", model, version_name(version), "lineage.json")


def load_moments(store: Store, lineage: Lineage) -> Arrays:
    """The moments of a version, after their digest has been verified."""
    folder = ("statistics", lineage.model, version_name(lineage.version))
    return arrays_from_bytes(load_described(store, lineage, *folder, "moments.safetensors"))
