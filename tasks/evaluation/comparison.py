"""Compare detectors side by side: metrics of every set of images, attack and corruption.

Abnormal images are separated from ordinary ones of unseen patients. An attack counts if the clean
image and the image with matched noise are diagnosed correctly, and the attacked image is not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tasks.evaluation.metrics import Metric, Subject, detection, interval, resampled
from tasks.types import Float

REPEATS = 1000
FOLDS = 5
VERDICT = "slidewatch verdict"
UNSEEN_ATTACK = "mahalanobis, all layers (unseen-attack)"
KNOWN_ATTACK = "mahalanobis, all layers (known-attack)"
KNOWN_STACK = "layers and margin (known-attack)"
KNOWN_LOOK = "layers and second look (known-attack)"
UNSEEN_LOOK = "layers and second look (unseen-attack)"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: n images.

    ``scores`` (n,) by detector; ``layers`` (n, L) log distances by stage; ``margin`` (n,) the
    largest logit minus the next; ``verdict`` (n,) whether a person would be asked; ``clusters``
    (n,) of images resampled together; ``looked`` (n, d) features of both looks, or None.
    """

    scores: Mapping[str, Float]
    layers: Float
    margin: Float
    verdict: NDArray[np.bool_]
    clusters: NDArray[np.str_]
    looked: Float | None = None


@dataclass(frozen=True)
class Comparison:
    """A pair of sides: abnormal images, which are the subject, and ordinary ones.

    ``teachers`` are ordinary and attacked images for the regression for unseen attacks.
    """

    subject: Subject
    ordinary: Side
    abnormal: Side
    teachers: tuple[Side, Side] | None


def compare(comparison: Comparison) -> list[Metric]:
    """Compute every metric of every detector, with bootstrap intervals over patients.

    ``caught`` is the share of abnormal images found at the false-alarm rate of the verdict
    (abnormal or uncertain).
    """
    ordinary, abnormal = comparison.ordinary, comparison.abnormal
    n, m = len(ordinary.verdict), len(abnormal.verdict)
    truth = np.r_[np.zeros(n, bool), np.ones(m, bool)]
    clusters = np.r_[ordinary.clusters, abnormal.clusters]
    weights = resampled(np.unique(clusters, return_inverse=True)[1], REPEATS)
    alarms = float(ordinary.verdict.mean())

    def metric(detector: str, name: str, value: float, draws: Float) -> Metric:
        return Metric(comparison.subject, detector, name, interval(value, draws), m, n)

    scores = {
        name: np.r_[ordinary.scores[name], values]
        for name, values in abnormal.scores.items()
        if name in ordinary.scores
    }
    scores |= _regressions(comparison, truth, clusters)
    found: list[Metric] = []
    for name, values in scores.items():
        whole, draws = detection(truth, values), detection(truth, values, weights)
        found += [metric(name, kind, float(value[0]), draws[kind]) for kind, value in whole.items()]
        caught = _caught(values[truth], values[~truth], alarms, weights[:, truth])
        found.append(metric(name, "caught", *caught))
    return [
        *found,
        metric(VERDICT, "caught", *_share(abnormal.verdict, weights[:, truth])),
        metric(VERDICT, "false alarms", *_share(ordinary.verdict, weights[:, ~truth])),
    ]


def _caught(abnormal: Float, ordinary: Float, alarms: float, weights: Float) -> tuple[float, Float]:
    """Compute the share of abnormal scores above the threshold for a share of ordinary ones."""
    allowed = round(alarms * len(ordinary))
    limit = np.append(np.sort(ordinary)[::-1], -np.inf)[allowed]
    return _share(abnormal > limit, weights)


def _share(hit: NDArray[np.bool_], weights: Float) -> tuple[float, Float]:
    with np.errstate(invalid="ignore"):
        return float(hit.mean()), (weights @ hit) / weights.sum(axis=1)


def _regressions(
    comparison: Comparison, truth: NDArray[np.bool_], clusters: NDArray[np.str_]
) -> dict[str, Float]:
    """Score by logistic regressions over stages, as in Lee et al. (2018).

    ``known-attack`` learns from the kind of images it is tried on, ``unseen-attack`` only from
    FGSM; neither learns from images of a patient whose images it scores.
    """
    ordinary, abnormal = comparison.ordinary, comparison.abnormal
    layers = np.concatenate([ordinary.layers, abnormal.layers])
    margin = np.concatenate([ordinary.margin, abnormal.margin])[:, None]
    both = np.hstack([layers, margin])
    scores = {
        KNOWN_ATTACK: _cross_fitted(layers, clusters, layers, truth, clusters),
        KNOWN_STACK: _cross_fitted(both, clusters, both, truth, clusters),
    }
    if comparison.teachers:
        clean, attacked = comparison.teachers
        taught = np.r_[np.zeros(len(clean.layers), bool), np.ones(len(attacked.layers), bool)]
        scores[UNSEEN_ATTACK] = _cross_fitted(
            layers,
            clusters,
            np.concatenate([clean.layers, attacked.layers]),
            taught,
            np.r_[clean.clusters, attacked.clusters],
        )
    return scores | _with_second_look(comparison, truth, clusters)


def _with_second_look(
    comparison: Comparison, truth: NDArray[np.bool_], clusters: NDArray[np.str_]
) -> dict[str, Float]:
    """Score by the same regressions over stages and features of a second look, if there was one."""
    sides = (comparison.ordinary, comparison.abnormal)
    if any(side.looked is None for side in sides):
        return {}
    both = np.concatenate([_all_looks(side) for side in sides])
    scores = {KNOWN_LOOK: _cross_fitted(both, clusters, both, truth, clusters)}
    if comparison.teachers:
        taught = np.concatenate(
            [np.full(len(side.layers), k, bool) for k, side in enumerate(comparison.teachers)]
        )
        teachers = np.concatenate([_all_looks(side) for side in comparison.teachers])
        theirs = np.concatenate([side.clusters for side in comparison.teachers])
        scores[UNSEEN_LOOK] = _cross_fitted(both, clusters, teachers, taught, theirs)
    return scores


def _all_looks(side: Side) -> Float:
    assert side.looked is not None
    return np.hstack([side.layers, side.looked])


def _cross_fitted(
    x: Float,
    clusters: NDArray[np.str_],
    teachers: Float,
    taught: NDArray[np.bool_],
    teaching_clusters: NDArray[np.str_],
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
        model = _regression().fit(teachers[learn], taught[learn])
        scores[test] = model.decision_function(x[test])
    return scores


def _regression() -> Any:
    weighted = LogisticRegression(class_weight="balanced", max_iter=1000)
    return make_pipeline(StandardScaler(), weighted)
