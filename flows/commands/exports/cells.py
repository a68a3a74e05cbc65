"""Run the command `export`: write a batch's features and report as an AnnData file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from flows.options.taking import takes
from flows.options.tools import Export
from flows.outcome import Outcome, table
from flows.settings import Settings, UsageError
from storage.batches.features import FeatureBlock, image_ids, read_block
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard, load_card
from storage.parquet import read_footer
from storage.reports.tables import published_batch, report_path, rows_by_shard
from storage.store import Store, StoreError
from tasks.types import Status

if TYPE_CHECKING:
    from flows.commands.exports.h5ad import H5ad

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
    """Write a batch's features, logits and report as an AnnData file, for scanpy and the like."""
    store = Store(settings.store)
    path = Path(options.to)
    if "://" in options.to or path.suffix != ENDING:
        raise UsageError(
            f"--to: {options.to} is no {ENDING} file on this machine, which AnnData is kept in"
        )
    if path.exists():
        raise UsageError(f"--to: {options.to} is there already, and others may have added to it")
    try:
        import h5py

        from flows.commands.exports.h5ad import H5ad
    except ImportError:
        raise UsageError("export needs h5py: pip install 'slidewatch[anndata]'") from None
    frozen = published_batch(store, options.batch)
    schema = read_footer(
        store, *report_path(frozen.name, frozen.batch_date)
    ).schema.to_arrow_schema()
    if not frozen.rows:
        raise StoreError(f"batch {frozen.name} has no images that could be exported")
    path.parent.mkdir(parents=True, exist_ok=True)
    stage = path.with_name(f".part-{path.name}")
    try:
        with h5py.File(stage, "w") as file:
            card = _model(store, frozen)
            names = [f"{tap}:{unit}" for tap, width in _widths(card) for unit in range(width)]
            taps = [tap for tap, width in _widths(card) for _ in range(width)]
            about = {"batch": frozen.name, "model": card.name, "manifest": frozen.manifest_digest}
            made = H5ad(file, names, taps, schema, about)
            cells = _fill(made, store, frozen, card)
            made.close()
        stage.replace(path)
    finally:
        stage.unlink(missing_ok=True)
    return CellsOutcome(
        batch=frozen.name,
        file=options.to,
        cells=cells,
        failed_images=frozen.rows - cells,
        features=len(names),
    )


def _fill(made: "H5ad", store: Store, batch: Batch, card: ModelCard) -> int:
    """Add the scored cells shard by shard; count them."""
    cells = 0
    for shard, rows in rows_by_shard(store, batch):
        block = read_block(store, card.name, batch.key, shard.start, shard.stop)
        if image_ids(block) != rows["image_id"].to_pylist():
            raise StoreError(
                f"the features of batch {batch.name} are of other images than its report: screen "
                "it again"
            )
        scored = np.asarray([status == Status.SCORED for status in rows["status"].to_pylist()])
        good = np.flatnonzero(scored)
        kept: FeatureBlock = block.take(good)
        made.add(
            [f"{batch.name}:{row}" for row in shard.start + good],
            np.concatenate([kept.taps[tap] for tap, _ in _widths(card)], axis=1),
            {"logits": kept.logits},
            rows.take(pa.array(good)),
        )
        cells += len(good)
    return cells


def _widths(card: ModelCard) -> list[tuple[str, int]]:
    return sorted(card.tap_widths.items())


def _model(store: Store, batch: Batch) -> ModelCard:
    """Load the card of the model that a batch's report names."""
    _, rows = next(rows_by_shard(store, batch))
    return load_card(store, str(rows["model"][0].as_py()))
