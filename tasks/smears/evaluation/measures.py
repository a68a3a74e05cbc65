"""Measure the scored sets of an evaluation: diagnoses, corruptions, attacks, and pairs of sets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tasks import bundles, types
from tasks.metrics import metrics
from tasks.smears.evaluation import comparison
from tasks.smears.evaluation.scored import OWN, ScoredForm, ScoredImages
from tasks.smears.evaluation.treated import CLEAN, FILE, NOISE, Treatment

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
            (comparison.VERDICT, "sent to review", scored.review),
        ]
    n = len(scored.rows)
    counts = (0, n) if subject.set == HOME else (n, 0)
    for detector, measure, hit in rates:
        yield metrics.Result(subject, detector, measure, metrics.share(hit, weights), *counts)


def comparisons(sets: ScoredSets) -> Iterator[comparison.Comparison]:
    """Pair every set of other images and every attack with ordinary images."""
    for name, images in sets.others.items():
        subject = metrics.Subject(name)
        yield comparison.Comparison(subject, sets.clean(TEST), sets.clean(images))
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
            yield comparison.Comparison(subject, side, attacked)
