"""Measure the agreement of readers with each other and with the machine."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.metrics.metrics import interval
from tasks.smears.answers.sheets import UNSURE
from tasks.smears.reports.parasitaemia import wilson_interval
from tasks.types import Float

REPEATS = 500

Answers = Mapping[str, str]  # by digest of the image
Groups = Mapping[str, str | None]  # the patient of an image, by its digest


@dataclass(frozen=True)
class Agreement:
    """A figure, its 95% interval, and the number of cells or patients that it is of."""

    value: float
    low: float
    high: float
    count: int


def share(hits: int, count: int) -> Agreement | None:
    """Compute a share and its 95% interval (Wilson), which assumes independence; None of none."""
    if not count:
        return None
    return Agreement(hits / count, *wilson_interval(hits, count), count)


def discordant(by_reader: Mapping[str, Answers]) -> list[str]:
    """List by digest the images that at least two readers have read without a majority."""
    return [
        image
        for image, answers in _by_image(by_reader).items()
        if len(answers) > 1 and majority(answers) is None
    ]


def differing(by_reader: Mapping[str, Answers]) -> list[str]:
    """List the images, by digest, on which readers differ."""
    return [image for image, answers in _by_image(by_reader).items() if len(set(answers)) > 1]


def majority(answers: Sequence[str]) -> str | None:
    """Return the answer of more than half of the readers who are sure; None without a majority."""
    if not answers:
        return None
    sure = [each for each in answers if each != UNSURE] or answers
    (answer, count), *_ = Counter(sure).most_common(1)
    return answer if 2 * count > len(sure) else None


def consensus(by_reader: Mapping[str, Answers]) -> dict[str, str]:
    """Return the majority's answer on each image that has one, by digest."""
    majorities = {image: majority(answers) for image, answers in _by_image(by_reader).items()}
    return {image: answer for image, answer in majorities.items() if answer is not None}


def _by_image(by_reader: Mapping[str, Answers]) -> dict[str, list[str]]:
    images = sorted({image for answers in by_reader.values() for image in answers})
    return {
        image: [answers[image] for answers in by_reader.values() if image in answers]
        for image in images
    }


def kappa(first: Answers, second: Answers, groups: Groups) -> Agreement | None:
    """Measure Cohen's kappa of two readers on the images that both have read (Cohen 1960).

    "Unsure" counts as an answer of its own. None if they share fewer than two images, or give all
    the same answer.
    """
    shared = sorted(set(first) & set(second))
    one, two = ([answers[image] for image in shared] for answers in (first, second))
    if len(shared) < 2 or len({*one, *two}) < 2:
        return None
    draws = [
        _kappa(one, two, weights)
        for weights in _resampled([groups[image] or image for image in shared])
        if len({*np.compress(weights > 0, one), *np.compress(weights > 0, two)}) > 1
    ]
    return Agreement(*interval(_kappa(one, two), np.asarray(draws)), len(shared))


def sensitivity(
    truth: Answers,
    diagnosed: Mapping[str, str],
    flagged: Mapping[str, bool],
    of: Mapping[tuple[bool, str], int],
    groups: Groups,
    positive: str,
) -> Agreement | None:
    """Estimate the share of a batch's parasitized cells that the machine called or flagged.

    Cells that were read represent their stratum (flagged or not, by diagnosis): each has the
    weight of the stratum's cells per cell read (Horvitz & Thompson 1952). ``truth`` has persons'
    answers, ``flagged`` says whether a cell went to a person, and ``of`` counts the batch's cells
    in each stratum. None if persons call no cell positive.
    """
    images = sorted(truth)
    strata = [(flagged[image], diagnosed[image]) for image in images]
    read = Counter(strata)
    weights = np.asarray([of[stratum] / read[stratum] for stratum in strata])
    is_true = np.asarray([truth[image] == positive for image in images])
    is_found = np.asarray([was or called == positive for was, called in strata])
    if not is_true.any():
        return None

    def caught(drawn: Float) -> float:
        sought = drawn * weights * is_true
        return float((sought * is_found).sum() / sought.sum()) if sought.sum() else float("nan")

    draws = [caught(drawn) for drawn in _resampled([groups[image] or image for image in images])]
    found = interval(caught(np.ones(len(images))), np.asarray(draws))
    return Agreement(*found, int(is_true.sum()))


def _resampled(groups: Sequence[str]) -> list[Float]:
    """Draw patients with replacement, `REPEATS` times; return counts of their images (n,)."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=REPEATS)
    return [each[codes].astype(np.float64) for each in drawn]


def _kappa(one: Sequence[str], two: Sequence[str], weights: Float | None = None) -> float:
    # A page of answers imports this module, and rarely needs a kappa.
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(one, two, sample_weight=weights))
