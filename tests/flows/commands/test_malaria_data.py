import zipfile
from pathlib import Path

import pytest

from flows.commands.malaria_data import NAME, malaria
from flows.options.tools import Malaria
from flows.settings import Settings
from tasks.images.access.files import SourceError
from tests.support.images import write_cells


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_cells(tmp_path / "cells", 1, 4, seed=0)
    path = tmp_path / "downloaded.zip"
    with zipfile.ZipFile(path, "w") as made:
        for image in sorted((tmp_path / "cells").rglob("*.png")):
            made.write(image, f"cell_images/{image.parent.name}/{image.name}")
    return path


def test_an_archive_is_taken_from_a_file_and_its_checksum_recorded(
    archive: Path, tmp_path: Path
) -> None:
    outcome = malaria(Malaria(to=str(tmp_path / "data"), from_file=str(archive)), Settings())
    assert outcome.images == 4
    assert (tmp_path / "data" / NAME).read_bytes() == archive.read_bytes()
    recorded = (tmp_path / "data" / f"{NAME}.sha256").read_text().split()
    assert recorded == [outcome.sha256, NAME]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [NAME, f"{NAME}.sha256"]


def test_an_archive_that_is_there_is_verified_not_fetched(archive: Path, tmp_path: Path) -> None:
    first = malaria(Malaria(to=str(tmp_path / "data"), from_file=str(archive)), Settings())
    assert malaria(Malaria(to=str(tmp_path / "data"), from_file="/nowhere"), Settings()) == first
    with (tmp_path / "data" / NAME).open("ab") as file:
        file.write(b"!")
    with pytest.raises(SourceError, match="was recorded"):
        malaria(Malaria(to=str(tmp_path / "data")), Settings())


@pytest.mark.parametrize(
    ("file", "says"), [("page.html", "zip archive"), ("none.zip", "does not exist")]
)
def test_what_is_no_archive_of_images_is_refused(tmp_path: Path, file: str, says: str) -> None:
    (tmp_path / "page.html").write_text("<h1>moved</h1>")
    given = Malaria(to=str(tmp_path / "data"), from_file=str(tmp_path / file))
    with pytest.raises(SourceError, match=says):
        malaria(given, Settings())
    assert list((tmp_path / "data").iterdir()) == []
