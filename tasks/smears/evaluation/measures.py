"""Measure the scored sets of an evaluation: diagnoses, corruptions, attacks, and pairs of sets.

Abnormal images are separated from ordinary ones of unseen patients. An attack counts if the clean
image and the image with matched noise are diagnosed correctly, and the attacked image is not.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tasks import bundles, types
from tasks.metrics import metrics
from tasks.smears.evaluation.scored import (
    CLEAN,
    FILE,
    NOISE,
    OWN,
    ScoredForm,
    ScoredImages,
    Treatment,
)

VERDICT = "slidewatch verdict"
TEST, SAMPLED, ATTACKED = "test", "sampled", "attacked"  # sets of unseen patients' images
HOME = "unseen patients"  # the name of these patients' cells in tables
AND_NOISE = ", and noisy ones"  # are ordinary too
FEWEST = 2  # successful attacks that a comparison needs


@dataclass(frozen=True)
class ScoredSets:
    """All scored sets of one detector.

    ``threshold`` is the abnormality from which on an image is abnormal. ``others`` maps the names
    of sets of other images, in tables, to the names of their lists.
    """

    threshold: float
    scored: Mapping[tuple[str, Treatment], ScoredImages]
    others: Mapping[str, str]

    def clean(self, images: str) -> ScoredForm:
        """Return the results for a set of images as they are."""
        return self.scored[images, CLEAN].forms[FILE]

    def counted(self, treatment: Treatment) -> types.Index:
        """Select images that are right, even under noise as large, and wrong when attacked."""
        forms = self.scored[ATTACKED, treatment].forms
        right = self.clean(ATTACKED).right & forms[NOISE].right
        return np.flatnonzero(right & ~forms[FILE].right)

    def attacks(self) -> list[Treatment]:
        """List the attacks on unseen patients' images."""
        return [each for images, each in self.scored if (images, each.kind) == (ATTACKED, "attack")]


def measures(sets: ScoredSets) -> Iterator[metrics.Result]:
    """Measure diagnoses of unseen patients' cells, clean, corrupted and attacked."""
    test, home = sets.clean(TEST), metrics.Subject(HOME)
    margin = test.logits[:, 0] - test.logits[:, 1:].max(axis=1)
    weights = metrics.resampled(test.clusters)
    whole, draws = (
        metrics.detection(test.label == 0, margin, each)["AUROC"] for each in (None, weights)
    )
    area = metrics.interval(float(whole[0]), draws)
    yield metrics.Result(home, None, "AUROC of the diagnosis", area, ordinary=len(margin))
    yield metrics.Result(home, OWN, "threshold", metrics.Interval(sets.threshold))
    yield from _rates(home, test)
    for (images, treatment), changed in sets.scored.items():
        subject = metrics.Subject(treatment.set, treatment.strength)
        if images == SAMPLED and treatment.kind == "corruption":
            yield from _rates(subject, changed.forms[FILE])
    for treatment in sets.attacks():
        subject = metrics.Subject(treatment.set, treatment.strength)
        attacked = sets.scored[ATTACKED, treatment].forms[FILE]
        yield from _rates(subject, attacked, is_attack=True)


def _rates(
    subject: metrics.Subject, scored: ScoredForm, *, is_attack: bool = False
) -> Iterator[metrics.Result]:
    """Measure the success of an attack, or right diagnoses and how often the detector alarms."""
    weights = metrics.resampled(scored.clusters)
    rates: list[tuple[str | None, str, types.Mask]]
    if is_attack:
        rates = [
            (None, "success rate", ~scored.right),
            (None, "network fooled", scored.by_network != scored.label),
            (None, "witnesses disagree", scored.disagree),
        ]
    else:
        rates = [
            (None, "accuracy", scored.right),
            (OWN, "called abnormal", scored.abnormal),
            (VERDICT, "sent to review", scored.review),
        ]
    n = len(scored.rows)
    counts = (0, n) if subject.set == HOME else (n, 0)
    for detector, measure, hit in rates:
        yield metrics.Result(subject, detector, measure, metrics.share(hit, weights), *counts)


@dataclass(frozen=True)
class Comparison:
    """A pair of sides: abnormal images, which are the subject, and ordinary ones."""

    subject: metrics.Subject
    ordinary: ScoredForm
    abnormal: ScoredForm


def comparisons(sets: ScoredSets) -> Iterator[Comparison]:
    """Pair every set of other images and every attack with ordinary images."""
    for name, images in sets.others.items():
        subject = metrics.Subject(name)
        yield Comparison(subject, sets.clean(TEST), sets.clean(images))
    for treatment in sets.attacks():
        counted = sets.counted(treatment)
        if len(counted) < FEWEST:
            continue
        forms = sets.scored[ATTACKED, treatment].forms
        clean, noisy, attacked = (
            bundles.take(each, counted)
            for each in (sets.clean(ATTACKED), forms[NOISE], forms[FILE])
        )
        for words, side in (("", clean), (AND_NOISE, bundles.join([clean, noisy]))):
            composition = metrics.SINGLE + words
            subject = metrics.Subject(treatment.set, treatment.strength, composition)
            yield Comparison(subject, side, attacked)


def compare(comparison: Comparison) -> list[metrics.Result]:
    """Compute every metric of every detector, with bootstrap intervals over patients.

    ``caught`` is the share of abnormal images found at the false-alarm rate of the verdict
    (abnormal or uncertain).
    """
    ordinary, abnormal = comparison.ordinary, comparison.abnormal
    n, m = len(ordinary.rows), len(abnormal.rows)
    truth = np.r_[np.zeros(n, bool), np.ones(m, bool)]
    weights = metrics.resampled(np.r_[ordinary.clusters, abnormal.clusters])
    alarms = float(ordinary.review.mean())

    def result(detector: str, measure: str, estimate: metrics.Interval) -> metrics.Result:
        return metrics.Result(comparison.subject, detector, measure, estimate, m, n)

    results = []
    for name, others in abnormal.scores.items():
        values = np.r_[ordinary.scores[name], others]
        whole, draws = metrics.detection(truth, values), metrics.detection(truth, values, weights)
        results += [
            result(name, kind, metrics.interval(float(value[0]), draws[kind]))
            for kind, value in whole.items()
        ]
        # The score that as many ordinary images exceed as the verdict alarms of.
        limit = np.append(np.sort(values[~truth])[::-1], -np.inf)[round(alarms * n)]
        caught = others > limit
        results.append(result(name, "caught", metrics.share(caught, weights[:, truth])))
    return [
        *results,
        result(VERDICT, "caught", metrics.share(abnormal.review, weights[:, truth])),
        result(VERDICT, "false alarms", metrics.share(ordinary.review, weights[:, ~truth])),
    ]
