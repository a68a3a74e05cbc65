"""A fortnight of real cells: the history of nights tells the odd ones apart.

Patients in order of their photographs go in turn to training and statistics and to the nights:
fourteen of eight patients each, no cell twice. Five nights are odd: another stain, out of focus, a
fiftieth of other cells, no images at all, and one that is run again.

The first four must not be green, for their reason. Of the ten others one may be amber: a patient of
whom the diagnosis is uncertain is unreadable, and a night says so.
"""

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from flows.fit import fit
from flows.options.flows import Fit, Screen, Train
from flows.settings import Settings
from flows.smears.night import screen
from flows.train import train
from storage.smears.schemas.batches import read_batches_before
from storage.store import Store
from tasks.images.access.files import read_bytes
from tasks.images.decoding import decode_rgb
from tasks.images.listing import list_images
from tasks.network.training import TrainingPlan
from tests.support.measuring import QUICK, Record
from tests.support.needs import needs_data
from tests.support.paths import DATA

NIGHTS, PATIENTS = 14, 8
STAIN, FOCUS, OTHERS, EMPTY, RERUN = 7, 9, 11, 12, 13
ORDINARY = 9  # of ten nights are green
FIRST = date(2026, 3, 1)
EPOCHS, IMAGES, CELLS = (1, 1000, 40) if QUICK else (TrainingPlan.epochs, None, None)

pytestmark = [pytest.mark.benchmark, needs_data("ood.zip")]


def other_stain(image: Image.Image) -> Image.Image:
    """More red and less blue, as an old or acid stain has it; black stays black."""
    gains = np.asarray([1.15, 0.95, 0.8])
    return Image.fromarray(np.clip(np.asarray(image) * gains, 0, 255).astype(np.uint8))


def out_of_focus(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(4))


def by_patient(cells: pa.Table) -> dict[str, pa.Table]:
    """The cells of each patient, patients in order of their first photograph."""
    ordered = cells.sort_by([("acquired_at", "ascending"), ("uri", "ascending")])
    names = ordered["patient_id"].to_pylist()
    rows = {name: [i for i, each in enumerate(names) if each == name] for name in names}
    return {name: ordered.take(mine) for name, mine in rows.items()}


def night_cells(patients: list[pa.Table]) -> list[pa.Table]:
    """Cells for each night: a window of patients that moves on, a patient's cells dealt out."""
    last = len(patients) - PATIENTS
    windows = [range(s, s + PATIENTS) for s in (round(n * last / 13) for n in range(NIGHTS))]
    nights: list[list[pa.Table]] = [[] for _ in windows]
    for number, cells in enumerate(patients):
        mine = [night for night, window in enumerate(windows) if number in window]
        for turn, night in enumerate(mine):
            nights[night].append(cells.take(list(range(turn, len(cells), len(mine)))))
    return [pa.concat_tables(parts) for parts in nights]


def altered(cells: pa.Table, change: Callable[[Image.Image], Image.Image], to: Path) -> str:
    """The same cells, changed, as files of the same names."""
    to.mkdir()
    for uri in cells["uri"].to_pylist():
        name = uri.partition("::")[0].rpartition("/")[2]
        change(decode_rgb(read_bytes(uri))).save(to / name)
    return str(to)


def manifest(cells: pa.Table, to: Path) -> str:
    pq.write_table(cells, to)
    return str(to)


def test_a_fortnight_tells_its_odd_nights_apart(tmp_path: Path, record: Record) -> None:
    patients = list(by_patient(list_images(str(DATA / "cell_images.zip"))).values())
    labelled = list_images(str(DATA / "cell_images.zip"), classes=["Parasitized", "Uninfected"])
    mine = {table["patient_id"][0].as_py() for table in patients[::2]}
    keep = [name in mine for name in labelled["patient_id"].to_pylist()]
    first = manifest(labelled.filter(pa.array(keep)), tmp_path / "first.parquet")
    nights = [cells.slice(0, CELLS) for cells in night_cells(patients[1::2])]
    others = list_images(str(DATA / "ood.zip"))
    planted = [i for i, uri in enumerate(others["uri"].to_pylist()) if "white_cells" in uri]
    settings = Settings(store=str(tmp_path / "store"), workers=2)

    def source(night: int) -> str:
        cells = nights[night]
        if night == STAIN:
            return altered(cells, other_stain, tmp_path / "stain")
        if night == FOCUS:
            return altered(cells, out_of_focus, tmp_path / "focus")
        if night == EMPTY:
            (tmp_path / "empty").mkdir()
            return str(tmp_path / "empty")
        if night == OTHERS:
            extra = others.take(planted[: max(1, len(cells) // 50)])
            cells = pa.concat_tables([cells, extra.select(cells.schema.names)])
        return manifest(cells, tmp_path / f"night-{night}.parquet")

    train.fn(Train(images=first, model="m", epochs=EPOCHS, limit=IMAGES), settings)
    fit.fn(Fit(images=first, batch="first", limit=IMAGES), settings)
    for night in range(NIGHTS):
        day = FIRST + timedelta(days=night)
        screen.fn(Screen(images=source(night), batch=f"{day}", date=day), settings)
        if night == RERUN:
            screen.fn(
                Screen(images=str(tmp_path / f"night-{night}.parquet"), batch=f"{day}", force=True),
                settings,
            )
    rows = read_batches_before(Store(settings.store), date.max, 60).to_pylist()
    for row in rows:
        print(row["batch"], row["images"], row["light"], "; ".join(row["reasons"]))
    assert len(rows) == NIGHTS
    lights = [row["light"] for row in rows]
    odd = {
        STAIN: "unlike all known slides",
        FOCUS: "abnormal",
        OTHERS: "of these are so by chance",
        EMPTY: "no images",
    }
    told = [
        lights[night] != "green" and reason in "; ".join(rows[night]["reasons"])
        for night, reason in odd.items()
    ]
    green = [lights[night] == "green" for night in range(NIGHTS) if night not in odd]
    for name, right, least in (
        ("odd nights told, for their reason", told, len(odd)),
        ("ordinary nights green", green, ORDINARY),
    ):
        record(name, "", ours=[sum(right)], limit=least, bound=1.0, higher_is_better=True)
