"""Adapt a diagnosis to a laboratory by some of its labelled cells.

Two changes are tried, alone and together. One gives the laboratory its own discriminant: the mean
of each class moves by `SHARE` of the way to that of the labelled cells, relative to their slides.
The scatter stays the fitted one, because few cells do not determine it. This changes the order of
cells. The other is a scale and a bias of the log-odds, which keep the order: they are fitted as in
Platt (1999), with equal total weights for both kinds of cells and a prior around no change. Labels
do not change which cells are abnormal.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from tasks import bundles, types
from tasks.detector import probabilities, witnesses
from tasks.metrics.metrics import Interval, interval, resampled

LEAST_CELLS, LEAST_OF_A_KIND = 20, 5  # with fewer, nothing is fitted
LEAST_SLIDES = 5  # at least, for whole slides to be held back
# Class means move by this share of the way. On cells of P. vivax .2 and .3 are as good, whether 20
# or 400 cells are labelled.
SHARE = 0.25
FOLDS = 5
PARASITES = 1  # their place in a `Trial`'s confusion


@dataclass(frozen=True)
class Labelled(bundles.Bundle):
    """The log-odds (n,) of labelled cells as diagnosed, and their labels.

    ``slides`` (n,) are keys of their patients or slides, without line breaks. ``network`` (n,) are
    log-odds of the first witness, and ``features`` (n, d) by tap, less the shift of each cell's
    slide, are what the second one sees; without a second witness there are none.
    """

    log_odds: types.Float
    parasitized: types.Mask
    slides: tuple[str, ...]
    network: types.Float = field(default_factory=lambda: np.empty(0))
    features: dict[str, types.Single] = field(default_factory=dict)


NO_LABELS = Labelled(np.empty(0), np.empty(0, bool), ())


def joined(parts: Iterable[Labelled]) -> Labelled:
    """Join labelled cells that were diagnosed by the same witnesses."""
    some = [part for part in parts if part.slides]
    return bundles.join(some) if some else NO_LABELS


class Fitted(NamedTuple):
    """The fitted second witness: class statistics, and the calibration of both witnesses."""

    classes: witnesses.Classes
    scales: witnesses.Scales


@dataclass(frozen=True)
class Change:
    """A change by labelled cells: the laboratory's own ``discriminant``, if any, and log-odds."""

    adaptation: probabilities.Adaptation
    discriminant: witnesses.Discriminant | None = None

    @property
    def is_of_order(self) -> bool:
        """Return whether the discriminant alone was fitted: no bias, and no surer than before."""
        return self.discriminant is not None and self.adaptation.bias == 0

    @classmethod
    def by(
        cls, cells: Labelled, fitted: Fitted | None, *, statistics: bool, scale: bool
    ) -> "Change":
        """Fit to labelled cells the discriminant, or a scale and a bias, or both.

        The discriminant alone changes the order of cells, and not how sure diagnoses are of them.
        """
        witness = laboratory_discriminant(fitted.classes, cells) if statistics and fitted else None
        x = cls(probabilities.UNCHANGED, witness).of(cells, fitted)
        if scale:
            return cls(probabilities.fit_adaptation(x, cells.parasitized), witness)
        weights = probabilities.weighted(cells.parasitized)
        sure = float(weights @ np.abs(cells.log_odds) / (weights @ np.abs(x)))
        return cls(probabilities.Adaptation(sure), witness)

    def of(self, cells: Labelled, fitted: Fitted | None) -> types.Float:
        """Compute the log-odds (n,) of cells after the change."""
        if self.discriminant is None:
            return self.adaptation.of(cells.log_odds)
        assert fitted is not None
        scores = self.discriminant.scores(cells.features)
        return self.adaptation.of(fitted.scales.combine(cells.network, scores).both)


def laboratory_discriminant(classes: witnesses.Classes, cells: Labelled) -> witnesses.Discriminant:
    """Make a laboratory's discriminant of the fitted classes and some labelled cells of both."""
    means = {}
    for tap in classes.means:
        values = np.asarray(cells.features[tap], np.float64)
        kinds = [values[~cells.parasitized].mean(axis=0), values[cells.parasitized].mean(axis=0)]
        means[tap] = np.stack(kinds[:: -1 if classes.positive == 0 else 1])
    return classes.moved(means, SHARE).discriminant()


@dataclass(frozen=True)
class Trial:
    """The performance of a change on cells held back from it.

    ``slides`` and ``cells`` count labelled ones; ``gain`` is the fall of the log loss with its
    interval, and ``cautious_gain`` the same if one more cell of each kind were diagnosed wrongly;
    these and accuracies are means of both kinds. ``confusion`` (S, 2, 2) counts the cells of each
    slide by label and diagnosis, healthy first.
    """

    change: Change
    slides: int
    cells: int
    by_slide: bool
    loss_before: float
    loss_after: float
    accuracy_before: float
    accuracy_after: float
    gain: Interval
    cautious_gain: Interval
    confusion: types.Counts

    @property
    def accepted(self) -> bool:
        """Return whether the change is used, by how held-back cells are diagnosed with it.

        A scale and a bias from a few cells may be far off: held-back cells must certainly be
        diagnosed better. A few dozen may all be right by chance; then any larger scale seems
        better, and only the cautious gain shows that it may not be. A discriminant has moved by
        `SHARE` alone and hardly harms where nothing is to be gained: a gain on average is enough.
        """
        gains = (self.gain, self.cautious_gain)
        if self.change.is_of_order:
            return all(gain.value > 0 for gain in gains)
        return all(gain.low > 0 for gain in gains)


def try_adaptation(labelled: Labelled, fitted: Fitted | None = None) -> Trial | None:
    """Fit the changes of a diagnosis, and measure similar ones on cells held back from them.

    Whole slides are held back and resampled if enough are labelled, otherwise cells. The accepted
    change with the largest gain is returned, or of all if none is accepted. None if fewer than
    `LEAST_CELLS` are labelled, or too few of a kind. ``fitted`` is the second witness; None
    where the network alone diagnoses.
    """
    kinds = np.bincount(labelled.parasitized.astype(np.intp), minlength=2)
    if kinds.sum() < LEAST_CELLS or kinds.min() < LEAST_OF_A_KIND:
        return None
    known = fitted if labelled.features else None
    if known is None:
        labelled = replace(labelled, network=labelled.log_odds, features={})
    ways = [(False, True), *([(True, False), (True, True)] if known else [])]
    trials = [_tried(labelled, known, statistics=a, scale=b) for a, b in ways]
    return max(trials, key=lambda trial: (trial.accepted, trial.gain.value))


def _tried(labelled: Labelled, fitted: Fitted | None, *, statistics: bool, scale: bool) -> Trial:
    x, parasitized = labelled.log_odds, labelled.parasitized
    names, slide = np.unique(np.asarray(labelled.slides, object).astype(str), return_inverse=True)
    fold = slide % FOLDS
    # Cells of both kinds must remain, whichever fold is held back.
    by_slide = len(names) >= LEAST_SLIDES and all(
        len(np.unique(parasitized[fold != each])) == 2 for each in range(FOLDS)
    )
    fold = fold if by_slide else _dealt(parasitized)
    after, known = np.empty(len(x)), parasitized.astype(np.float64)
    for each in range(FOLDS):
        held, rest = np.flatnonzero(fold == each), np.flatnonzero(fold != each)
        change = Change.by(bundles.take(labelled, rest), fitted, statistics=statistics, scale=scale)
        after[held] = change.of(bundles.take(labelled, held), fitted)
    (before_loss, before_cautious), (after_loss, after_cautious) = (
        [probabilities.log_losses(odds, wanted) for wanted in (known, _cautious(parasitized))]
        for odds in (x, after)
    )
    weights = probabilities.weighted(parasitized)
    confusion = np.zeros((len(names), 2, 2), np.int64)
    np.add.at(confusion, (slide, parasitized.astype(np.intp), (after >= 0).astype(np.intp)), 1)
    group = slide if by_slide else np.arange(len(x))
    return Trial(
        Change.by(labelled, fitted, statistics=statistics, scale=scale),
        slides=len(names),
        cells=len(x),
        by_slide=by_slide,
        loss_before=float(weights @ before_loss),
        loss_after=float(weights @ after_loss),
        accuracy_before=float(weights @ ((x >= 0) == parasitized)),
        accuracy_after=float(weights @ ((after >= 0) == parasitized)),
        gain=_gain(before_loss - after_loss, parasitized, group),
        cautious_gain=_gain(before_cautious - after_cautious, parasitized, group),
        confusion=confusion,
    )


def _cautious(parasitized: types.Mask) -> types.Float:
    """Compute the probability (n,) that cells should have if one more of their kind were wrong.

    This is Platt's target, from Laplace's rule of succession.
    """
    kinds = np.bincount(parasitized.astype(np.intp), minlength=2)
    right = (kinds + 1) / (kinds + 2)
    return np.asarray(np.where(parasitized, right[1], 1 - right[0]), np.float64)


def _gain(gained: types.Float, parasitized: types.Mask, group: types.Index) -> Interval:
    """Average the gains of cells (n,), weighted by kind, with an interval from resampled groups."""
    groups = int(group.max()) + 1
    times = resampled(np.arange(groups))
    means = []
    for kind in (parasitized, ~parasitized):
        sums = np.bincount(group[kind], gained[kind], minlength=groups)
        counts = np.bincount(group[kind], minlength=groups)
        with np.errstate(divide="ignore", invalid="ignore"):
            means.append((times @ sums) / (times @ counts))
    share = probabilities.PARASITIZED_SHARE
    resampled_means = np.average(means, axis=0, weights=[share, 1 - share])
    return interval(float(probabilities.weighted(parasitized) @ gained), resampled_means)


def _dealt(parasitized: types.Mask) -> types.Index:
    """Deal cells (n,) of each kind into `FOLDS` folds."""
    fold = np.empty(len(parasitized), np.intp)
    for kind in (parasitized, ~parasitized):
        fold[kind] = np.arange(kind.sum()) % FOLDS
    return fold
