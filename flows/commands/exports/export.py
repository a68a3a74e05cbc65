"""Run the command `export`: write a batch's features and report as an AnnData file."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.options.taking import takes
from flows.options.tools import Export
from flows.outcome import Outcome, table
from flows.settings import Settings, UsageError
from storage.batches.features import image_ids, read_block
from storage.batches.manifests import Batch, Shard
from storage.models.classifiers import ModelCard, load_card
from storage.reports.tables import published_batch, rows_by_shard
from storage.store import Store, StoreError
from tasks.types import Status

ENDING = ".h5ad"


class CellsOutcome(Outcome):
    """The file that `export` wrote, and how many cells are in it."""

    batch: str
    file: str
    cells: int
    failed_images: int
    features: int

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        rows: list[tuple[str, object]] = [
            ("X", f"{self.features:,} features of the taps that var['tap'] names"),
            ("left out", f"{self.failed_images:,} images that failed"),
            ("file", self.file),
            ("next", f"scanpy.read_h5ad({self.file!r})"),
        ]
        return f"batch {self.batch}: {self.cells:,} cells\n{table(rows)}"


@takes(Export)
def export(options: Export, settings: Settings) -> CellsOutcome:
    store = Store(settings.store)
    path = Path(options.to)
    if "://" in options.to or path.suffix != ENDING:
        raise UsageError(
            f"--to: {options.to} is no {ENDING} file on this machine, which AnnData is kept in"
        )
    if path.exists():
        raise UsageError(f"--to: {options.to} is there already, and others may have added to it")
    try:
        from flows.commands.exports.h5ad import write_h5ad
    except ImportError:
        raise UsageError("export needs anndata: pip install 'slidewatch[anndata]'") from None
    frozen = published_batch(store, options.batch)
    if not frozen.rows:
        raise StoreError(f"batch {frozen.name} has no images that could be exported")
    card = _model(store, frozen)
    cells = list(_read(store, frozen, card))
    names = [f"{frozen.name}:{row}" for part in cells for row in part.shard.start + part.scored]
    taps = {f"{tap}:{unit}": tap for tap, width in _widths(card) for unit in range(width)}
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_name(f".part-{path.name}")
    try:
        write_h5ad(
            stage,
            [(len(part.scored), partial(_features, store, frozen, card, part)) for part in cells],
            taps=taps,
            names=names,
            rows=pa.concat_tables([part.rows for part in cells]),
            logits=np.concatenate([part.logits for part in cells]),
            about={"batch": frozen.name, "model": card.name, "manifest": frozen.manifest_digest},
        )
        stage.replace(path)
    finally:
        stage.unlink(missing_ok=True)
    return CellsOutcome(
        batch=frozen.name,
        file=options.to,
        cells=len(names),
        failed_images=frozen.rows - len(names),
        features=len(taps),
    )


@dataclass(frozen=True)
class _Cells:
    """The scored cells of a shard: their rows in it, logits (n, C) and rows of the report."""

    shard: Shard
    scored: NDArray[np.intp]
    logits: NDArray[np.float32]
    rows: pa.Table


def _read(store: Store, batch: Batch, card: ModelCard) -> Iterator[_Cells]:
    """Read all that is known of a batch's scored cells but their features, shard by shard."""
    for shard, rows in rows_by_shard(store, batch):
        block = read_block(store, card.name, batch.key, shard.start, shard.stop, taps=False)
        if image_ids(block) != rows["image_id"].to_pylist():
            raise StoreError(
                f"the features of batch {batch.name} are of other images than its report: screen "
                "it again"
            )
        scored = np.flatnonzero([status == Status.SCORED for status in rows["status"].to_pylist()])
        yield _Cells(shard, scored, block.logits[scored], rows.take(pa.array(scored)))


def _features(store: Store, batch: Batch, card: ModelCard, of: _Cells) -> NDArray[np.float32]:
    """Read the features (n, d) of the scored cells of a shard, all taps side by side."""
    block = read_block(store, card.name, batch.key, of.shard.start, of.shard.stop)
    return np.concatenate([block.taps[tap][of.scored] for tap, _ in _widths(card)], axis=1)


def _widths(card: ModelCard) -> list[tuple[str, int]]:
    return sorted(card.tap_widths.items())


def _model(store: Store, batch: Batch) -> ModelCard:
    """Load the card of the model that a batch's report names."""
    _, rows = next(rows_by_shard(store, batch))
    return load_card(store, str(rows["model"][0].as_py()))
