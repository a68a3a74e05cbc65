"""Compare detectors side by side on single images: ordinary ones and others.

Abnormal images are separated from ordinary ones of unseen patients. An attack counts if the clean
image and the image with matched noise are diagnosed correctly, and the attacked image is not.
"""

from dataclasses import dataclass

import numpy as np

from tasks.metrics import metrics
from tasks.smears.evaluation.scored import ScoredForm
from tasks.types import Float

VERDICT = "slidewatch verdict"


@dataclass(frozen=True)
class Comparison:
    """A pair of sides: abnormal images, which are the subject, and ordinary ones."""

    subject: metrics.Subject
    ordinary: ScoredForm
    abnormal: ScoredForm


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
        caught = others > _limit(values[~truth], alarms)
        results.append(result(name, "caught", metrics.share(caught, weights[:, truth])))
    return [
        *results,
        result(VERDICT, "caught", metrics.share(abnormal.review, weights[:, truth])),
        result(VERDICT, "false alarms", metrics.share(ordinary.review, weights[:, ~truth])),
    ]


def _limit(ordinary: Float, alarms: float) -> float:
    """Compute the score that a given share of ordinary images exceeds."""
    return float(np.append(np.sort(ordinary)[::-1], -np.inf)[round(alarms * len(ordinary))])
