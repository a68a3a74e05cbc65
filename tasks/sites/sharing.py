"""Make statistics fit to leave a laboratory: no feature of a single cell, no name of a person.

The mean of one cell is its features. Such means are left out of what is kept by slide; the sums
over all cells still have these cells in them. Where a class would have a single cell left out, the
difference of both would be that cell, so the slide with the fewest cells is left out with it.

Names become pseudonyms by a secret of the store (HMAC, RFC 2104): whoever has a list of all names
cannot find out which of them are in a file.
"""

import hmac
from dataclasses import replace

import numpy as np

from tasks.counting.error_rates import ErrorCounts
from tasks.detector.moments import ClassStatistics
from tasks.detector.slides.groups import GroupKey, GroupStatistics
from tasks.sites.foreign_sites import without_detector
from tasks.types import Arrays

CELLS = "own/cells"  # where the scores of a site's cells are
TOGETHER = 5  # cells whose scores become one


def shareable(statistics: ClassStatistics, key: bytes) -> ClassStatistics:
    """Leave out means of single cells, and replace names of slides and patients.

    Raises:
        ValueError: a class has a single cell, which its sum would tell, or slides are not known.
    """
    if statistics.slides is None:
        raise ValueError("these statistics know of no slides: fit once more, and they are added")
    if (statistics.n == 1).any():
        raise ValueError("a class of one cell is that cell: fit more of it before it is shared")
    return replace(statistics, slides=shareable_groups(statistics.slides, key))


def shareable_groups(groups: GroupStatistics, key: bytes) -> GroupStatistics:
    """Leave out means of single cells by slide and class, and replace names."""
    n = groups.n.copy()
    for c in range(groups.classes):
        alone = n[:, c] == 1
        if alone.sum() == 1 and (n[:, c] > 1).any():
            several = np.where(n[:, c] > 1, n[:, c], np.inf)
            alone[int(several.argmin())] = True
        n[alone, c] = 0
    means = {tap: np.where(n[:, :, None] > 0, m, 0.0) for tap, m in groups.means.items()}
    stays = n.sum(axis=1) > 0
    kept = [each for each, there in zip(groups.keys, stays.tolist(), strict=True) if there]
    renamed = [
        GroupKey(each.batch, pseudonym(each.patient, key), pseudonym(each.slide, key))
        for each in kept
    ]
    order = sorted(range(len(kept)), key=lambda place: renamed[place])
    places = np.flatnonzero(stays)[order]
    return GroupStatistics(
        tuple(renamed[place] for place in order),
        n[places],
        {tap: m[places] for tap, m in means.items()},
        groups.scatter,
    )


def shareable_errors(errors: ErrorCounts, key: bytes) -> ErrorCounts:
    """Replace the names of slides and patients, and leave out kinds of which a slide has one cell.

    The thresholds that a single cell passes are its log-odds.
    """
    left = {}
    for kind, passing in (("negatives", "false"), ("positives", "found")):
        cells, table = getattr(errors, kind), getattr(errors, passing)
        left[kind] = np.where(cells > 1, cells, 0)
        left[passing] = np.where(cells[:, None] > 1, table, 0)
    names = [pseudonym(name, key) for name in errors.slides]
    stays = np.flatnonzero(left["negatives"] + left["positives"]).tolist()
    order = sorted(stays, key=names.__getitem__)
    return ErrorCounts(
        tuple(names[place] for place in order),
        *(left[name][order] for name in ("negatives", "positives", "false", "found")),
    )


def shareable_site(arrays: Arrays) -> Arrays:
    """Leave out of a site's arrays what its detector has, and average scores of cells.

    The detector has a score of each fitted cell. Of the scores that are the site's own, `TOGETHER`
    cells that follow one another become one, of their mean and of all of their weight.
    """
    left = without_detector(arrays)
    scores, weights = left[f"{CELLS}/scores"], left[f"{CELLS}/weights"]
    starts = np.arange(0, max(len(scores) - TOGETHER + 1, 1), TOGETHER)
    sums = np.add.reduceat(weights, starts)
    together = np.add.reduceat(weights * scores, starts) / sums
    return left | {f"{CELLS}/scores": together, f"{CELLS}/weights": sums}


def of_batch(groups: GroupStatistics, batch: str) -> GroupStatistics:
    """Put all groups into a batch of this name."""
    keys = tuple(GroupKey(batch, key.patient, key.slide) for key in groups.keys)
    return replace(groups, keys=keys)


def pseudonym(name: str, key: bytes) -> str:
    """Replace the name of a patient or slide, the same always by the same; none stays none.

    >>> pseudonym("P1", b"a secret"), pseudonym("", b"a secret")
    ('d8645bc424eee46f', '')
    """
    return hmac.digest(key, name.encode(), "sha256").hex()[:16] if name else ""
