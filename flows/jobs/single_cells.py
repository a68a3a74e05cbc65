"""Refuse photographs of many cells where single cells are read, and count the cells of pictures."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from flows.jobs.worker import settle_finder
from tasks.images.access.files import read_bytes
from tasks.images.decoding import decode_rgb

if TYPE_CHECKING:
    from PIL import Image


def refuse_photograph(picture: "Image.Image") -> None:
    """Raise BadImageError where the finder sees several cells in an RGB picture."""
    # Hardly a night has a file that is large enough to be searched.
    from tasks.segmentation.many_cells import refuse_many_cells

    settle_finder()
    refuse_many_cells(picture)


@dataclass(frozen=True)
class CountJob:
    """Pictures in which whole cells are counted; ``killers`` are those that kill workers."""

    uris: tuple[str, ...]
    killers: frozenset[int] = frozenset()

    def rows(self) -> int:
        """Count the pictures."""
        return len(self.uris)

    def probe(self, row: int) -> None:
        """Count the cells of one picture as of many, and keep nothing."""
        _count(self.uris[row])

    def quarantine(self, rows: list[int]) -> Self:
        """Return the job that leaves these pictures alone."""
        return replace(self, killers=frozenset(rows))


def count_cells(job: CountJob) -> list[int | None]:
    """Count the whole cells of each picture; None of one that cannot be read."""
    settle_finder()
    return [None if row in job.killers else _count(uri) for row, uri in enumerate(job.uris)]


def _count(uri: str) -> int | None:
    from tasks.segmentation.many_cells import whole_cells

    try:
        return whole_cells(np.asarray(decode_rgb(read_bytes(uri))))
    except Exception:  # whoever reads it for the report says what is wrong with it
        return None
