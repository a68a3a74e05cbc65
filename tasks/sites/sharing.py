"""Prepare statistics to leave a laboratory: no features of a single cell, no names of persons.

The mean of one cell is its features. Such means are left out of the statistics by slide; the sums
over all cells still include these cells. If only one cell of a class were left out, the difference
of the two would be that cell, so the slide with the fewest cells is left out as well.

Names become pseudonyms by a secret of the store (HMAC, RFC 2104): even a list of all names does not
show which of them are in a file.
"""

import hmac
from dataclasses import replace

import numpy as np

from tasks.counting.error_rates import ErrorCounts
from tasks.detector.moments import ClassStatistics
from tasks.detector.slides.groups import GroupKey, GroupStatistics
from tasks.sites.foreign_sites import without_detector
from tasks.types import Arrays

CELLS = "own/cells"  # the arrays with the scores of a site's cells
TOGETHER = 5  # cells whose scores are averaged


def shareable(statistics: ClassStatistics, key: bytes) -> ClassStatistics:
    """Remove means of single cells, and replace names of slides and patients.

    Raises:
        ValueError: a class has a single cell, which its sum would reveal, or slides are unknown.
    """
    if statistics.slides is None:
        raise ValueError("these statistics have no slides: fit once more to add them")
    if (statistics.n == 1).any():
        raise ValueError("a class has only one cell, which it would reveal: fit more of it first")
    return replace(statistics, slides=shareable_groups(statistics.slides, key))


def shareable_groups(groups: GroupStatistics, key: bytes) -> GroupStatistics:
    """Remove means of single cells by slide and class, and replace names."""
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
    """Replace names of slides and patients, and remove kinds of which a slide has one cell.

    The thresholds that a single cell passes reveal its log-odds.
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
    """Remove the detector's own arrays from a site's, and average scores of cells.

    The detector has a score for each fitted cell. Of the site's own scores, every `TOGETHER`
    successive ones become one, with their mean and total weight.
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
    """Return the pseudonym of a patient's or slide's name, always the same; "" stays "".

    >>> pseudonym("P1", b"a secret"), pseudonym("", b"a secret")
    ('d8645bc424eee46f', '')
    """
    return hmac.digest(key, name.encode(), "sha256").hex()[:16] if name else ""
