import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.commands import malaria_data as module
from flows.commands.malaria_data import NAME, malaria
from flows.options.tools import Malaria
from flows.settings import Settings
from tasks.images.access.files import SourceError
from tests.support.images import write_cells


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive of four cells where nobody looks for it yet."""
    write_cells(tmp_path / "cells", 1, 4, seed=0)
    path = tmp_path / "downloaded.zip"
    with zipfile.ZipFile(path, "w") as made:
        for image in sorted((tmp_path / "cells").rglob("*.png")):
            made.write(image, f"cell_images/{image.parent.name}/{image.name}")
    return path


def test_an_archive_is_fetched_once_and_verified_from_then_on(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.pooch, "retrieve", copy_of(archive))
    data = tmp_path / "data"
    outcome = malaria(Malaria(to=str(data)), Settings())
    assert outcome.images == 4
    assert (data / NAME).read_bytes() == archive.read_bytes()
    assert (data / f"{NAME}.sha256").read_text().split() == [outcome.sha256, NAME]
    assert sorted(path.name for path in data.iterdir()) == [NAME, f"{NAME}.sha256"]
    archive.unlink()
    assert malaria(Malaria(to=str(data)), Settings()) == outcome
    with (data / NAME).open("ab") as file:
        file.write(b"!")
    with pytest.raises(SourceError, match="was recorded"):
        malaria(Malaria(to=str(data)), Settings())


@pytest.mark.parametrize(
    ("file", "says"), [("page.html", "zip archive"), ("none.zip", "by other means, and put it at")]
)
def test_what_is_no_archive_of_images_is_refused(
    tmp_path: Path, file: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.html").write_text("<h1>moved</h1>")
    monkeypatch.setattr(module.pooch, "retrieve", copy_of(tmp_path / file))
    with pytest.raises(SourceError, match=says):
        malaria(Malaria(to=str(tmp_path / "data")), Settings())
    assert list((tmp_path / "data").iterdir()) == []


def copy_of(file: Path) -> Callable[..., None]:
    """A fetcher of a file of this machine in place of one of the network."""
    return lambda *_, fname, path, **__: shutil.copyfile(file, Path(path) / fname)
