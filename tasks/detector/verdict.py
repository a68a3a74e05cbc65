"""Decide which images a person looks at: those that failed, are strange or are uncertain."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tasks.types import Float, Mask

SEPARATOR = ", "  # between several reasons in a column


class Reason(StrEnum):
    """A reason for a person to look at an image."""

    UNLIKE = "unlike any smear"  # abnormal whatever its neighbours look like
    ABNORMAL = "abnormal"  # compared with its reference
    UNCERTAIN = "uncertain"
    DISAGREE = "network and statistics disagree"
    TURNED = "turns when blurred"  # as the diagnosis of an attacked image does
    FAILED = "failed"


@dataclass(frozen=True)
class Verdicts:
    """Marks of n images: failed, abnormal, uncertain and others, (n,) each.

    Some abnormal images are ``unlike`` any smear; on images in ``disagree`` the two witnesses of a
    diagnosis differ; the diagnosis of images in ``turned`` is another when they are blurred.
    """

    failed: Mask
    abnormal: Mask
    uncertain: Mask
    unlike: Mask
    disagree: Mask
    turned: Mask

    @property
    def review(self) -> Mask:
        """Mark the images (n,) that a person looks at."""
        known = self.abnormal | self.uncertain | self.disagree | self.turned
        return np.asarray(self.failed | known)

    def reasons(self) -> list[str | None]:
        """Join the reasons to look at each of n images, for a column; None without reasons."""
        flags = {
            Reason.UNLIKE: self.unlike,
            Reason.ABNORMAL: self.abnormal & ~self.unlike,
            Reason.UNCERTAIN: self.uncertain,
            Reason.DISAGREE: self.disagree,
            Reason.TURNED: self.turned,
        }
        codes = np.zeros(len(self.failed), np.intp)
        for place, marked in enumerate(flags.values()):
            codes |= marked.astype(np.intp) << place
        texts = [
            format_reasons([reason for place, reason in enumerate(flags) if code >> place & 1])
            for code in range(1 << len(flags))
        ]
        # A failed image has no other reason: nothing else is known about it.
        codes[self.failed] = len(texts)
        texts.append(format_reasons([Reason.FAILED]))
        return [texts[code] for code in codes.tolist()]


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
        failed: Mask | None = None,
        unlike: Mask | None = None,
        disagree: Mask | None = None,
        turned: Mask | None = None,
    ) -> Verdicts:
        """Decide on n images.

        Args:
            p_value: (n,); an image with NaN is not abnormal.
            probability: (n,), of the diagnosis; an image with NaN is uncertain, because a diagnosis
                without a probability must not be accepted.
            failed: (n,), images that could not be scored; by default none.
            unlike: (n,), images further away than any smear's cells; by default none.
            disagree: (n,), images on which two witnesses differ; by default none.
            turned: (n,), images whose diagnosis a blur turns; by default none.
        """
        none = np.zeros(len(p_value), bool)
        failed = none if failed is None else failed
        unlike = none if unlike is None else unlike & ~failed
        abnormal = ((p_value <= self.alpha) & ~failed) | unlike
        # Not "<", which is false for NaN.
        uncertain = np.asarray(~(probability >= self.uncertain_below))
        others = [
            none if marks is None else np.asarray(marks & ~failed) for marks in (disagree, turned)
        ]
        return Verdicts(failed, np.asarray(abnormal), uncertain, unlike, *others)


def format_reasons(reasons: Collection[str]) -> str | None:
    """Join reasons for a column; None if there are none.

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
