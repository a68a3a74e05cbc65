"""Write to a local disk so that each file survives a power cut, or was never there."""

import errno
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from uuid import uuid4

SYNCS = 4  # of files, at once
PASSING = set[Path]()  # folders that end with this process, whose files need not outlive it


def appear(stage: Path, target: Path, once: bool) -> None:
    """Move a staged file to its name; with ``once``, FileExistsError if the name is taken.

    Both the file and its folder are synced, so a power cut cannot undo the move.
    """
    sync(stage)
    make_folder(target.parent)
    if once:
        os.link(stage, target)
    else:
        stage.replace(target)
    # A folder holds the names, and has to be synced by itself.
    sync(target.parent)


def appear_folder(stage: Path, behind: Path, target: Path) -> None:
    """Move a staged, synced folder to a free name, by way of the path ``behind``."""
    stage.rename(behind)
    make_folder(target.parent)
    behind.rename(target)
    sync(target.parent)


def clock(folder: Path) -> float:
    """Return the time of the disk in seconds; its clock may be another machine's."""
    with TemporaryFile(dir=folder) as file:
        return os.fstat(file.fileno()).st_mtime


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and sync the folders in which new names appear."""
    new = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in new:
        sync(each.parent)


def sync(path: Path) -> None:
    """Sync the content of a file, or the names in a folder, unless it is in a passing folder."""
    if not PASSING.isdisjoint((path, *path.parents)):
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def sync_files(files: Iterable[Path]) -> None:
    """Sync files that other code wrote, if they are there, and then the folders that name them."""
    files = list(files)
    _sync_together(files, {file.parent for file in files})


def sync_tree(root: Path) -> None:
    """Sync a folder with everything in it."""
    paths = list(root.rglob("*"))
    folders = {path for path in paths if path.is_dir()}
    _sync_together([path for path in paths if path not in folders], folders | {root})


def _sync_together(files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Sync files at once, then folders: a disk's journal takes several in the time of one."""
    with ThreadPoolExecutor(SYNCS) as pool:
        for paths in (files, folders):
            list(pool.map(_sync, paths))


def _sync(path: Path) -> None:
    with suppress(FileNotFoundError):
        sync(path)


def discard(path: Path, trash: Path) -> None:
    """Remove a file or folder in one step: rename it into a folder, and delete it there.

    Nothing happens if another run has removed it; FileNotFoundError if the folder ``trash`` is
    gone.
    """
    gone = trash / f"removed-{uuid4().hex}"
    try:
        path.rename(gone)
    except FileNotFoundError:
        if trash.is_dir():
            return
        raise
    sync(path.parent)
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
