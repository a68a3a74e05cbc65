"""A night's list of images is never in memory as a whole."""

from pathlib import Path

import pytest
from PIL import Image

from tests.support import long_list, paths, processes

FEW, MANY = 6_000, 36_000
IN_MEMORY = 0.6 / 1024  # MiB an image; as a list in memory each takes more than a KiB


@pytest.mark.slow
def test_a_list_of_many_images_takes_no_more_memory_than_one_of_few(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "cell.png")
    command = ("-X", "faulthandler", "-m", "tests.support.long_list")
    taken = {}
    for rows in (FEW, MANY):
        images = long_list.folder_of(tmp_path / "cell.png", rows, tmp_path / f"{rows}")
        done = processes.python(*command, tmp_path / f"store-{rows}", images, cwd=paths.ROOT)
        taken[rows] = float(done.stdout.splitlines()[-1])
    assert taken[MANY] - taken[FEW] < IN_MEMORY * (MANY - FEW)
