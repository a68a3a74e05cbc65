"""Find the rows of a batch in the class statistics: labelled and not held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from storage.batches import manifests
from storage.batches.features import SCORED, FeatureBlock, image_ids, read_block, read_columns
from storage.models import statistics
from storage.models.classifiers import ModelCard
from storage.store import Store, StoreError


@dataclass(frozen=True)
class Rows:
    """Rows (n,) of a batch by its key, in ascending order, with patients and slides, if known."""

    batch: str
    rows: NDArray[np.intp]
    patients: list[str | None]
    slides: list[str | None]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: NDArray[np.intp]) -> "Rows":
        """Take some of the rows by their places."""
        chosen = places.tolist()
        return Rows(
            self.batch,
            self.rows[places],
            [self.patients[place] for place in chosen],
            [self.slides[place] for place in chosen],
        )


def contributed(store: Store, card: ModelCard, contribution: statistics.Contribution) -> Rows:
    """List the fitted rows of a batch; StoreError if its manifest or features differ by now."""
    batch, rows = _labelled(store, card, contribution, held_out=False)
    given = (batch.manifest_digest, len(rows))
    if given != (contribution.manifest_digest, contribution.images):
        raise StoreError(
            f"batch {batch.name} gave {contribution.images:,} images to the statistics, but of its "
            f"rows 0 to {batch.rows} only {len(rows):,} are found again: restore "
            f"{store.address('batches', batch.key)} and "
            f"{store.address('features', card.name, f'{batch.key}.zarr')} from a backup"
        )
    return rows


def held_out_rows(store: Store, card: ModelCard, contribution: statistics.Contribution) -> Rows:
    """List the labelled rows of a batch in the model's validation and test parts."""
    return _labelled(store, card, contribution, held_out=True)[1]


def _labelled(
    store: Store, card: ModelCard, contribution: statistics.Contribution, *, held_out: bool
) -> tuple[manifests.Batch, Rows]:
    batch = manifests.load_batch(store, contribution.batch, contribution.attempt)
    manifests.verify_manifest(store, batch)
    manifest = manifests.read_manifest(store, batch, columns=["patient_id", "slide_id"])
    block = read_block(store, card.name, batch.key, 0, batch.rows, taps=False)
    chosen = is_labelled(block) & (is_held_out(card, manifest, block) == held_out)
    patients, slides = manifest["patient_id"].to_pylist(), manifest["slide_id"].to_pylist()
    chosen &= ~np.isin(patients, contribution.without_patients)
    chosen &= ~np.isin(slides, contribution.without_slides)
    chosen[list(contribution.repeated_held_out if held_out else contribution.repeated)] = False
    everything = Rows(batch.key, np.arange(batch.rows), patients, slides)
    return batch, everything.take(np.flatnonzero(chosen))


def grouped(parts: Sequence[Rows], by: str) -> dict[str, list[Rows]]:
    """Group rows by ``patient`` or ``slide``, without rows that name none."""
    groups: dict[str, list[Rows]] = {}
    for part in parts:
        keys = np.asarray(part.patients if by == "patient" else part.slides, object)
        for key in sorted({key for key in keys if key is not None}):
            groups.setdefault(key, []).append(part.take(np.flatnonzero(keys == key)))
    return groups


def repeated_rows(
    store: Store,
    card: ModelCard,
    contribution: statistics.Contribution,
    others: Sequence[statistics.Contribution],
    *,
    held_out: bool = False,
) -> list[int]:
    """List the rows of a contribution whose images another one, or an earlier row, already has.

    Only 16 bytes of each digest are compared. ``others`` are the contributions before it. With
    ``held_out``, the rows are those that are held out.
    """
    rows_of = held_out_rows if held_out else contributed
    known = [_heads(store, card, rows_of(store, card, other)) for other in others]
    rows = rows_of(store, card, contribution)
    heads = _heads(store, card, rows)
    repeated = np.ones(len(heads), bool)
    repeated[np.unique(heads, return_index=True)[1]] = False
    repeated |= np.isin(heads, np.concatenate([heads[:0], *known]))
    numbers: list[int] = rows.rows[repeated].tolist()
    return numbers


def _heads(store: Store, card: ModelCard, rows: Rows) -> NDArray[np.void]:
    """Read the first half of the digests of some rows, (n,)."""
    count = int(rows.rows.max(initial=-1)) + 1
    ids = read_columns(store, card.name, rows.batch, 0, count, ["image_id"])["image_id"]
    return np.ascontiguousarray(ids[rows.rows, :16]).view("V16")[:, 0]


def is_labelled(block: FeatureBlock) -> NDArray[np.bool_]:
    """Mark the rows (n,) that have features and a label."""
    return np.asarray((block.label >= 0) & (block.status == SCORED))


def is_held_out(card: ModelCard, manifest: pa.Table, block: FeatureBlock) -> NDArray[np.bool_]:
    """Mark the rows (n,) that belong to the model's validation or test part."""
    if card.split_by == "image":
        keys: list[str | None] = image_ids(block)
    else:
        keys = manifest[f"{card.split_by}_id"].to_pylist()
    held_out = card.held_out
    return np.asarray([key in held_out for key in keys], bool)
