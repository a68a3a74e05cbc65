"""Run the command `review apply`: write a batch as a manifest, with answers as labels."""

import pyarrow as pa
import pyarrow.compute as pc

from flows.commands.review.sheets import new_manifest, write_manifest
from flows.options.taking import takes
from flows.options.tools import ReviewApply
from flows.outcome import Outcome, shell_command, table
from flows.settings import Settings
from storage.batches.manifests import Batch, read_manifest
from storage.models.classifiers import ModelCard, load_card
from storage.reports.reviews import latest_review
from storage.reports.tables import published_batch, rows_by_shard
from storage.store import Store, StoreError
from tasks.readers.verdicts import OTHER, corrected
from tasks.words import counted


class AppliedOutcome(Outcome):
    """A batch with its answers as labels, and the commands that learn from it."""

    batch: str
    manifest: str
    kept: bool
    images: int
    labels: int
    by_persons: int
    differing: int
    no_cells: int
    commands: list[str]

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        rows: list[tuple[str, object]] = [
            ("labels", f"{self.labels:,}, of which persons answered {self.by_persons:,}"),
            (
                "corrected",
                f"{counted(self.differing, 'label')} of the source, kept as published_label",
            ),
            ("left out", f"{counted(self.no_cells, 'image')} without such a cell, by persons"),
        ]
        if self.kept:
            rows.append(("manifest", self.manifest))
            rows += [("next", command) for command in self.commands]
            rows.append(("", "add --negative SLIDE for each slide known to have no parasites"))
        else:
            rows.append(("next", "to write it, run the same command without --dry-run"))
        would = "" if self.kept else "would have "
        return f"batch {self.batch}: {would}{counted(self.images, 'image')}\n{table(rows)}"


@takes(ReviewApply)
def apply(options: ReviewApply, settings: Settings) -> AppliedOutcome:
    """Images that persons call no such cell are left out, so that no laboratory learns them."""
    store = Store(settings.store)
    manifest = new_manifest(options.to)
    frozen = published_batch(store, options.batch)
    said = latest_review(store, frozen.name).rows
    if not said.num_rows:
        raise StoreError(
            f"no answer on batch {frozen.name} has been saved: import a sheet with review import, "
            "or save the agreed answers on the report page of review serve"
        )
    pairs = zip(said["image_id"].to_pylist(), said["verdict"].to_pylist(), strict=True)
    rows = _labelled(store, frozen, dict(pairs))
    kept = rows.filter(pc.invert(rows["no_cell"]))
    made = kept.drop_columns(["no_cell", "by_person"])
    if not options.dry_run:
        write_manifest(manifest, made)
    published = made["published_label"].is_valid()
    differs = pc.and_(published, pc.not_equal(made["label"], made["published_label"]))
    more = ("--images", options.to, "--store", store.url)
    commands = [shell_command("commission", "--site", "NAME", *more)]
    if pc.any(published).as_py():
        commands.append(shell_command("train", *more))
    return AppliedOutcome(
        batch=frozen.name,
        manifest=options.to,
        kept=not options.dry_run,
        images=made.num_rows,
        labels=made.num_rows - made["label"].null_count,
        by_persons=pc.sum(kept["by_person"]).as_py() or 0,
        differing=pc.sum(differs).as_py() or 0,
        no_cells=rows.num_rows - kept.num_rows,
        commands=commands,
    )


def _labelled(store: Store, batch: Batch, verdicts: dict[str, str]) -> pa.Table:
    """Put answers into the manifest, and mark those of persons and images of no cell."""
    parts: list[pa.Table] = []
    card: ModelCard | None = None
    for shard, rows in rows_by_shard(store, batch):
        card = card or load_card(store, str(rows["model"][0]))
        ids = rows["image_id"].to_pylist()
        part = corrected(read_manifest(store, batch, shard), ids, verdicts, card.classes)
        said = [verdicts.get(each) for each in ids]
        part = part.append_column("no_cell", pa.array([each == OTHER for each in said]))
        by_person = pa.array([each in card.classes for each in said])
        parts.append(part.append_column("by_person", by_person))
    return pa.concat_tables(parts)
