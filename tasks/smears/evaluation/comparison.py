"""Compare detectors side by side on single images: ordinary ones and others.

Abnormal images are separated from ordinary ones of unseen patients. An attack counts if the clean
image and the image with matched noise are diagnosed correctly, and the attacked image is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tasks.metrics import metrics
from tasks.types import Float, Mask, Texts

FOLDS = 5
VERDICT = "slidewatch verdict"
UNSEEN_ATTACK = "mahalanobis, all layers (unseen-attack)"
KNOWN_ATTACK = "mahalanobis, all layers (known-attack)"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: n images.

    ``scores`` (n,) by detector; ``layers`` (n, L) log distances by stage; ``verdict`` (n,) whether
    a person would be asked; ``clusters`` (n,) of images resampled together.
    """

    scores: Mapping[str, Float]
    layers: Float
    verdict: Mask
    clusters: Texts


@dataclass(frozen=True)
class Comparison:
    """A pair of sides: abnormal images, which are the subject, and ordinary ones.

    ``teachers`` are ordinary and attacked images for the regression for unseen attacks.
    """

    subject: metrics.Subject
    ordinary: Side
    abnormal: Side
    teachers: tuple[Side, Side] | None


def compare(comparison: Comparison) -> list[metrics.Result]:
    """Compute every metric of every detector, with bootstrap intervals over patients.

    ``caught`` is the share of abnormal images found at the false-alarm rate of the verdict
    (abnormal or uncertain).
    """
    ordinary, abnormal = comparison.ordinary, comparison.abnormal
    n, m = len(ordinary.verdict), len(abnormal.verdict)
    truth = np.r_[np.zeros(n, bool), np.ones(m, bool)]
    clusters = np.r_[ordinary.clusters, abnormal.clusters]
    weights = metrics.resampled(np.unique(clusters, return_inverse=True)[1])
    alarms = float(ordinary.verdict.mean())

    def result(detector: str, measure: str, estimate: metrics.Interval) -> metrics.Result:
        return metrics.Result(comparison.subject, detector, measure, estimate, m, n)

    scores = {
        name: np.r_[ordinary.scores[name], values]
        for name, values in abnormal.scores.items()
        if name in ordinary.scores
    }
    scores |= _regressions(comparison, truth, clusters)
    results: list[metrics.Result] = []
    for name, values in scores.items():
        whole, draws = metrics.detection(truth, values), metrics.detection(truth, values, weights)
        results += [
            result(name, kind, metrics.interval(float(value[0]), draws[kind]))
            for kind, value in whole.items()
        ]
        caught = values[truth] > _limit(values[~truth], alarms)
        results.append(result(name, "caught", metrics.share(caught, weights[:, truth])))
    return [
        *results,
        result(VERDICT, "caught", metrics.share(abnormal.verdict, weights[:, truth])),
        result(VERDICT, "false alarms", metrics.share(ordinary.verdict, weights[:, ~truth])),
    ]


def _limit(ordinary: Float, alarms: float) -> float:
    """Compute the score that a given share of ordinary images exceeds."""
    return float(np.append(np.sort(ordinary)[::-1], -np.inf)[round(alarms * len(ordinary))])


def _regressions(comparison: Comparison, truth: Mask, clusters: Texts) -> dict[str, Float]:
    """Score by logistic regressions over stages, as in Lee et al. (2018).

    ``known-attack`` learns from the kind of images it is tried on, ``unseen-attack`` only from
    FGSM; neither learns from images of a patient whose images it scores.
    """
    layers = np.concatenate([comparison.ordinary.layers, comparison.abnormal.layers])
    scores = {KNOWN_ATTACK: _cross_fitted(layers, clusters, layers, truth, clusters)}
    if comparison.teachers:
        ordinary, attacked = comparison.teachers
        scores[UNSEEN_ATTACK] = _cross_fitted(
            layers,
            clusters,
            np.concatenate([ordinary.layers, attacked.layers]),
            np.repeat([False, True], [len(ordinary.layers), len(attacked.layers)]),
            np.concatenate([ordinary.clusters, attacked.clusters]),
        )
    return scores


def _cross_fitted(
    x: Float,
    clusters: Texts,
    teachers: Float,
    taught: Mask,
    teaching_clusters: Texts,
) -> Float:
    """Compute scores (n,) of x (n, L) by regressions on teachers of other clusters."""
    scores = np.zeros(len(x))
    if len(np.unique(clusters)) < 2:
        return scores  # all images are of one patient, so there is none to learn from
    folds = GroupKFold(min(FOLDS, len(np.unique(clusters))), shuffle=True, random_state=0)
    for _, test in folds.split(x, groups=clusters):
        learn = ~np.isin(teaching_clusters, clusters[test])
        if len(np.unique(taught[learn])) < 2:
            continue  # images of both kinds are not left to learn from
        weighted = LogisticRegression(class_weight="balanced", max_iter=1000)
        model = make_pipeline(StandardScaler(), weighted).fit(teachers[learn], taught[learn])
        scores[test] = model.decision_function(x[test])
    return scores
