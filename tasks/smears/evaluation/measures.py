"""Measure the scored sets of an evaluation: diagnoses, corruptions, attacks, and pairs of sets."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from tasks import bundles, types
from tasks.detector.verdict import VerdictRule
from tasks.metrics import metrics
from tasks.smears.evaluation import comparison
from tasks.smears.evaluation.scored import BORDER, OWN, Scored, ScoredImages
from tasks.smears.evaluation.treated import CLEAN, COMPUTED, FILE, NOISE, Treatment

TEST, SAMPLED, ATTACKED = "test", "sampled", "attacked"  # sets of unseen patients' images
HOME = "unseen patients"  # the name of these patients' cells in tables
UNROUNDED = f"{metrics.SINGLE}, not rounded to 8 bits"
AND_NOISE = ", and noisy ones"  # are ordinary too
FEWEST = 2  # successful attacks that a comparison needs
TEACHER = "fgsm"  # the attack from which the regression for unseen attacks learns


@dataclass(frozen=True)
class ScoredSets:
    """All scored sets of one detector, and the rule of its verdict.

    ``threshold`` is the abnormality from which on an image is abnormal. ``groups`` name, for each
    image of a set's list, the patient, slide or image that it belongs to. ``others`` maps the names
    of sets of other images, in tables, to the names of their lists.
    """

    rule: VerdictRule
    threshold: float
    groups: Mapping[str, types.Texts]
    scored: Mapping[tuple[str, Treatment], ScoredImages]
    others: Mapping[str, str]

    def counted(self, treatment: Treatment, form: str) -> types.Index:
        """Select images that are right, even under noise as large, and wrong when attacked."""
        clean = self.scored[ATTACKED, CLEAN].forms[FILE]
        forms = self.scored[ATTACKED, treatment].forms
        return np.flatnonzero(clean.right & forms[NOISE].right & ~forms[form].right)

    def treatments(self, kind: str) -> list[Treatment]:
        """List the treatments of unseen patients' images of a kind, such as "attack"."""
        sets = (SAMPLED, ATTACKED)
        return [each for images, each in self.scored if images in sets and each.kind == kind]

    def clusters(self, images: str, scored: Scored) -> types.Texts:
        """Name the group (n,) of each scored image of a set."""
        return self.groups[images][scored.rows]

    def review(self, scored: Scored) -> types.Mask:
        """Mark the images (n,) that the nightly report would send to a person."""
        return self.rule.decide(scored.p_value, scored.probability).review


def measures(sets: ScoredSets) -> Iterator[metrics.Result]:
    """Measure diagnoses of unseen patients' cells, clean, corrupted and attacked."""
    test = sets.scored[TEST, CLEAN].forms[FILE]
    clusters = _numbers(sets.clusters(TEST, test))
    margin = test.logits[:, 0] - test.logits[:, 1:].max(axis=1)
    whole, draws = (
        metrics.detection(test.label == 0, margin, weights)["AUROC"]
        for weights in (None, metrics.resampled(clusters))
    )
    area, home = metrics.interval(float(whole[0]), draws), metrics.Subject(HOME)
    yield metrics.Result(home, None, "AUROC of the diagnosis", area, ordinary=len(margin))
    yield metrics.Result(home, OWN, "threshold", metrics.Interval(sets.threshold))
    yield from _diagnosed(sets, home, TEST, test)
    for treatment in sets.treatments("corruption"):
        subject = metrics.Subject(treatment.set, treatment.strength)
        changed = sets.scored[SAMPLED, treatment].forms[FILE]
        yield from _diagnosed(sets, subject, SAMPLED, changed)
    for treatment in sets.treatments("attack"):
        for form, composition in ((FILE, metrics.SINGLE), (COMPUTED, UNROUNDED)):
            subject = metrics.Subject(treatment.set, treatment.strength, composition)
            yield from _attacked(sets, subject, sets.scored[ATTACKED, treatment], form)


def _diagnosed(
    sets: ScoredSets, subject: metrics.Subject, images: str, scored: Scored
) -> Iterator[metrics.Result]:
    """Measure the share of right diagnoses, and how often the detector alarms."""
    clusters = _numbers(sets.clusters(images, scored))
    abnormal = scored.p_value <= sets.rule.alpha
    yield _rate(subject, None, "accuracy", scored.right, clusters)
    yield _rate(subject, OWN, "called abnormal", abnormal, clusters)
    yield _rate(subject, comparison.VERDICT, "sent to review", sets.review(scored), clusters)


def _attacked(
    sets: ScoredSets, subject: metrics.Subject, images: ScoredImages, form: str
) -> Iterator[metrics.Result]:
    """Measure the success and size of an attack."""
    scored, norms = images.forms[form], images.norms[form]
    clusters, fooled = _numbers(sets.clusters(ATTACKED, scored)), ~scored.right
    yield _rate(subject, None, "success rate", fooled, clusters)
    yield _rate(subject, None, "network fooled", scored.by_network != scored.label, clusters)
    yield _rate(subject, None, "witnesses disagree", scored.disagree, clusters)
    for word, sizes in (("L2", norms.l2[fooled]), ("Linf", norms.linf[fooled])):
        middle = float(np.median(sizes.astype(np.float64))) if len(sizes) else float("nan")
        yield metrics.Result(subject, None, f"median {word}", metrics.Interval(middle), len(sizes))


def _rate(
    subject: metrics.Subject,
    detector: str | None,
    measure: str,
    hit: types.Mask,
    clusters: types.Index,
) -> metrics.Result:
    counts = (0, len(hit)) if subject.set == HOME else (len(hit), 0)
    return metrics.Result(
        subject,
        detector,
        measure,
        metrics.share(hit, metrics.resampled(clusters)),
        *counts,
    )


def _numbers(keys: types.Texts) -> types.Index:
    return np.asarray(np.unique(keys, return_inverse=True)[1])


def comparisons(sets: ScoredSets) -> Iterator[comparison.Comparison]:
    """Pair every set of other images and every attack with ordinary images."""
    ordinary, teachers = _side(sets, TEST, CLEAN, FILE), _teachers(sets)
    for name, images in sets.others.items():
        yield comparison.Comparison(
            metrics.Subject(name), ordinary, _side(sets, images, CLEAN, FILE), teachers
        )
    for treatment in sets.treatments("attack"):
        for form, composition in ((FILE, metrics.SINGLE), (COMPUTED, UNROUNDED)):
            counted = sets.counted(treatment, form)
            if len(counted) < FEWEST:
                continue
            clean = _side(sets, ATTACKED, CLEAN, FILE, counted)
            noisy = _side(sets, ATTACKED, treatment, NOISE, counted)
            attacked = _side(sets, ATTACKED, treatment, form, counted)
            for words, side in (("", clean), (AND_NOISE, bundles.join([clean, noisy]))):
                subject = metrics.Subject(treatment.set, treatment.strength, composition + words)
                yield comparison.Comparison(subject, side, attacked, teachers)


def _teachers(sets: ScoredSets) -> tuple[comparison.Side, comparison.Side] | None:
    """Join ordinary and attacked images for the regression for unseen attacks to learn from."""
    ordinary, attacked = [], []
    for treatment in sets.treatments("attack"):
        counted = sets.counted(treatment, FILE)
        if treatment.name == TEACHER and len(counted):
            ordinary.append(_side(sets, ATTACKED, CLEAN, FILE, counted))
            ordinary.append(_side(sets, ATTACKED, treatment, NOISE, counted))
            attacked.append(_side(sets, ATTACKED, treatment, FILE, counted))
    return (bundles.join(ordinary), bundles.join(attacked)) if attacked else None


def _side(
    sets: ScoredSets,
    images: str,
    treatment: Treatment,
    form: str,
    chosen: types.Index | None = None,
) -> comparison.Side:
    scored = sets.scored[images, treatment].forms[form]
    scored = scored if chosen is None else bundles.take(scored, chosen)
    clusters = sets.clusters(images, scored)
    return comparison.Side(scored.scores, scored.layers, sets.review(scored), clusters)


def is_masked(ordinary: Scored, others: Scored) -> bool:
    """Return whether images have borders as dark as those of ordinary cells.

    A set with brighter borders can be told apart by its corners alone.
    """
    dark = np.quantile(ordinary.scores[BORDER], 0.95)
    return bool(np.median(others.scores[BORDER]) <= dark)
