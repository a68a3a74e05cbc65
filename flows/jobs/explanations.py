"""Read a few cells again, to show a thumbnail of each and why it is abnormal."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flows.jobs.quarantine import Sparing
from flows.jobs.verified import load_fitted_detector
from flows.jobs.worker import network_of
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.store import Store
from tasks.detector.explanation import Explanation, explain
from tasks.images.access.files import ChangedError
from tasks.images.decoding import BadImageError, resize
from tasks.images.regions import ImageRef, find_unchanged
from tasks.network.cutting import without_shift
from tasks.visualisation.thumbnails import Exhibit, make_exhibit, thumbnail

AT_ONCE = 16  # images with maps in memory at the same time


@dataclass(frozen=True)
class ExhibitJob(Sparing):
    """Cells to read again: their places, and their digests when they were screened."""

    store: Store
    model: ModelCard
    detector: DetectorCard
    cells: tuple[tuple[ImageRef, str], ...]

    def rows(self) -> int:
        """Count the cells."""
        return len(self.cells)

    def probe(self, row: int) -> None:
        """Make an exhibit of one cell, and keep nothing."""
        make_exhibits(replace(self, cells=self.cells[row : row + 1], killers=frozenset()))


@dataclass(frozen=True)
class _Seen:
    """A cell as input to the network, (side, side, 3), and as shown on a page.

    It is ``cut`` out of a photograph, or was a file of its own.
    """

    pixels: NDArray[np.uint8]
    small: Image.Image
    cut: bool


def make_exhibits(job: ExhibitJob) -> list[Exhibit]:
    """Make an exhibit of each cell, in order; if a cell is unreadable it says why; never raise."""
    network = network_of(job.store, job.model)
    detector = load_fitted_detector(job.store, job.detector)
    exhibits = list[Exhibit]()
    for start in range(0, len(job.cells), AT_ONCE):
        rows = range(start, min(start + AT_ONCE, len(job.cells)))
        found = [_see(job, row, network.spec.side, network.blocks) for row in rows]
        seen = [each for each in found if isinstance(each, _Seen)]
        explanations: Iterator[Explanation] = iter(())
        if seen:
            pixels = np.stack([each.pixels for each in seen])
            cut = np.asarray([each.cut for each in seen])
            taps, _ = network.compared(pixels, cut)
            maps = without_shift(network.maps(pixels), network.cutting, cut)
            explanations = iter(explain(detector, taps, maps))
        exhibits += [
            Exhibit(missing=each)
            if isinstance(each, str)
            else make_exhibit(each.small, next(explanations))
            for each in found
        ]
    return exhibits


def _see(job: ExhibitJob, row: int, side: int, blocks: bool) -> _Seen | str:
    """Read a cell of a job, or return why it cannot be read; reduce large images for display."""
    if row in job.killers:
        return "this image alone kills the worker that decodes it"
    ref, image_id = job.cells[row]
    try:
        image = find_unchanged(ref, image_id).image(blocks=blocks)
        return _Seen(resize(image, side), thumbnail(image), ref.outline is not None)
    except ChangedError:
        return "the file has changed since it was screened"
    except BadImageError as error:
        return f"the image cannot be decoded: {error.reason}"
    except Exception:  # a page must not depend on what a source raises
        return "the image cannot be read any more"
