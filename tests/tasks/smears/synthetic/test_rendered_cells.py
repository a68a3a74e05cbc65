import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.smears.synthetic import rendered_cells as render
from tasks.smears.synthetic.rendered_cells import Patient, Stage
from tasks.types import Pixels

NAME = re.compile(
    r"^(?P<patient>.+?)_?thin.*?(?P<field>IMG_\d{8}_\d{6}[a-z]?)_cell_(?P<cell>\d+)\.png$",
    re.IGNORECASE,
)
SEEDS = range(20)


def draw_patient(seed: int) -> Patient:
    return render.draw_patient(seed + 1, np.random.default_rng(seed))


def draw_cell(seed: int, stage: Stage | None = None) -> Pixels:
    return render.red_cell(draw_patient(seed), np.random.default_rng(seed), stage)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


def corners(image: Pixels) -> Pixels:
    return image[[0, 0, -1, -1], [0, -1, 0, -1]]


def write_night(folder: Path, seed: int = 5) -> dict[str, str]:
    return render.write_night(
        folder,
        patients=3,
        cells_per_patient=10,
        parasitized_fraction=0.3,
        planted_per_kind=2,
        seed=seed,
        first_patient=40,
    )


def write_collection(folder: Path, seed: int = 5) -> int:
    return render.write_collection(
        folder, patients=3, cells_per_patient=10, parasitized_fraction=0.4, seed=seed
    )


@pytest.mark.parametrize("stage", [None, "ring", "trophozoite"])
def test_a_red_cell_is_a_masked_crop_of_the_size_of_real_ones(stage: Stage | None) -> None:
    crops = [draw_cell(seed, stage) for seed in SEEDS]
    assert {(crop.ndim, crop.shape[2], crop.dtype.name) for crop in crops} == {(3, 3, "uint8")}
    sides = np.array([crop.shape[:2] for crop in crops])
    assert sides.min() >= 85
    assert sides.max() <= 200
    assert 115 <= np.median(sides) <= 145
    assert all(not corners(crop).any() for crop in crops)
    assert all(0.6 < crop.any(axis=2).mean() < 0.95 for crop in crops)


@pytest.mark.parametrize("stage", ["ring", "trophozoite"])
def test_a_parasite_adds_purple_pixels(stage: Stage) -> None:
    def purple(image: Pixels) -> int:
        red, green, blue = np.moveaxis(image.astype(int), 2, 0)
        typical = np.median(green[green > 0])
        return int(((green < 0.7 * typical) & (red > green + 20) & (blue > green + 20)).sum())

    infected = [purple(draw_cell(seed, stage)) for seed in SEEDS]
    uninfected = [purple(draw_cell(seed)) for seed in SEEDS]
    assert np.median(uninfected) == 0
    assert np.median(infected) > 60
    assert np.mean(np.array(infected) > max(uninfected)) > 0.9


def test_a_collection_has_the_layout_of_the_real_one(tmp_path: Path) -> None:
    assert write_collection(tmp_path) == 30
    files = sorted(tmp_path.rglob("*.png"))
    assert {p.parent for p in files} == {tmp_path / "Parasitized", tmp_path / "Uninfected"}
    assert len(list((tmp_path / "Parasitized").iterdir())) == 12
    names = [NAME.match(p.name) for p in files]
    assert all(names)
    keys = {(m["patient"], m["cell"]) for m in names if m}
    assert len(keys) == len(files) == 30
    assert {patient for patient, _ in keys} == {"C101P1", "C102P2", "C103P3"}
    assert len({(m["patient"], m["field"]) for m in names if m}) > 6
    for path in files:
        with Image.open(path) as image:
            assert image.mode == "RGB"
            image.load()


@pytest.mark.parametrize("write", [write_collection, write_night])
def test_a_collection_and_a_night_follow_their_seed(
    tmp_path: Path, write: Callable[[Path, int], object]
) -> None:
    for folder, seed in (("one", 1), ("same", 1), ("other", 2)):
        write(tmp_path / folder, seed)
    one, same, other = (read_tree(tmp_path / folder) for folder in ("one", "same", "other"))
    assert one == same
    assert one != other


def test_a_night_plants_every_kind_under_ordinary_names(tmp_path: Path) -> None:
    planted = write_night(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3 * 10 + len(planted)
    assert sorted(planted.values()) == sorted([*render.ABNORMAL] * 2 + ["truncated file"])
    assert planted.keys() <= {p.name for p in files}
    names = [NAME.match(p.name) for p in files]
    assert all(names)
    assert {m["patient"] for m in names if m} == {"C140P40", "C141P41", "C142P42"}
    assert len({m["field"][4:12] for m in names if m}) == 1
    for path in files:  # only the truncated one fails to decode
        if planted.get(path.name) == "truncated file":
            with pytest.raises(OSError, match="truncated"):
                Image.open(io.BytesIO(path.read_bytes())).load()
        else:
            Image.open(io.BytesIO(path.read_bytes())).load()


def test_an_outline_follows_blocks_as_that_of_the_training_cells_does() -> None:
    y, x = np.mgrid[:64, :64]
    coarse = render.coarsen(np.hypot(x - 31, y - 31) < 28)
    blocks = coarse.reshape(16, render.BLOCK, 16, render.BLOCK)
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert coarse.mean() == pytest.approx(np.pi * 28**2 / 64**2, rel=0.05)
