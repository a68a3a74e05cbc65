"""Write files outside the store whole or not at all, and replace none unless asked."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from storage.store import Store
from tasks.images.access.files import SourceError


def to_write(to: str, store: Store, *, force: bool) -> Path:
    """Return the path of a file that a command may write.

    SourceError if it is not on this machine, or is in the store, wherever its path seems to lead,
    or exists without ``force``.
    """
    if "://" in to:
        raise SourceError(f"--to: {to} is not on this machine: give a path")
    path = Path(to)
    with _naming(path):
        real = Path(os.path.realpath(path))  # `resolve` fails where links go in circles
        above = [each for each in real.parents if each.exists()]
        root = Path(store.root)  # which may be mounted twice
        if store.is_local and root.exists() and any(map(root.samefile, above)):
            raise SourceError(
                f"--to: {to} is in the store {store.url}, which only slidewatch fills: give a path "
                "outside of it"
            )
        if real.exists() and not real.is_file():
            raise SourceError(f"--to: {to} is a folder, a pipe or a device: give a file")
        if not force and os.path.lexists(path):
            raise SourceError(f"{to} is there already: give another --to, or --force to replace it")
    return path


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a file to write, which takes the path when it is complete; else nothing is left."""
    stage = path.with_name(f".part-{uuid4().hex}")
    with _naming(path):
        try:
            yield stage
            stage.replace(path)
        finally:
            stage.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raise SourceError, which names the path, for an OSError in the block."""
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno or errno.EIO)
        raise SourceError(f"{path} cannot be written: {why}") from error
