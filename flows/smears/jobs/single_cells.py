"""Refuse photographs of many cells as single cells, and count the cells in pictures."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flows.jobs import quarantine, worker
from tasks.images.access.files import read_bytes
from tasks.images.decoding import LARGEST_TRAINING_CELL, decode_rgb, is_masked

if TYPE_CHECKING:
    from PIL import Image


def refuse_photograph(picture: "Image.Image") -> None:
    """Raise BadImageError if the finder sees several cells in an RGB picture."""
    # Few nights have a file that is large enough to be searched.
    from tasks.smears.segmentation.whole_cells import refuse_many_cells

    worker.settle_finder()
    refuse_many_cells(picture)


@dataclass(frozen=True)
class CountJob(quarantine.Sparing):
    """Pictures in which to count whole cells."""

    uris: tuple[str, ...]

    def rows(self) -> int:
        """Count the pictures."""
        return len(self.uris)

    def probe(self, row: int) -> None:
        """Count the cells of one picture as in the job, and keep nothing."""
        _count(self.uris[row])


def count_cells(job: CountJob) -> list[int | None]:
    """Count the whole cells of each picture; None for one that cannot be read."""
    worker.settle_finder()
    return [None if row in job.killers else _count(uri) for row, uri in enumerate(job.uris)]


def _count(uri: str) -> int | None:
    try:
        picture = np.asarray(decode_rgb(read_bytes(uri)))
        if max(picture.shape) <= LARGEST_TRAINING_CELL and is_masked(picture):
            return 1  # few nights need the finder
        from tasks.smears.segmentation.whole_cells import whole_cells

        return whole_cells(picture)
    except Exception:  # the report will say why it cannot be read
        return None
