"""Run the commands `labels`: send labels that look wrong to a person, and train on the answers.

The labels are those that a model was trained on with folds. The corrected set is a second
manifest that keeps the published labels too, so figures on both are reported separately.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.commands.review.sheets import (
    PICTURES,
    SHEET,
    new_folder,
    new_manifest,
    write_manifest,
    write_picture,
    write_sheet,
)
from flows.monitoring.console import warn
from flows.options.taking import takes
from flows.options.tools import LabelsApply, LabelsExport
from flows.outcome import Outcome, shell_command, table
from flows.settings import Settings
from flows.stages.training.folds import diagnosed
from storage.models.classifiers import ModelCard, find_card, load_card
from storage.models.out_of_fold import load_out_of_fold
from storage.store import Store, StoreError
from tasks.evaluation.cross_validation import metrics_by_stain
from tasks.images.access.files import SourceError, read_bytes
from tasks.images.decoding import BadImageError
from tasks.images.listing import list_images
from tasks.images.regions import image_refs
from tasks.readers.verdicts import (
    FROM_PERSON,
    VerdictError,
    check_verdicts,
    corrected,
    ranked_labels,
    read_verdicts,
)
from tasks.words import counted

RANKED = "labels.parquet"
ON_SHEET = (
    "image_id", "uri", "slide_id", "patient_id", "label", "diagnosis", "label_probability",
)  # fmt: skip


class ExportOutcome(Outcome):
    """The sheet of labels for a person, and the table of all labels."""

    model: str
    labels: int
    doubted: int
    sheet: str
    cells: int
    ranked: str
    unreadable: list[str]

    @property
    def failed(self) -> bool:
        """Return whether the image of a cell could not be read."""
        return bool(self.unreadable)

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        rows: list[tuple[str, object]] = [
            ("diagnosed otherwise", f"{self.doubted:,} of {self.labels:,} labelled images"),
            *(("unreadable", each) for each in self.unreadable),
            ("all, worst first", self.ranked),
            ("sheet", self.sheet),
            (
                "next",
                "fill in the column 'verdict', then run "
                + shell_command("labels apply", self.sheet, "--to", "corrected.parquet"),
            ),
        ]
        return f"model {self.model}: {counted(self.cells, 'label')} to look at\n{table(rows)}"


class ApplyOutcome(Outcome):
    """The corrected labels, and how well folds diagnose on the published and on these."""

    model: str
    manifest: str
    verdicts: int
    changed: int
    without_label: int
    published: list[dict[str, Any]]
    corrected: list[dict[str, Any]]
    command: str

    def text(self) -> str:
        """Write the outcome for a person at a terminal."""
        rows: list[tuple[str, object]] = [
            (
                "answers",
                f"{self.verdicts:,}: {counted(self.changed, 'label')} changed, "
                f"{counted(self.without_label, 'image')} left without one",
            ),
            *(
                (before["metric"], f"{_figure(before)} by published labels, {_figure(after)} now")
                for before, after in zip(self.published, self.corrected, strict=True)
                if before["stain"] is None
            ),
            ("manifest", self.manifest),
            ("next", self.command),
        ]
        return f"labels of model {self.model}\n{table(rows)}"


@takes(LabelsExport)
def export(options: LabelsExport, settings: Settings) -> ExportOutcome:
    """All of them go to a Parquet file; the worst, with their images, to the sheet of `review`."""
    store = Store(settings.store)
    folder = new_folder(options.to)
    card = find_card(store, options.model, warn)
    ranked = ranked_labels(_out_of_fold(store, card), card.classes)
    listed = _listed(card)
    refs = {ref.uri: ref for ref in image_refs(listed)}
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    pq.write_table(ranked, folder / RANKED, compression="zstd")
    sheet: list[list[object]] = []
    unreadable: list[str] = []
    for row in ranked.slice(0, options.limit).to_pylist():
        try:
            if row["uri"] not in refs:
                raise SourceError("it is no longer among the training images")
            name = write_picture(folder / PICTURES, refs[row["uri"]], row["image_id"])
        except (OSError, SourceError, BadImageError) as error:
            unreadable.append(f"{row['uri']}: {error}")
            continue
        told = [row[column] for column in ON_SHEET]
        sheet.append([*told, card.name, *("" for _ in FROM_PERSON), f"{PICTURES}/{name}"])
    write_sheet(folder / SHEET, [*ON_SHEET, "batch", *FROM_PERSON, "image"], sheet)
    return ExportOutcome(
        model=card.name,
        labels=ranked.num_rows,
        doubted=pc.sum(pc.not_equal(ranked["label"], ranked["diagnosis"])).as_py() or 0,
        sheet=str(folder / SHEET),
        cells=len(sheet),
        ranked=str(folder / RANKED),
        unreadable=unreadable,
    )


@takes(LabelsApply)
def apply(options: LabelsApply, settings: Settings) -> ApplyOutcome:
    store = Store(settings.store)
    manifest_file = new_manifest(options.to)
    try:
        model, lines = read_verdicts(read_bytes(options.file))
        card = load_card(store, model)
        out_of_fold = _out_of_fold(store, card)
        image_ids = out_of_fold["image_id"].to_pylist()
        checked = check_verdicts(lines, batch=model, known=set(image_ids), classes=card.classes)
    except FileNotFoundError:
        raise SourceError(f"{options.file} does not exist") from None
    except VerdictError as error:
        raise VerdictError(f"{options.file}: {error}") from None
    verdicts = {each.image_id: each.verdict for each in checked}
    listed = _listed(card)
    id_of = dict(zip(out_of_fold["uri"].to_pylist(), image_ids, strict=True))
    ids = [id_of.get(uri, "") for uri in listed["uri"].to_pylist()]
    manifest = corrected(listed, ids, verdicts, card.classes)
    write_manifest(manifest_file, manifest)
    known = manifest["label"].is_valid()
    differs = pc.not_equal(manifest["label"], manifest["published_label"])
    without = pc.and_(pc.invert(known), manifest["published_label"].is_valid())
    return ApplyOutcome(
        model=model,
        manifest=str(manifest_file),
        verdicts=len(verdicts),
        changed=pc.sum(differs).as_py() or 0,
        without_label=pc.sum(without).as_py() or 0,
        published=_figures(card, out_of_fold, {}),
        corrected=_figures(card, out_of_fold, verdicts),
        command=shell_command("train", "--images", str(manifest_file), "--store", store.url),
    )


def _out_of_fold(store: Store, card: ModelCard) -> pa.Table:
    found = load_out_of_fold(store, card)
    if found is None:
        raise StoreError(
            f"model {card.name} was trained without folds, so its labels cannot be checked: "
            "train it with --folds 5"
        )
    return found


def _listed(card: ModelCard) -> pa.Table:
    kept = card.training
    return list_images(kept["images"], classes=card.classes, limit=kept["limit"])


def _figures(
    card: ModelCard, out_of_fold: pa.Table, verdicts: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Measure the folds on labels replaced by answers; answers that are no class are left out."""
    ids = out_of_fold["image_id"].to_pylist()
    labels = corrected(out_of_fold, ids, verdicts, card.classes)["label"]
    rows = out_of_fold.set_column(out_of_fold.schema.get_field_index("label"), "label", labels)
    rows = rows.filter(labels.is_valid())
    keys = rows["image_id" if card.split_by == "image" else f"{card.split_by}_id"].to_pylist()
    positive = np.asarray(pc.equal(rows["label"], card.classes[0]))
    return metrics_by_stain(diagnosed(rows, keys, positive))


def _figure(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return "-"
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
