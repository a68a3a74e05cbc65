"""Make statistics fit to leave a laboratory: no feature of a single cell, no name of a person.

The mean of one cell is its features. Such means are left out of what is kept by slide; the sums
over all cells still have these cells in them. Where a class would have a single cell left out, the
difference of both would be that cell, so the slide with the fewest cells is left out with it.
"""

from dataclasses import replace
from hashlib import sha256

import numpy as np

from tasks.counting.error_rates import ErrorCounts
from tasks.detector.groups import GroupKey, GroupStatistics
from tasks.detector.moments import ClassStatistics


def shareable(statistics: ClassStatistics) -> ClassStatistics:
    """Leave out means of single cells, and replace names of slides and patients.

    Raises:
        ValueError: a class has a single cell, which its sum would tell, or slides are not known.
    """
    if statistics.slides is None:
        raise ValueError("these statistics know of no slides: fit once more, and they are added")
    if (statistics.n == 1).any():
        raise ValueError("a class of one cell is that cell: fit more of it before it is shared")
    return replace(statistics, slides=shareable_groups(statistics.slides))


def shareable_groups(groups: GroupStatistics) -> GroupStatistics:
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
    keys = [key for key, there in zip(groups.keys, stays.tolist(), strict=True) if there]
    renamed = [GroupKey(key.batch, pseudonym(key.patient), pseudonym(key.slide)) for key in keys]
    order = sorted(range(len(keys)), key=lambda place: renamed[place])
    places = np.flatnonzero(stays)[order]
    return GroupStatistics(
        tuple(renamed[place] for place in order),
        n[places],
        {tap: m[places] for tap, m in means.items()},
        groups.scatter,
    )


def shareable_errors(errors: ErrorCounts) -> ErrorCounts:
    """Replace the names of slides and patients."""
    names = [pseudonym(name) for name in errors.slides]
    order = sorted(range(len(names)), key=names.__getitem__)
    return ErrorCounts(
        tuple(names[place] for place in order),
        errors.negatives[order],
        errors.positives[order],
        errors.false[order],
        errors.found[order],
    )


def of_batch(groups: GroupStatistics, batch: str) -> GroupStatistics:
    """Put all groups into a batch of this name."""
    keys = tuple(GroupKey(batch, key.patient, key.slide) for key in groups.keys)
    return replace(groups, keys=keys)


def pseudonym(name: str) -> str:
    """Replace the name of a patient or slide, the same always by the same; none stays none.

    It is no secret: who knows a name can tell whether it is there.

    >>> pseudonym("P1"), pseudonym("")
    ('fbeae7c18667b698', '')
    """
    return sha256(name.encode()).hexdigest()[:16] if name else ""
