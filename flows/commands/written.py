"""Write files outside the store whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.images.access.files import SourceError


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a file to write, which takes the path when it is complete.

    Raises:
        SourceError: it cannot be written; nothing is left of it.
    """
    stage = path.with_name(f".part-{path.name}")
    try:
        yield stage
        stage.replace(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be written: {os.strerror(error.errno or 0)}") from error
    finally:
        if stage.exists():
            stage.unlink()
