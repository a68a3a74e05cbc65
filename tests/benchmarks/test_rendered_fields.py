"""Rendered fields whose cells and parasites are known: how many are counted, and the parasitaemia.

A network is trained on rendered cells that were cut out when they were drawn; those of the fields
are found and cut out by `segment`.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.fit import fit
from flows.options.flows import Fit, Screen, Segment, Train
from flows.settings import Settings
from flows.smears.night import screen
from flows.smears.segment import segment
from flows.train import train
from tasks.smears.synthetic.rendered_cells import draw_patient
from tests.support import images, measuring, rendered_fields

FIELDS = 10 if measuring.QUICK else 100
PATIENTS = 16 if measuring.QUICK else 32
EPOCHS = 1 if measuring.QUICK else 3
OVERLAPPING = 0.25

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(store=str(tmp_path_factory.mktemp("rendered") / "store"), workers=2)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, int]]]:
    """Fields of a patient each, and how many cells and parasites each of them has."""
    folder = tmp_path_factory.mktemp("fields")
    known = {}
    for number in range(FIELDS):
        rng = np.random.default_rng(5000 + number)
        patient = draw_patient(400 + number, rng)
        cells = int(rng.integers(40, 60))
        parasitized = int(rng.binomial(cells, rng.uniform(0, 0.2)))
        field = rendered_fields.render_field(
            patient,
            rng,
            cells=cells,
            parasitized=parasitized,
            overlapping=OVERLAPPING,
            height=1400,
            width=1900,
        )
        Image.fromarray(field.pixels).save(folder / f"{number:03d}.png", compress_level=1)
        known[f"{number:03d}"] = (cells, parasitized)
    return folder, known


def test_cells_are_counted_and_parasitaemia_is_within_its_interval(
    settings: Settings,
    truth: tuple[Path, dict[str, tuple[int, int]]],
    tmp_path: Path,
    record: measuring.Record,
) -> None:
    folder, known = truth
    images.write_cells(tmp_path, PATIENTS, 40, seed=0)
    train.fn(Train(images=str(tmp_path), epochs=EPOCHS), settings)
    fit.fn(Fit(images=str(tmp_path), batch="cells"), settings)
    fields = Segment(images=str(folder), name="fields", slide_is="file")
    made = segment.fn(fields, settings)
    outcome = screen.fn(Screen(images=made.manifest, batch="fields"), settings)
    slides = pq.read_table(outcome.report.replace("/images/", "/slides/")).to_pylist()
    drawn = np.array([known[row["slide_id"]] for row in slides])
    found = np.array([(row["cells"], row["parasitized"]) for row in slides])
    share = 100 * drawn[:, 1] / drawn[:, 0]
    # Where too many cells are abnormal, slidewatch gives no parasitaemia.
    read = [row["corrected_low"] is not None for row in slides]
    low, high = (
        np.array([row[f"corrected_{end}"] for row in slides], float)[read]
        for end in ("low", "high")
    )
    inside = (low <= share[read]) & (share[read] <= high)
    counted = found[:, 0].sum() / drawn[:, 0].sum()
    record("cells found of those drawn", "", ours=[counted], limit=0.95, higher_is_better=True)
    record("of these within its interval", "", ours=[float(inside.mean())], limit=0.9,
           higher_is_better=True)  # fmt: skip
    assert found[:, 0].sum() == pytest.approx(drawn[:, 0].sum(), rel=0.05)
    assert measuring.QUICK or inside.mean() >= 0.9
