"""Run the command `review apply`: write a manifest with answers as labels.

The images are a batch's, or those that a model was trained on with folds. The labels of their
source are kept too, so figures on both are reported separately.
"""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.commands.written import to_write, written
from flows.monitoring.console import warn
from flows.options.tools import ReviewApply
from flows.outcome import Outcome, shell_command, table
from flows.settings import Settings, UsageError
from flows.smears.commands.review.imports import report_rows
from flows.smears.commands.review.sheets import read_sheet_file
from flows.smears.stages.answers import BatchAnswers
from storage.batches.manifests import read_manifest
from storage.models.classifiers import ModelCard, load_card, load_out_of_fold
from storage.reports.tables import published_batch, rows_by_shard
from storage.smears.answers import ANSWERED, latest_labels
from storage.store import Store, StoreError
from tasks.images.listing import list_images
from tasks.smears.answers import sheets
from tasks.words import counted


class AppliedOutcome(Outcome):
    """Images with their answers as labels, and the commands that learn from them."""

    source: str  # the batch, or the model whose labels they are
    manifest: str
    kept: bool
    images: int
    labels: int
    by_persons: int
    differing: int
    no_cells: int
    commands: list[str]

    def _text(self) -> str:
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
            if any("commission" in command for command in self.commands):
                rows.append(("", "add --negative SLIDE for each slide known to have no parasites"))
        else:
            rows.append(("next", "to write it, run the same command without --dry-run"))
        would = "" if self.kept else "would have "
        return f"{self.source}: {would}{counted(self.images, 'image')}\n{table(rows)}"


def apply(options: ReviewApply, settings: Settings) -> AppliedOutcome:
    """Images that persons call no such cell are left out, so that no laboratory learns them."""
    store = Store(settings.store)
    manifest = to_write(options.to, store, force=options.force)
    if manifest.suffix != ".parquet":
        raise UsageError(f"--to: {manifest} is no .parquet file, which a manifest is")
    more = ("--images", options.to, "--store", store.url)
    commands: list[str] = []
    if options.batch is not None:
        source, rows = f"batch {options.batch}", _of_batch(store, options.batch)
        commands.append(shell_command("commission", "--laboratory", "NAME", *more))
    else:
        source, rows = _of_sheet(store, options.sheet or "")
    kept = rows.filter(pc.invert(rows["no_cell"]))
    made = kept.drop_columns(["no_cell", "by_person"])
    if options.batch is not None:
        made = made.replace_schema_metadata({ANSWERED: options.batch})
    if not options.dry_run:
        with written(manifest) as stage:
            pq.write_table(made, stage, compression="zstd")
    published = made["published_label"].is_valid()
    differs = pc.and_(published, pc.not_equal(made["label"], made["published_label"]))
    if pc.any(published).as_py():
        commands.append(shell_command("train", *more))
    return AppliedOutcome(
        source=source,
        manifest=options.to,
        kept=not options.dry_run,
        images=made.num_rows,
        labels=made.num_rows - made["label"].null_count,
        by_persons=pc.sum(kept["by_person"]).as_py() or 0,
        differing=pc.sum(differs).as_py() or 0,
        no_cells=rows.num_rows - kept.num_rows,
        commands=commands,
    )


def _of_batch(store: Store, name: str) -> pa.Table:
    frozen = published_batch(store, name)
    review = latest_labels(store, frozen.name).rows
    if not review.num_rows:
        raise StoreError(
            f"no answer on batch {frozen.name} has been saved: import a sheet with review import, "
            "or save the agreed answers on the report page of review serve"
        )
    answers = dict(zip(review["image_id"].to_pylist(), review["answer"].to_pylist(), strict=True))
    card = load_card(store, str(next(report_rows(store, frozen, ["model"]))["model"][0]))
    given = BatchAnswers(store=store, batch=frozen, card=card)
    given.refresh()
    said = (item for each in given.by_reader().values() for item in each.items())
    if unsaved := {image for image, answer in said if answer != sheets.UNSURE} - answers.keys():
        warn(
            f"left out: {counted(len(unsaved), 'cell')} on which readers differ, or whose answers "
            "are not saved: save the agreed answers on the report page of review serve"
        )
    return pa.concat_tables(
        _labelled(read_manifest(store, frozen, shard), rows["image_id"].to_pylist(), answers, card)
        for shard, rows in rows_by_shard(store, frozen)
    )


def _of_sheet(store: Store, file: str) -> tuple[str, pa.Table]:
    try:
        model, lines = sheets.read_sheet(read_sheet_file(file), "model")
        card = load_card(store, model)
        folds = labels_of_folds(store, card)
        ids = dict(zip(folds["uri"].to_pylist(), folds["image_id"].to_pylist(), strict=True))
        known = set(ids.values())
        checked = sheets.check_answers(lines, batch=model, known=known, classes=card.classes)
    except sheets.AnswerError as error:
        raise sheets.AnswerError(f"{file}: {error}") from None
    listed = trained_images(card)
    image_ids = [ids.get(uri, "") for uri in listed["uri"].to_pylist()]
    answers = {each.image_id: each.answer for each in checked}
    return f"labels of model {model}", _labelled(listed, image_ids, answers, card)


def _labelled(
    manifest: pa.Table, ids: list[str], answers: Mapping[str, str], card: ModelCard
) -> pa.Table:
    """Put answers into a manifest, and mark those of persons and images of no cell."""
    rows = sheets.corrected(manifest, ids, answers, card.classes)
    given = [answers.get(each) for each in ids]
    rows = rows.append_column("no_cell", pa.array([each == sheets.OTHER for each in given]))
    return rows.append_column("by_person", pa.array([each in card.classes for each in given]))


def labels_of_folds(store: Store, card: ModelCard) -> pa.Table:
    """Read the labels that a model was trained on, as its folds diagnose them."""
    table = load_out_of_fold(store, card)
    if table is None:
        raise StoreError(
            f"model {card.name} was trained without folds, so its labels cannot be checked: "
            "train it with --folds 5"
        )
    return table


def trained_images(card: ModelCard) -> pa.Table:
    """List the images that a model was trained on."""
    images, limit = card.training["images"], card.training["limit"]
    return list_images(images, classes=card.classes, limit=limit)
