import os
import shutil
import time
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from flows.stages import inbox as module
from flows.stages.inbox import Arrivals, arrivals, list_inbox
from storage.batches.nights import Night, freeze_night
from storage.store import Store
from tasks.images.access.files import SourceError

HOUR = 3600.0


def write(path: Path, content: bytes = b"image", *, age: float = HOUR) -> None:
    """Write a file that was last modified so many seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))


def names(found: Arrivals) -> list[str]:
    return [uri.rsplit("/", 1)[1] for uri in found.images["uri"].to_pylist()]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long somebody slept; nobody really does."""
    told = list[float]()
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=told.append))
    return told


def take(
    store: Store, inbox: Path | str, *earlier: Night, settle: float = 60.0
) -> tuple[Arrivals, Night]:
    found = arrivals(store, earlier, str(inbox), classes=(), settle=settle)
    night = freeze_night(
        store,
        "night",
        date(2026, 3, 1 + len(earlier)),
        found.images,
        inbox=str(inbox),
        frozen_at=datetime.now(UTC),
    )
    return found, night


def test_a_file_that_grows_or_appears_between_two_looks_is_left(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time says that it is old, as with a copy that keeps times."""
    inbox = tmp_path / "inbox"
    write(inbox / "done.png")
    write(inbox / "grows.png")
    honest = module.list_images

    def later(source: str, **options: object) -> object:
        write(inbox / "grows.png", b"a longer image")
        write(inbox / "appears.png")
        return honest(source, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "list_images", later)
    found, _ = take(store, inbox)
    assert (names(found), found.unsettled) == (["done.png"], 2)


def test_another_size_is_another_image_and_the_same_size_is_told(
    store: Store, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    for name in ("same", "longer", "untouched"):
        write(inbox / f"{name}.png")
    _, night = take(store, inbox)
    night = night.model_copy(update={"frozen_at": datetime.fromtimestamp(time.time() - 600, UTC)})
    write(inbox / "same.png", b"other", age=300)
    write(inbox / "longer.png", b"a longer image", age=300)
    found = arrivals(store, [night], str(inbox), classes=(), settle=60)
    assert (names(found), found.rewritten) == (["longer.png"], 1)
    later = night.model_copy(update={"frozen_at": datetime.now(UTC)})
    found = arrivals(store, [night, later], str(inbox), classes=(), settle=60)
    assert found.rewritten == 0  # was told the night before


def test_a_file_from_the_future_is_taken_once_it_keeps_its_size(
    store: Store, tmp_path: Path, slept: list[float]
) -> None:
    """The microscope's clock is wrong."""
    inbox = tmp_path / "inbox"
    write(inbox / "a.png", age=-24 * HOUR)
    found, _ = take(store, inbox, settle=60)
    assert slept == [60]
    assert names(found) == ["a.png"]


def test_where_no_times_are_told_two_looks_are_apart(
    store: Store, tmp_path: Path, slept: list[float]
) -> None:
    fs = fsspec.filesystem("memory")
    root = f"/{tmp_path.name}"
    fs.pipe(f"{root}/a.png", b"image")
    try:
        found, night = take(store, f"memory:/{root}", settle=60)
        assert slept == [60]
        assert names(found) == ["a.png"]
        assert names(take(store, f"memory:/{root}", night, settle=0)[0]) == []
    finally:
        fs.rm(root, recursive=True)


def test_an_inbox_on_s3_tells_times(s3_bucket: str, store: Store, tmp_path: Path) -> None:
    inbox = f"{s3_bucket}/{tmp_path.name}"
    fs = fsspec.filesystem("s3")
    fs.pipe(f"{inbox}/a.png", b"image")
    (seen,) = list_inbox(inbox).values()
    assert seen.modified is not None
    assert names(arrivals_of := take(store, inbox, settle=60)[0]) == []
    assert arrivals_of.unsettled == 1
    time.sleep(1)  # S3 tells whole seconds
    assert names(arrivals(store, [], inbox, classes=(), settle=0)) == ["a.png"]  # type: ignore[arg-type]


def test_labels_and_names_are_read_as_from_any_folder(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "inbox" / "Parasitized" / "C1P1thinF_IMG_20150604_104722_cell_9.png")
    found = arrivals(store, [], str(tmp_path / "inbox"), classes=("Parasitized",), settle=60)
    (row,) = found.images.to_pylist()
    assert (row["label"], row["patient_id"]) == ("Parasitized", "C1P1")


def test_a_pattern_is_an_inbox(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "ward-1" / "a.png")
    write(tmp_path / "ward-2" / "b.png")
    write(tmp_path / "other" / "c.png")
    found = arrivals(store, [], f"{tmp_path}/ward-*/*.png", classes=(), settle=60)
    assert names(found) == ["a.png", "b.png"]


def test_what_is_no_inbox_is_refused(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "inbox" / "a.png")
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "inbox")
    for source, says in (
        (archive, "is one file, and no inbox"),
        (f"zip://a.png::{archive}", "is one file, and no inbox"),
        (str(tmp_path / "none"), "is the folder mounted"),
    ):
        with pytest.raises(SourceError, match=says):
            arrivals(store, [], source, classes=(), settle=0)
