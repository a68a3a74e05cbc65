"""Labels that were turned round on purpose are what folds find least probable."""

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.options.flows import Train
from flows.options.tools import ReviewExport
from flows.settings import Settings
from flows.smears.commands.review.queue import export
from flows.train import train
from tasks.images.listing import list_images
from tests.support.images import write_cells
from tests.support.models import CLASSES

SHARE = 0.05

pytestmark = pytest.mark.slow


def test_planted_wrong_labels_are_among_the_worst(tmp_path: Path) -> None:
    """As many labels are looked at as are wrong, so that precision and recall are one number."""
    write_cells(tmp_path / "smears", 20, 30, seed=1)
    listed = list_images(str(tmp_path / "smears"), classes=CLASSES)
    wrong = np.random.default_rng(0).permutation(listed.num_rows) < SHARE * listed.num_rows
    positive = np.asarray([label == CLASSES[0] for label in listed["label"].to_pylist()])
    labels = np.where(positive ^ wrong, *CLASSES)
    place = listed.column_names.index("label")
    manifest = tmp_path / "flipped.parquet"
    pq.write_table(listed.set_column(place, "label", pa.array(labels)), manifest)
    settings = Settings(store=str(tmp_path / "store"))
    train.fn(Train(images=str(manifest), folds=4, epochs=4, side=48, model="m"), settings)
    planted = {uri for uri, own in zip(listed["uri"].to_pylist(), wrong, strict=True) if own}
    out = export(ReviewExport(to=str(tmp_path / "out"), model="m", limit=len(planted)), settings)
    with Path(out.sheet).open(encoding="utf-8-sig", newline="") as sheet:
        worst = {row["uri"] for row in csv.DictReader(sheet)}
    recall = len(worst & planted) / len(planted)
    print(f"{len(planted)} planted, {recall:.2f} of them among the {len(worst)} worst")
    assert recall > 0.8
