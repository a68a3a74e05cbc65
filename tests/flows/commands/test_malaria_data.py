import zipfile
from pathlib import Path

import pytest

from flows.commands.malaria_data import NAME, malaria
from flows.options.tools import Malaria
from flows.settings import Settings
from tasks.images.access.files import SourceError
from tasks.synthetic.rendered_cells import write_collection


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    write_collection(
        tmp_path / "cells", patients=1, cells_per_patient=4, parasitized_fraction=0.5, seed=0
    )
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


def test_what_is_no_archive_of_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<h1>moved</h1>")
    with pytest.raises(SourceError, match="zip archive"):
        malaria(
            Malaria(to=str(tmp_path / "data"), from_file=str(tmp_path / "page.html")), Settings()
        )
    assert list((tmp_path / "data").iterdir()) == []


def test_a_missing_file_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        malaria(
            Malaria(to=str(tmp_path / "data"), from_file=str(tmp_path / "none.zip")), Settings()
        )
    assert list((tmp_path / "data").iterdir()) == []
