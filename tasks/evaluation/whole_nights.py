"""Measure the results for nights that are strange as a whole, or in part.

Scores are tested in realistic company: each set of images becomes a night without names, one named
slide, a night of 1, 5, 40 and 500 images, and from a tenth to nine tenths of a night whose other
cells are ordinary. Every night is scored as `screen` scores it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.bundles import join, take
from tasks.detector.slides.normal import reference_rows
from tasks.detector.slides.own_normal import OwnNormal
from tasks.detector.slides.references import (
    CellScores,
    fitted_reference,
    references_of,
    score_cells,
)
from tasks.detector.slides.smears import A_NIGHT, ONE_SLIDE, Group
from tasks.evaluation.metrics import Interval, Metric, Subject, auroc
from tasks.evaluation.planted import OWN_NORMAL, Cells
from tasks.types import Float

SIZES = {1: 40, 5: 20, 40: 10, 500: 2}  # images of a night: number of nights drawn
SHARES = (0.1, 0.5, 0.67, 0.9)  # of strange images in a mixed night
MIXED = 500  # images of a mixed night at most
ALPHA = 0.05


@dataclass(frozen=True)
class Company:
    """The company of images: its name, and drawn nights.

    Each of ``nights`` is the rows of ordinary and of strange cells; ``group`` says whether a night
    has no names or is one slide.
    """

    name: str
    group: Group
    nights: list[tuple[NDArray[np.intp], NDArray[np.intp]]]


class NightFound(NamedTuple):
    """Abnormality and flags (n,) of a night's cells, and whether it is implausible as a smear."""

    scores: Float
    abnormal: NDArray[np.bool_]
    implausible: bool


def companies(ordinary: int, strange: int, host: str, seed: int = 0) -> Iterator[Company]:
    """Yield the companies in which images are tried.

    Without ordinary cells no night is mixed; ``host`` is their name.
    """
    rng = np.random.default_rng(seed)
    none = np.zeros(0, np.intp)

    def drawn(total: int, wanted: int) -> NDArray[np.intp]:
        return np.asarray(rng.permutation(total)[:wanted], np.intp)

    for size, times in SIZES.items():
        if strange >= size or size == max(SIZES):
            count = min(size, strange)
            draws = [(none, drawn(strange, count)) for _ in range(times)]
            yield Company(f"a night of {count}", A_NIGHT, draws)
    whole = [(none, drawn(strange, MIXED))]
    yield Company("one slide", ONE_SLIDE, whole)
    for share in SHARES if ordinary else ():
        # The most images that there are in this proportion.
        total = int(min(MIXED, ordinary / (1 - share), strange / share))
        counts = round(total * (1 - share)), round(total * share)
        if min(counts):
            draws = [(drawn(ordinary, counts[0]), drawn(strange, counts[1])) for _ in range(3)]
            yield Company(f"{share:.0%} of {host}, no names", A_NIGHT, draws)
            yield Company(f"{share:.0%} of one slide of {host}", ONE_SLIDE, draws)


def night_metrics(
    subject: Subject, own: OwnNormal, ordinary: Cells | None, strange: Cells
) -> list[Metric]:
    """Measure the shares of strange and of ordinary images called abnormal, in every company.

    ``subject.against`` is the name of the ordinary cells, of which mixed nights are made; without
    these there are none.
    """
    found = []
    hosts = 0 if ordinary is None else len(ordinary)
    for company in companies(hosts, len(strange), subject.against or ""):
        if ordinary is not None and not company.nights[0][0].size:
            continue  # nights without ordinary cells are measured once
        nights, truths = [], []
        for few, many in company.nights:
            parts = [] if ordinary is None else [take(ordinary, few)]
            night = join([*parts, take(strange, many)])
            nights.append(judge_night(own, night, company.group))
            truths.append(np.arange(len(night)) >= len(few))
        found += _metrics(replace(subject, against=company.name), nights, truths)
    return found


def judge_night(own: OwnNormal, cells: Cells, group: Group) -> NightFound:
    """Score the cells of a night without names, or of one slide, as `screen` does."""
    rows = reference_rows(len(cells))
    some = take(cells, rows)
    level = "night" if group is A_NIGHT else "slide"
    references = references_of(own, some.taps, some.predicted, rows, level, group)
    found: CellScores = score_cells(
        own, references, fitted_reference(own), cells.taps, cells.predicted, np.arange(len(cells))
    )
    abnormal = (found.p_value <= ALPHA) | found.unlike
    return NightFound(found.abnormality, abnormal, references.smears.implausible)


def _metrics(
    subject: Subject, nights: list[NightFound], truths: list[NDArray[np.bool_]]
) -> list[Metric]:
    abnormal = np.concatenate([night.abnormal for night in nights])
    strange = np.concatenate(truths)
    counts = int(strange.sum()), int((~strange).sum())
    measured = {f"caught at {ALPHA:g}": float(abnormal[strange].mean())}
    if counts[1]:
        measured["AUROC"] = float(
            np.mean([auroc(t, n.scores) for t, n in zip(truths, nights, strict=True)])
        )
        measured[f"false alarms at {ALPHA:g}"] = float(abnormal[~strange].mean())
    measured["nights that are no smear"] = float(np.mean([night.implausible for night in nights]))
    return [
        Metric(subject, OWN_NORMAL, name, Interval(value), *counts)
        for name, value in measured.items()
    ]
