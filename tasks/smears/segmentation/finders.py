"""Load a finder of cells: our own, or a function of a user's."""

import importlib
from collections.abc import Callable
from functools import partial

import numpy as np

from tasks.images.access.files import SourceError
from tasks.smears.segmentation.finding import Cells, find_cells
from tasks.types import Pixels

Finder = Callable[[Pixels, float | None], Cells]

OUTLINES = "outlines"  # the name of our own finder
TRIED = 128  # pixels of the side of the field on which a finder is tried


def load_finder(name: str) -> Finder:
    """Load a finder of cells by name: ``outlines``, or ``module:function`` of your own.

    It is called with a field, RGB uint8 (h, w, 3), and the diameter of a typical red cell in pixels
    or None, and returns `tasks.smears.segmentation.finding.Cells`.

    Raises:
        SourceError: there is no finder of that name.
    """
    if name == OUTLINES:
        return find_cells
    module, _, function = name.partition(":")
    try:
        finder: Finder = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise SourceError(
            f"no finder of cells {name!r} ({error}): there is {OUTLINES!r}, or give "
            "module:function of your own"
        ) from None
    return finder


def for_learning(finder: Finder) -> Finder:
    """Let our finder take dark nuclei for red cells, in a healthy person's field to learn from.

    Pieces of white cells are found as red cells at some laboratories. A detector that knew none
    would call them parasites, and take the white cells of a night for a smear of their own.
    """
    return partial(find_cells, dark=False) if finder is find_cells else finder


def try_finder(name: str) -> None:
    """Try a user's finder on an empty field, so that a wrong one fails at once.

    Raises:
        SourceError: there is no such finder, it fails, or it does not return cells.
    """
    finder = load_finder(name)
    if name == OUTLINES:
        return
    field = np.full((TRIED, TRIED, 3), 255, np.uint8)
    try:
        cells: object = finder(field, None)
    except Exception as error:
        raise SourceError(
            f"the finder {name} fails on an empty field ({type(error).__name__}: {error})"
        ) from error
    if not isinstance(cells, Cells):
        raise SourceError(
            f"the finder {name} returns {type(cells).__name__}, and not Cells of "
            "tasks.smears.segmentation.finding"
        )
