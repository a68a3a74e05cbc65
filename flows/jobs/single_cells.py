"""Refuse photographs of many cells where pictures of single cells are read."""

from typing import TYPE_CHECKING

from flows.jobs.worker import settle_finder

if TYPE_CHECKING:
    from PIL import Image


def refuse_photograph(picture: "Image.Image") -> None:
    """Raise BadImageError where the finder sees several cells in an RGB picture."""
    # Hardly a night has a file that is large enough to be searched.
    from tasks.segmentation.many_cells import refuse_many_cells

    settle_finder()
    refuse_many_cells(picture)
