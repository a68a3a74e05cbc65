"""Decide which images a person looks at: those that failed, are strange or are uncertain."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from itertools import compress

import numpy as np
from scipy.special import betainc

from tasks.types import Float, Mask

SEPARATOR = ", "  # between several reasons in a column
# Under a blur at most this share of diagnoses turned on any slide of four laboratories, and nearly
# all of attacked cells. More than chance allows is an attack.
TURNING, TURNING_P_VALUE = 0.08, 1e-3


class Reason(StrEnum):
    """A reason for a person to look at an image."""

    UNLIKE = "unlike any smear"  # abnormal whatever its neighbours look like
    ABNORMAL = "abnormal"  # compared with its reference
    UNCERTAIN = "uncertain"
    DISAGREE = "network and statistics disagree"
    TURNED = "turns when blurred"  # as the diagnosis of an attacked image does
    FAILED = "failed"
    NO_SMEAR = "its slide is no smear"  # or diagnoses of it turn under a blur, as attacked ones do


@dataclass(frozen=True)
class Verdicts:
    """Marks of n images, (n,) each; some abnormal ones are ``unlike`` any smear."""

    failed: Mask
    abnormal: Mask
    uncertain: Mask
    unlike: Mask
    disagree: Mask
    turned: Mask

    @property
    def review(self) -> Mask:
        """Mark the images (n,) that a person looks at."""
        return np.asarray(np.logical_or.reduce(list(vars(self).values())))

    def reasons(self) -> list[str | None]:
        """Join the reasons to look at each of n images, for a column; None without reasons."""
        # A failed image has no other reason: nothing else is known about it.
        flags = {
            Reason.UNLIKE: self.unlike & ~self.failed,
            Reason.ABNORMAL: self.abnormal & ~self.unlike & ~self.failed,
            Reason.UNCERTAIN: self.uncertain & ~self.failed,
            Reason.DISAGREE: self.disagree & ~self.failed,
            Reason.TURNED: self.turned & ~self.failed,
            Reason.FAILED: self.failed,
        }
        marks, row = np.unique(np.stack(list(flags.values())), axis=1, return_inverse=True)
        texts = [format_reasons(list(compress(flags, mark))) for mark in marks.T.tolist()]
        return [texts[number] for number in row.ravel().tolist()]


@dataclass(frozen=True)
class VerdictRule:
    """The rule that decides by the levels of a detector.

    An image is abnormal if its p-value is at most ``alpha``, and uncertain if the probability of
    its diagnosis is below ``uncertain_below``.
    """

    alpha: float
    uncertain_below: float

    def decide(
        self,
        p_value: Float,
        probability: Float,
        failed: Mask | bool = False,
        unlike: Mask | bool = False,
        disagree: Mask | bool = False,
        turned: Mask | bool = False,
    ) -> Verdicts:
        """Decide on n images by p-value (n,) and probability of the diagnosis (n,).

        An image whose p-value is NaN is not abnormal; one whose probability is NaN is uncertain,
        because it must not be accepted. The marks (n,) are by default of none: images that
        ``failed``, are ``unlike`` any smear's cells, on which two witnesses ``disagree``, or whose
        diagnosis is ``turned`` by a blur.
        """
        failed = np.zeros(len(p_value), bool) | failed
        unlike, disagree, turned = (marks & ~failed for marks in (unlike, disagree, turned))
        abnormal = ((p_value <= self.alpha) & ~failed) | unlike
        # Not "<", which is false for NaN.
        uncertain = ~(probability >= self.uncertain_below)
        return Verdicts(failed, abnormal, uncertain, unlike, disagree, turned)


def binomial_p_value(count: int, total: int, level: float) -> float | None:
    """Compute the exact one-sided binomial p-value of a count at a level; None for total 0."""
    return float(betainc(count, total - count + 1, level)) if total else None


def is_turning(turned: int, looked_at: int) -> bool:
    """Return whether too many of a slide's diagnoses that were looked at again turn in a blur."""
    p_value = binomial_p_value(turned, looked_at, TURNING)
    return p_value is not None and p_value <= TURNING_P_VALUE


def format_reasons(reasons: Collection[str]) -> str | None:
    """Join reasons for a column; None if there are none."""
    return SEPARATOR.join(reasons) or None


def parse_reasons(text: str | None) -> tuple[str, ...]:
    """Split what `format_reasons` joined."""
    return tuple(text.split(SEPARATOR)) if text else ()
