import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tasks.smears.synthetic import rendered_cells as render

NAME = re.compile(
    r"^(?P<patient>.+?)_?thin.*?(?P<field>IMG_\d{8}_\d{6}[a-z]?)_cell_(?P<cell>\d+)\.png$",
    re.IGNORECASE,
)


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.png"))}


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


def test_a_collection_has_the_layout_of_the_real_one(tmp_path: Path) -> None:
    assert write_collection(tmp_path) == 30
    files = sorted(tmp_path.rglob("*.png"))
    assert {p.parent for p in files} == {tmp_path / "Parasitized", tmp_path / "Uninfected"}
    assert len(list((tmp_path / "Parasitized").iterdir())) == 12
    keys = {(m["patient"], m["cell"]) for p in files if (m := NAME.match(p.name))}
    assert len(keys) == len(files) == 30
    assert {patient for patient, _ in keys} == {"C101P1", "C102P2", "C103P3"}


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
    for path in files:  # only the truncated one fails to decode
        if planted.get(path.name) == "truncated file":
            with pytest.raises(OSError, match="truncated"):
                Image.open(io.BytesIO(path.read_bytes())).load()
        else:
            Image.open(io.BytesIO(path.read_bytes())).load()
