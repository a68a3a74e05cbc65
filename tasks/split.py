"""Splitting images into training, validation and test parts without splitting a patient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

PARTS = ("train", "validation", "test")
SplitBy = Literal["patient", "slide", "image"]


class SplitError(Exception):
    """The images cannot be split as asked for."""


@dataclass(frozen=True)
class Split:
    """Which keys are in which part, and what the keys are."""

    by: SplitBy
    keys: dict[str, list[str]]

    def rows(self, part: str, keys: Sequence[str]) -> NDArray[np.intp]:
        """The row numbers of a part, given the key of each row."""
        wanted = set(self.keys[part])
        return np.flatnonzero([key in wanted for key in keys])


def split_by(patients: Sequence[str | None], slides: Sequence[str | None]) -> SplitBy:
    """The coarsest unit that every image has: patient, else slide, else the image itself."""
    if all(patients):
        return "patient"
    return "slide" if all(slides) else "image"


def split(
    keys: Sequence[str],
    labels: NDArray[np.integer],
    *,
    by: SplitBy,
    fractions: tuple[float, float, float],
    seed: int,
) -> Split:
    """Split so that all rows with one key are in one part.

    Keys are dealt out stratum by stratum, a stratum being the classes that a key's images have, so
    that each part has every class where the keys allow it.

    Args:
        keys: the patient (slide, image) of each row.
        labels: (n,) classes.
        by: what the keys are, for the record.
        fractions: of the keys for `PARTS`; they are taken relative to their sum.
        seed: of the shuffling.

    Raises:
        SplitError: there are too few keys for three parts, or a part lacks a class.
    """
    rng = np.random.default_rng(seed)
    classes_of: dict[str, set[int]] = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        classes_of.setdefault(key, set()).add(label)
    strata: dict[tuple[int, ...], list[str]] = {}
    for key in sorted(classes_of):
        strata.setdefault(tuple(sorted(classes_of[key])), []).append(key)
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    share = np.asarray(fractions) / sum(fractions)
    target = share * len(classes_of)
    # The richest strata first: a key with every class serves any part.
    for classes in sorted(strata, key=lambda c: (-len(c), c)):
        for key in rng.permutation(strata[classes]).tolist():
            need = [(target[i] - len(parts[part])) / target[i] for i, part in enumerate(PARTS)]
            parts[PARTS[int(np.argmax(need))]].append(key)
    found = Split(by, {part: sorted(names) for part, names in parts.items()})
    for part, names in found.keys.items():
        have: set[int] = set().union(*(classes_of[name] for name in names))
        if len(have) < len(set(labels.tolist())):
            raise SplitError(
                f"{len(classes_of)} {by}s are too few, or too alike, for a {part} part with every "
                f"class: give images of more {by}s, or other fractions"
            )
    return found
