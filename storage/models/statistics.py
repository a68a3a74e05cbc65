"""Keep class statistics: ``statistics/<model>/<version>/{moments.safetensors, lineage.json}``."""

from storage import records
from storage.records import Arrays, Card, Entry, Tell
from storage.store import Store


class Contribution(Entry):
    """The contribution of one batch to the statistics, and the parts removed since.

    ``repeated`` rows had images that were already in; errors of ``repeated_held_out`` do not count.
    """

    batch: str
    attempt: int
    manifest_digest: str
    images: int
    held_out: int
    without_patients: tuple[str, ...] = ()
    without_slides: tuple[str, ...] = ()
    repeated: tuple[int, ...] = ()
    repeated_held_out: tuple[int, ...] = ()


class Lineage(Card):
    """The origin of a version of the statistics; ``images`` are counts by class."""

    model: str
    version: int
    parent: int | None
    operation: str
    contributions: list[Contribution]
    images: dict[str, int]

    def contribution(self, batch: str) -> Contribution | None:
        """Find the batch's contribution to this version, or None."""
        return next((each for each in self.contributions if each.batch == batch), None)


def version_name(version: int) -> str:
    """Name the folder of a version, e.g. ``v0003``."""
    return f"v{version:04d}"


def save_statistics(store: Store, lineage: Lineage, moments: bytes) -> None:
    """Write a version; StoreError if another run has written it meanwhile."""
    version = version_name(lineage.version)
    with records.once(
        f"statistics {version} of model {lineage.model} were written by another run meanwhile: run "
        "the command again, and it will build on them"
    ):
        records.save_described(
            store, moments, lineage, "statistics", lineage.model, version,
            file="moments.safetensors", card_file="lineage.json",
        )  # fmt: skip


def list_statistics(store: Store, model: str, on_damage: Tell | None = None) -> list[Lineage]:
    """List all versions for a model, oldest first; see `read_readable` for damaged ones."""
    folders = store.folders("statistics", model, having="lineage.json")
    lineages = records.read_readable(
        lambda name: Lineage.read(store, "statistics", model, name, "lineage.json"),
        folders,
        on_damage,
    )
    return sorted(lineages, key=lambda lineage: lineage.version)


def latest_statistics(store: Store, model: str) -> Lineage | None:
    """Load the lineage of the newest version for a model; None before the first fit."""
    versions = list_statistics(store, model)
    return versions[-1] if versions else None


def load_statistics(store: Store, model: str, version: int) -> Lineage:
    """Load the lineage of one version."""
    return Lineage.read(store, "statistics", model, version_name(version), "lineage.json")


def load_moments(store: Store, lineage: Lineage) -> Arrays:
    """Load the moments of a version and verify their digest."""
    folder = ("statistics", lineage.model, version_name(lineage.version))
    return records.load_described(store, lineage, *folder, "moments.safetensors")
