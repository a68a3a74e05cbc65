"""Decide which images a person looks at: those that failed, are strange or are uncertain."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from tasks.types import Float

SEPARATOR = ", "  # between reasons where a column holds several


class Reason(StrEnum):
    """Name why a person looks at an image."""

    UNLIKE = "unlike any smear"  # abnormal whatever its neighbours are
    ABNORMAL = "abnormal"  # for what it is compared with
    UNCERTAIN = "uncertain"
    DISAGREE = "network and statistics disagree"
    UNSTABLE = "unstable"  # only beside another: what nothing else calls is not looked at twice
    FAILED = "failed"


@dataclass(frozen=True)
class Verdicts:
    """Mark which of n images failed, are abnormal and are uncertain, (n,) each.

    Of the abnormal ones some are ``unlike`` any smear; of ``disagree`` the two witnesses of a
    diagnosis say different things.
    """

    failed: NDArray[np.bool_]
    abnormal: NDArray[np.bool_]
    uncertain: NDArray[np.bool_]
    unlike: NDArray[np.bool_]
    disagree: NDArray[np.bool_]

    @property
    def review(self) -> NDArray[np.bool_]:
        """Mark the images (n,) that a person looks at."""
        return np.asarray(self.failed | self.abnormal | self.uncertain | self.disagree)

    def reasons(self) -> list[str | None]:
        """Join the reasons to look at each of n images, as a column holds them; None without."""
        flags = {
            Reason.UNLIKE: self.unlike,
            Reason.ABNORMAL: self.abnormal & ~self.unlike,
            Reason.UNCERTAIN: self.uncertain,
            Reason.DISAGREE: self.disagree,
        }
        codes = np.zeros(len(self.failed), np.intp)
        for place, marked in enumerate(flags.values()):
            codes |= marked.astype(np.intp) << place
        texts = [
            format_reasons([reason for place, reason in enumerate(flags) if code >> place & 1])
            for code in range(1 << len(flags))
        ]
        # An image that failed has no other reason: nothing else is known of it.
        codes[self.failed] = len(texts)
        texts.append(format_reasons([Reason.FAILED]))
        return [texts[code] for code in codes.tolist()]


@dataclass(frozen=True)
class VerdictRule:
    """Decide by the levels of a detector.

    An image is abnormal where its p-value is at most ``alpha``, and uncertain where its diagnosis
    is less probable than ``uncertain_below``.
    """

    alpha: float
    uncertain_below: float

    def decide(
        self,
        p_value: Float,
        probability: Float,
        failed: NDArray[np.bool_] | None = None,
        unlike: NDArray[np.bool_] | None = None,
        disagree: NDArray[np.bool_] | None = None,
    ) -> Verdicts:
        """Decide on n images.

        Args:
            p_value: (n,); NaN where an image has none, which makes it not abnormal.
            probability: (n,), that of the diagnosis; NaN is uncertain, for a diagnosis without a
                probability must not be accepted.
            failed: (n,), which could not be scored; by default none.
            unlike: (n,), which are further away than any smear's cells; by default none.
            disagree: (n,), of which two witnesses say different things; by default none.
        """
        none = np.zeros(len(p_value), bool)
        failed = none if failed is None else failed
        unlike = none if unlike is None else unlike & ~failed
        abnormal = ((p_value <= self.alpha) & ~failed) | unlike
        # Not "<", which is false of NaN.
        uncertain = ~(probability >= self.uncertain_below)
        disagree = none if disagree is None else disagree & ~failed
        return Verdicts(
            *map(np.asarray, (failed, abnormal, uncertain, unlike, disagree)),
        )


def format_reasons(reasons: Collection[str]) -> str | None:
    """Join reasons as a column holds them; None where there are none.

    >>> format_reasons([Reason.ABNORMAL, Reason.UNCERTAIN])
    'abnormal, uncertain'
    """
    return SEPARATOR.join(reasons) or None


def parse_reasons(text: str | None) -> tuple[str, ...]:
    """Split what `format_reasons` joined.

    >>> parse_reasons("abnormal, uncertain"), parse_reasons(None)
    (('abnormal', 'uncertain'), ())
    """
    return tuple(text.split(SEPARATOR)) if text else ()
