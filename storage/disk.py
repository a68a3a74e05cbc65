"""Write to a local disk so that each file survives a power cut, or was never there."""

import errno
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

SYNCS = 8  # of files, at once


def appear(stage: Path, target: Path, once: bool) -> None:
    """Move a staged file to its name; with ``once``, FileExistsError if the name is taken.

    Both the file and its folder are synced, so a power cut cannot undo the move.
    """
    with stage.open("rb+") as written:
        os.fsync(written.fileno())
    make_folder(target.parent)
    if once:
        os.link(stage, target)
    else:
        stage.replace(target)
    # A folder holds the names, and has to be synced by itself.
    sync_folder(target.parent)


def appear_folder(stage: Path, behind: Path, target: Path) -> None:
    """Move a staged, synced folder to a free name, by way of the path ``behind``."""
    stage.rename(behind)
    make_folder(target.parent)
    behind.rename(target)
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and sync the folders in which new names appear."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in new:
        sync_folder(each.parent)


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_files(files: Iterable[Path], root: Path) -> None:
    """Sync files that other code wrote, and every folder from them up to a root.

    For a missing file only the folders are synced, so that it stays missing. Files come before
    folders, because their journal entries already hold most of the names; they are synced together,
    because a disk's journal takes many in the time of one.
    """
    files = list(files)
    folders: set[Path] = set()
    for file in files:
        above = [each for each in file.parents if each.is_relative_to(root)]
        folders.update(each for each in above if each.is_dir())
    with ThreadPoolExecutor(SYNCS) as pool:
        list(pool.map(_sync_file, files))
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        sync_folder(folder)


def _sync_file(file: Path) -> None:
    with suppress(FileNotFoundError), file.open("rb") as written:
        os.fsync(written.fileno())


def sync_tree(root: Path) -> None:
    """Sync a folder with everything in it."""
    sync_files((path for path in root.rglob("*") if path.is_file()), root)


def discard(path: Path, trash: Path) -> None:
    """Remove a file or folder in one step: rename it into a folder, and delete it there.

    Nothing happens if another run has removed it already.

    Raises:
        FileNotFoundError: the folder ``trash`` is gone.
    """
    gone = trash / f"removed-{uuid4().hex}"
    try:
        path.rename(gone)
    except FileNotFoundError:
        if trash.is_dir():
            return
        raise
    sync_folder(path.parent)
    delete(gone)


def delete(path: Path) -> None:
    """Delete a file or a whole folder, even while another process still writes to it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    while True:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # another process deletes it too
            if not path.exists():
                return
        except OSError as error:
            # On a network disk a stalled writer may know the folder by another name.
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
