"""Files outside the store are replaced only when asked, and none is ever written into the store."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.commands.written import to_write, written
from flows.options import tools
from flows.options.tools import Contours, Look, PatientSheet, ReviewApply, ReviewExport
from flows.settings import Settings
from flows.smears.commands import patient
from flows.smears.commands.contours import contours
from flows.smears.commands.look import look
from flows.smears.commands.review.apply import apply
from flows.smears.commands.review.queue import export
from storage.store import Store
from tasks.images.access.files import SourceError
from tests.support.forced import published_and_forced

# What a command with this --to does, and the file that it writes there.
COMMANDS: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {
    "look": (look, lambda **to: Look(photo=__file__, **to), "page.html"),
    "contours": (contours, lambda **to: Contours(batch="night", **to), "to/slides-a.tiff.geojson"),
    "patient": (patient.patient, lambda **to: PatientSheet(name="p", **to), "page.csv"),
    "export": (patient.export, lambda **to: tools.Export(**to), "all.json"),
    "review export": (export, lambda **to: ReviewExport(batch="night", **to), "to/slides.csv"),
    "review apply": (apply, lambda **to: ReviewApply(batch="night", **to), "labels.parquet"),
}


@pytest.fixture
def settings(store: Store, tmp_path: Path) -> Settings:
    published_and_forced(store, tmp_path / "cell.png")
    return Settings(store=store.url)


def given(file: Path) -> str:
    """What --to names: the file, or the folder of several."""
    return str(file.parent if file.parent.name == "to" else file)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_there_is_named_and_stays(
    command: str, settings: Settings, tmp_path: Path
) -> None:
    function, options, name = COMMANDS[command]
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(SourceError, match=rf"{name} is there already: .* or --force to replace"):
        function(options(to=given(file)), settings)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("way", ["store", "models/..", "link"])
def test_no_file_is_written_into_the_store(
    command: str, way: str, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(settings.store)
    folder = {"link": tmp_path / "link", "store": Path(settings.store)}.get(
        way, Path(settings.store) / way
    )
    Path(settings.store, "models").mkdir()
    function, options, name = COMMANDS[command]
    before = sorted(Path(settings.store).rglob("*"))
    with pytest.raises(SourceError, match=r"is in the store .* give a path outside of it"):
        function(options(to=given(folder / name), force=True), settings)
    assert sorted(Path(settings.store).rglob("*")) == before


def test_with_force_a_folder_s_files_are_replaced(settings: Settings, tmp_path: Path) -> None:
    for force in (False, True):
        contours(Contours(batch="night", to=str(tmp_path / "to"), force=force), settings)
    assert [each.name for each in (tmp_path / "to").iterdir()] == ["slides-a.tiff.geojson"]


@pytest.mark.parametrize(
    ("to", "says"),
    [
        ("/dev/null", "is a folder, a pipe or a device"),
        ("/", "is a folder, a pipe or a device"),
        ("s3://bucket/page.html", "is not on this machine"),
        ("x" * 300, "cannot be written: File name too long"),
    ],
)
def test_what_cannot_be_a_file_is_refused(to: str, says: str, store: Store) -> None:
    with pytest.raises(SourceError, match=says):
        to_write(to, store, force=True)


def test_a_file_is_whole_or_stays_as_it_was(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("before")

    def fill() -> None:
        with written(page) as stage:
            stage.write_text("half")
            raise OSError(errno.ENOSPC, "")

    with pytest.raises(SourceError, match=r"page\.html cannot be written: No space left"):
        fill()
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [
        ("page.html", "before")
    ]
