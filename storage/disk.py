"""Write to a local disk so that what was written is there after a power cut, or not at all."""

import errno
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def appear(stage: Path, target: Path, once: bool) -> None:
    """Let a staged file appear under its name; with ``once``, FileExistsError where one is there.

    The file and the folder that names it are synced: a power cut cannot take it away again.
    """
    with stage.open("rb+") as written:
        os.fsync(written.fileno())
    make_folder(target.parent)
    if once:
        os.link(stage, target)
    else:
        stage.replace(target)
    # The name is in the folder, which is a file of its own.
    sync_folder(target.parent)


def appear_folder(stage: Path, behind: Path, target: Path) -> None:
    """Let a staged folder that is synced appear under a free name, by way of a name ``behind``."""
    stage.rename(behind)
    make_folder(target.parent)
    behind.rename(target)
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and sync the folders that new ones are named in."""
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
    """Sync files that other code has written, and the folders from each of them up to a root.

    A file that is absent has only its folders synced, so that it stays absent. All files come
    before all folders: the journal that the first ones write holds most of the names already.
    """
    folders: set[Path] = set()
    for file in files:
        with suppress(FileNotFoundError), file.open("rb") as written:
            os.fsync(written.fileno())
        above = [each for each in file.parents if each.is_relative_to(root)]
        folders.update(each for each in above if each.is_dir())
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        sync_folder(folder)


def sync_tree(root: Path) -> None:
    """Sync all files and folders in a folder, and the folder itself."""
    sync_files((path for path in root.rglob("*") if path.is_file()), root)


def discard(path: Path, trash: Path) -> None:
    """Remove a file or folder in one step by a rename into a folder, and delete it there.

    Nothing happens where it is gone already, by another run.

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
    """Delete a file, or a folder with all in it, also where another process still writes to it."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    while True:
        try:
            shutil.rmtree(path)
        except FileNotFoundError:  # somebody else deletes it too
            if not path.exists():
                return
        except OSError as error:
            # On a network's disk a stalled writer may know the folder by another name.
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
