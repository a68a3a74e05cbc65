"""Split images into parts without splitting a patient, and group patients by stain."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from tasks.types import Float, Index, Integers, Pixels

PARTS = ("train", "validation", "test")
SplitBy = Literal["patient", "slide", "image"]


class SplitError(Exception):
    """The images cannot be split as requested."""


def split_by(patients: Sequence[str | None], slides: Sequence[str | None]) -> SplitBy:
    """Choose the coarsest unit that every image has: patient, else slide, else the image itself."""
    if all(patients):
        return "patient"
    return "slide" if all(slides) else "image"


def split(
    keys: Sequence[str],
    labels: Integers,
    *,
    by: SplitBy,
    fractions: tuple[float, float, float],
    seed: int,
) -> dict[str, list[str]]:
    """Split rows so that all rows with one key are in one part; return sorted keys by part.

    Keys are dealt out by stratum, the set of classes of a key's images, so that each part has every
    class if possible: a key goes to the part that lacks most of its classes, and among equals to
    the one that is relatively furthest below its share. ``fractions`` of the keys are above 0,
    relative to their sum, in the order of `PARTS`; ``by`` is the kind of the keys.
    SplitError if a part would lack a class, or a fraction is not above 0.
    """
    if not min(fractions) > 0:
        raise SplitError(f"{', '.join(PARTS)} need fractions above 0, not {fractions}")
    parts = deal(keys, labels, dict(zip(PARTS, fractions, strict=True)), seed=seed)
    classes: dict[str, set[int]] = {part: set() for part in PARTS}
    part_of = {key: part for part, names in parts.items() for key in names}
    for key, label in zip(keys, labels.tolist(), strict=True):
        classes[part_of[key]].add(label)
    for part, names in parts.items():
        if not names or len(classes[part]) < len(set(labels.tolist())):
            raise SplitError(
                f"{len(part_of)} {by}s are too few, or too alike, for a {part} part with every "
                f"class: give images of more {by}s, or other fractions"
            )
    return parts


def deal(
    keys: Sequence[str], labels: Integers, shares: Mapping[str, float], *, seed: int
) -> dict[str, list[str]]:
    """Deal keys out by stratum, as `split` does, to parts that may lack a class."""
    rng = np.random.default_rng(seed)
    classes_of: dict[str, set[int]] = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        classes_of.setdefault(key, set()).add(label)
    strata: dict[tuple[int, ...], list[str]] = {}
    for key in sorted(classes_of):
        strata.setdefault(tuple(sorted(classes_of[key])), []).append(key)
    parts: dict[str, list[str]] = {part: [] for part in shares}
    have: dict[str, set[int]] = {part: set() for part in shares}
    whole = sum(shares.values())
    target = {part: share / whole * len(classes_of) for part, share in shares.items()}

    def need(part: str, key: str) -> tuple[int, float]:
        lacking = len(classes_of[key] - have[part])
        # Half a key (Webster's apportionment) keeps three parts within one key of their shares.
        return lacking, (target[part] - len(parts[part]) - 0.5) / target[part]

    # The richest strata first: a key with every class serves any part.
    for classes in sorted(strata, key=lambda c: (-len(c), c)):
        for key in rng.permutation(strata[classes]).tolist():
            neediest = max(shares, key=lambda part: need(part, key))
            parts[neediest].append(key)
            have[neediest] |= classes_of[key]
    return {part: sorted(names) for part, names in parts.items()}


def folds(
    keys: Sequence[str], labels: Integers, count: int, *, by: SplitBy, validation: float, seed: int
) -> list[dict[str, Index]]:
    """Split rows into folds by keys, as `split` does, so that each row is tested once.

    Of a fold's other keys, the share ``validation`` goes to validation. The result has the row
    numbers of each fold's `PARTS`.
    SplitError if a part of a fold is empty, or one used for learning lacks a class.
    """
    tested = deal(keys, labels, dict.fromkeys(map(str, range(count)), 1.0), seed=seed)
    everything, classes = np.asarray(keys), len(np.unique(labels))
    parts_of_folds = []
    for number, names in tested.items():
        test = np.isin(everything, names)
        rest = np.flatnonzero(~test)
        shares = {"train": 1.0 - validation, "validation": validation}
        dealt = deal(everything[rest].tolist(), labels[rest], shares, seed=seed)
        parts = {part: rest[np.isin(everything[rest], some)] for part, some in dealt.items()}
        lacking = [part for part, rows in parts.items() if len(np.unique(labels[rows])) < classes]
        if lacking or not names:
            raise SplitError(
                f"{len(set(keys))} {by}s are too few, or too alike, for {count} folds: fold "
                f"{number} has no {' and no '.join(lacking) or 'test'} part with every class; "
                f"give images of more {by}s, or fewer folds"
            )
        parts_of_folds.append({**parts, "test": np.flatnonzero(test)})
    return parts_of_folds


def mean_absorbance(pixels: Pixels, batch: int = 512) -> Float:
    """Average -log(pixel / 255), (n, 3), of images (n, side, side, 3) where they are not black."""
    table = -np.log(np.maximum(np.arange(256), 1) / 255.0)
    absorbance = np.zeros((len(pixels), 3))
    for start in range(0, len(pixels), batch):
        some = np.asarray(pixels[start : start + batch])
        lit = some.max(axis=3) > 0
        total = (table[some] * lit[..., None]).sum(axis=(1, 2))
        absorbance[start : start + batch] = total / np.maximum(lit.sum(axis=(1, 2)), 1)[:, None]
    return absorbance


def stain_clusters(absorbance: Float, patients: Sequence[str], count: int = 3) -> Index:
    """Number the stain of each image by k-means over the mean absorbance (n, 3) of its patient.

    Stains and cameras differ between patients; each has one. Numbers (n,) go from 0, the palest
    stain; there are ``count`` stains, or as many as patients if these are fewer.
    """
    from sklearn.cluster import KMeans  # only folds need it

    _, of_row = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    cells = np.bincount(of_row)
    means = np.stack([np.bincount(of_row, channel) / cells for channel in absorbance.T], axis=1)
    distinct = min(count, len(np.unique(means, axis=0)))
    fitted = KMeans(distinct, n_init=10, random_state=0).fit(means)
    palest_first = np.argsort(np.argsort(fitted.cluster_centers_.sum(axis=1)))
    return np.asarray(palest_first[fitted.labels_][of_row])
