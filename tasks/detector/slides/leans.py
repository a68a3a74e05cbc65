"""Compute how far a group's healthy cells lean towards a parasite's score, part by part."""

import numpy as np
from numpy.typing import NDArray

from tasks.detector.slides.distance import Taps
from tasks.detector.slides.floor import residuals
from tasks.detector.slides.own_normal import OwnNormal
from tasks.detector.slides.references import References, Rows
from tasks.detector.slides.smears import nearest_part
from tasks.detector.witnesses import Witnesses

NONE = (0.0,)  # for cells that are compared with fitted ones


def group_leans(
    witnesses: Witnesses,
    normals: OwnNormal,
    references: References,
    taps: Taps,
    predicted: NDArray[np.integer],
    rows: Rows,
    parent: float = 0.0,
) -> tuple[float, ...]:
    """Compute the lean of each part of a group, by `Discriminant.lean`; one without parts.

    Only cells in the part's reference count, if it has one. A part that is not a smear has the lean
    of its parent.

    Args:
        witnesses: of the diagnosis.
        normals: the calibration on fitted slides.
        references: of the group.
        taps: features (n, d) of some cells of the group.
        predicted: (n,) classes as the network diagnoses them; -1 for cells that do not count.
        rows: (n,) the cells' rows in their batch.
        parent: the expected lean before the group is seen.
    """
    scores = witnesses.discriminant.scores(taps)
    healthy = predicted == 1 - witnesses.positive
    parts = references.smears.parts
    if not parts:
        return (witnesses.discriminant.lean(scores, healthy, parent),)
    number = np.zeros(len(predicted), np.intp)
    if normals.floor is not None and len(parts) > 1:
        cells, usable = residuals(normals.priors, taps, predicted)
        number[usable] = nearest_part(normals.floor, parts, cells)
        number[~usable] = -1
    leans = []
    for place, (part, reference) in enumerate(zip(parts, references.own, strict=True)):
        if part.reference is None:
            leans.append(parent)
            continue
        mine = healthy & (number == place)
        if reference is not None:
            mine &= np.isin(rows, reference.rows)
        leans.append(witnesses.discriminant.lean(scores, mine, parent))
    return tuple(leans)
