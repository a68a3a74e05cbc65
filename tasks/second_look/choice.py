"""Choose the images of a night that get a second look, by what it can change.

Turns and flips can change a diagnosis that is not settled; filters can show that a settled one
hangs on detail, as an attack's does. A night of another laboratory may be for review as a whole, so
only a share of it is looked at: of each slide the image whose diagnosis is closest and the most
abnormal one of the others, then of each slide the next two, as long as the share lasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.bundles import join, take
from tasks.detector.verdict import VerdictRule
from tasks.reports.image_columns import coded, flags, is_for_review, numbers_of, rank_within
from tasks.second_look.settling import margins, settled_from
from tasks.types import Float

# A second look reads the file again, and costs two passes of the network where the diagnosis is
# settled, else three to nine. Of one image in 25 that is a tenth of what a night takes.
SHARE = 25
LEAST = 64  # images even in a small night; they take a second


@dataclass(frozen=True)
class Doubtful:
    """Hold images for review, each with what puts the most doubtful ones first.

    ``rows`` (n,) count in the batch and ``part`` (n,) names the part that each is in; ``place``
    (n,) counts the more doubtful ones of the same slide, among those that are settled or among the
    others; ``doubt`` (n,) is lower where there is more of it, and among equals ``abnormality`` (n,)
    is higher.
    """

    rows: NDArray[np.int64]
    part: NDArray[np.int64]
    place: NDArray[np.int64]
    doubt: Float
    abnormality: Float

    @staticmethod
    def none() -> "Doubtful":
        """Make an empty set of images."""
        rows, doubt = np.zeros(0, np.int64), np.zeros(0, np.float64)
        return Doubtful(rows, rows, rows, doubt, doubt)

    def first(self, count: int) -> "Doubtful":
        """Return the first ``count``, of every slide in turn."""
        order = np.lexsort((self.rows, -self.abnormality, self.doubt, self.place))
        return take(self, order[:count])

    def of_part(self, part: int) -> NDArray[np.int64]:
        """List the rows of one part in ascending order."""
        return np.sort(self.rows[self.part == part])

    def beside(self, other: "Doubtful") -> "Doubtful":
        """Join the images of two parts."""
        return join([self, other])


def columns(classes: Sequence[str]) -> list[str]:
    """List the columns of image rows that `doubtful` reads."""
    names = [f"probability_{name}" for name in classes]
    kept = ("p_value", "abnormality", "abnormal", "review_reason", "verdict", "status")
    return [*names, *kept, "slide_id", "patient_id"]


def most_looked_at(images: int) -> int:
    """Compute the largest number of images of a night that get a second look.

    >>> most_looked_at(100), most_looked_at(8000)
    (64, 320)
    """
    return max(LEAST, images // SHARE)


def doubtful(
    rows: pa.Table, classes: Sequence[str], rule: VerdictRule, *, part: int, start: int
) -> Doubtful:
    """List the scored images of a part that are for review.

    Doubt is the margin of a diagnosis as a share of that from which it is settled, or, where it is
    settled, the p-value as a share of alpha. ``rows`` are `columns` of the part's image rows, the
    first of which is row ``start`` of the batch.
    """
    scored, _, _ = flags(rows)
    chosen = np.flatnonzero(scored & is_for_review(rows))
    rows = rows.take(pa.array(chosen))
    lead = margins(np.stack([numbers_of(rows, f"probability_{name}") for name in classes], axis=1))
    settled = lead >= settled_from(1)
    doubt = np.where(settled, numbers_of(rows, "p_value") / rule.alpha, lead / settled_from(1))
    # A cell cut by a border has no abnormality, and comes last among equals.
    abnormality = np.nan_to_num(numbers_of(rows, "abnormality"), nan=-np.inf, posinf=np.inf)
    order = np.lexsort((chosen, -abnormality, doubt))
    groups = 2 * _pairs(rows) + settled
    place = np.empty(len(chosen), np.int64)
    place[order] = rank_within(groups[order])
    return Doubtful(start + chosen, np.full(len(chosen), part), place, doubt, abnormality)


def _pairs(rows: pa.Table) -> NDArray[np.int64]:
    """Number the pairs of patient and slide (n,) of rows."""
    patients, _ = coded(rows["patient_id"])
    slides, names = coded(rows["slide_id"])
    return np.asarray(patients * max(1, len(names)) + slides)


def spread_over(groups: NDArray[np.integer], most: int) -> NDArray[np.intp]:
    """Choose at most ``most`` rows, spread evenly over the groups (n,), in ascending order.

    Within a group they are spread evenly too; a smaller group gives all its rows.

    >>> spread_over(np.asarray([0, 0, 0, 0, 0, 1, 2, 2]), 5)
    array([0, 4, 5, 6, 7])
    """
    names, sizes = np.unique(groups, return_counts=True)
    share = max((q for q in range(most + 1) if np.minimum(sizes, q).sum() <= most), default=0)
    chosen = []
    for name, size in zip(names, np.minimum(sizes, max(1, share)), strict=True):
        own = np.flatnonzero(groups == name)
        chosen.append(own[np.linspace(0, len(own) - 1, size).astype(np.intp)])
    rows = np.concatenate([np.zeros(0, np.intp), *chosen])[:most]
    return np.sort(rows)
