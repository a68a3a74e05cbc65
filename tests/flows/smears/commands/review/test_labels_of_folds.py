"""Labels that look wrong go out, answers come back, and a manifest is trained on."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.options.tools import ReviewApply, ReviewExport
from flows.settings import Settings, UsageError
from flows.smears.commands.review.apply import apply
from flows.smears.commands.review.queue import export
from storage.models import classifiers
from storage.store import Store, StoreError, digest_of
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images
from tasks.smears.answers.sheets import AnswerError
from tests.support.images import write_cells
from tests.support.models import CLASSES

CELLS = 10


@pytest.fixture
def smears(tmp_path: Path) -> Path:
    write_cells(tmp_path / "smears", 4, CELLS, seed=1)
    return tmp_path / "smears"


@pytest.fixture
def settings(store_with_model: Store, smears: Path) -> Settings:
    """A store with the model `folded`, which is right of every image but the fourth and seventh."""
    listed = list_images(str(smears), classes=CLASSES)
    count = listed.num_rows
    positive = np.asarray([label == CLASSES[0] for label in listed["label"].to_pylist()])
    odds = np.where(positive, 1.0, -1.0) * np.linspace(2.0, 3.0, count)
    odds[[3, 6]] *= [-2.0, -1.0]
    rows = {
        "uri": listed["uri"],
        "image_id": [digest_of(Path(uri[7:]).read_bytes()) for uri in listed["uri"].to_pylist()],
        "patient_id": listed["patient_id"],
        "slide_id": listed["slide_id"],
        "label": listed["label"],
        "fold": [0] * count,
        "log_odds": odds,
        "probability": 1 / (1 + np.exp(-odds)),
        "network": odds,
        "statistics": odds,
        "stain": [0] * count,
    }
    digest = classifiers.save_out_of_fold(
        store_with_model, "folded", pa.table(rows).cast(classifiers.OUT_OF_FOLD)
    )
    card = classifiers.load_card(store_with_model, "tiny").model_copy(
        update={
            "name": "folded",
            "cross_validation": classifiers.CrossValidation(digest=digest, folds=2, metrics=[]),
            "training": {"images": str(smears), "limit": None},
            "sequence": 1,
        }
    )
    weights = store_with_model.read_bytes("models", "tiny", "model.safetensors")
    classifiers.save_model(store_with_model, card, weights)
    return Settings(store=store_with_model.url)


def sheet(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def fill_in(path: str, answers: list[str]) -> None:
    rows = sheet(path)
    for row, answer in zip(rows, answers, strict=False):
        row["answer"] = answer
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_labels_that_look_wrong_come_first_with_their_pictures(
    settings: Settings, smears: Path, tmp_path: Path
) -> None:
    found = export(ReviewExport(to=str(tmp_path / "out"), model="folded", limit=3), settings)
    uris = list_images(str(smears), classes=CLASSES)["uri"].to_pylist()
    rows = sheet(found.sheet)
    assert [row["uri"] for row in rows[:2]] == [uris[3], uris[6]]
    assert all(row["label"] != row["diagnosis"] for row in rows[:2])
    assert rows[2]["label"] == rows[2]["diagnosis"]
    assert [(tmp_path / "out" / row["image"]).read_bytes() for row in rows] == [
        Path(row["uri"][7:]).read_bytes() for row in rows
    ]
    assert (found.cells, found.left_out) == (3, {"beyond the limit": 4 * CELLS - 3})
    with pytest.raises(SourceError, match="is there already"):
        export(ReviewExport(to=str(tmp_path / "out"), model="folded"), settings)


def test_answers_make_a_manifest_with_both_labels(
    settings: Settings, smears: Path, tmp_path: Path
) -> None:
    found = export(ReviewExport(to=str(tmp_path / "out"), model="folded", limit=3), settings)
    rows = sheet(found.sheet)
    fill_in(found.sheet, [rows[0]["diagnosis"], "other", rows[2]["label"]])
    corrected = tmp_path / "corrected.parquet"
    made = apply(ReviewApply(to=str(corrected), sheet=found.sheet), settings)
    assert (made.by_persons, made.differing, made.no_cells) == (2, 1, 1)
    assert [command.split()[1] for command in made.commands] == ["train"]
    before = list_images(str(smears), classes=CLASSES)
    published = before["label"].to_pylist()
    labels = [*published[:3], rows[0]["diagnosis"], *published[4:6], *published[7:]]
    assert list_images(str(corrected), classes=CLASSES)["label"].to_pylist() == labels
    assert rows[0]["diagnosis"] != published[3]
    published.pop(6)
    assert pq.read_table(corrected)["published_label"].to_pylist() == published


def test_what_cannot_be_corrected_is_said(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"model tiny was trained without folds.*--folds 5"):
        export(ReviewExport(to=str(tmp_path / "out"), model="tiny"), settings)
    found = export(ReviewExport(to=str(tmp_path / "out"), model="folded", limit=1), settings)
    with pytest.raises(AnswerError, match="no row has an answer yet"):
        apply(ReviewApply(to=str(tmp_path / "c.parquet"), sheet=found.sheet), settings)
    fill_in(found.sheet, ["Infected"])
    with pytest.raises(AnswerError, match="no answer 'Infected'"):
        apply(ReviewApply(to=str(tmp_path / "c.parquet"), sheet=found.sheet), settings)
    with pytest.raises(UsageError, match=r"is no \.parquet file"):
        apply(ReviewApply(to=str(tmp_path / "c.csv"), sheet=found.sheet), settings)
    assert not (tmp_path / "c.parquet").exists()
