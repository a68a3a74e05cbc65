"""Measure the diagnosis of an evaluation's images, and how often attacks succeed."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.comparison import VERDICT
from tasks.evaluation.metrics import (
    AS_COMPUTED,
    AS_FILES,
    Interval,
    Metric,
    Subject,
    auroc,
    interval,
    resampled,
    share,
)
from tasks.evaluation.parts import CLEAN, COMPUTED, FILE
from tasks.evaluation.results.findings import ATTACKED, SAMPLED, TEST, Findings
from tasks.evaluation.scored import OWN, Scored, ScoredPart

REPEATS = 1000


def diagnosis_rows(findings: Findings) -> list[Metric]:
    """Measure the diagnosis of unseen patients' cells, and how often the detector alarms."""
    test = findings.scored[TEST, CLEAN].forms[FILE]
    clusters = _numbers(findings.clusters(TEST, test))
    margin = test.logits[:, 0] - test.logits[:, 1:].max(axis=1)
    area = auroc(test.label == 0, margin)
    draws = np.asarray(
        [
            auroc(np.repeat(test.label == 0, times), np.repeat(margin, times))
            for times in resampled(clusters, 200).astype(int)
        ]
    )
    subject = findings.subject("diagnosis", TEST)
    return [
        _rate(subject, None, "accuracy", test.right, clusters),
        Metric(subject, None, "AUROC", interval(area, draws), len(margin)),
        Metric(subject, OWN, "threshold", Interval(findings.threshold)),
        *_verdict_rows(findings, subject, test, clusters),
    ]


def covariate_rows(findings: Findings) -> list[Metric]:
    """Measure the effect of corruptions on the diagnosis, and how often the detector alarms."""
    rows = []
    for treatment in findings.treatments("corruption"):
        changed = findings.scored[SAMPLED, treatment].forms[FILE]
        clusters = _numbers(findings.clusters(SAMPLED, changed))
        subject = findings.subject("covariate", treatment.name, treatment.strength)
        rows += [
            _rate(subject, None, "accuracy", changed.right, clusters),
            *_verdict_rows(findings, subject, changed, clusters),
        ]
    return rows


def attack_rows(findings: Findings) -> list[Metric]:
    """Measure the success, size and transfer of attacks."""
    rows = []
    for treatment in findings.treatments("attack"):
        part = findings.scored[ATTACKED, treatment]
        clusters = _numbers(findings.clusters(ATTACKED, part.forms[FILE]))
        subject = findings.subject("attack", treatment.name, treatment.strength)
        for form, words in ((FILE, AS_FILES), (COMPUTED, AS_COMPUTED)):
            scored, own = part.forms[form], replace(subject, images=words)
            fooled = ~scored.right
            rows += [
                _rate(own, None, "success rate", fooled, clusters),
                _rate(own, None, "network fooled", scored.by_network != scored.label, clusters),
                _rate(own, None, "witnesses disagree", scored.disagree, clusters),
            ]
            norms = part.norms[form]
            for sizes, word in ((norms.l2, "L2"), (norms.linf, "Linf")):
                sizes = sizes[fooled].astype(np.float64)
                median = float(np.median(sizes)) if len(sizes) else float("nan")
                rows.append(Metric(own, None, word, Interval(median), len(sizes)))
        rows += _transfer_rows(findings, part, subject, clusters)
    return rows


def _transfer_rows(
    findings: Findings, part: ScoredPart, subject: Subject, clusters: NDArray[np.intp]
) -> list[Metric]:
    """Count the images that fool this model and also the other one, which knew them."""
    if part.transfer is None:
        return []
    file = part.forms[FILE]
    knew = part.transfer.clean.argmax(axis=1) == file.label
    fell = part.transfer.file.argmax(axis=1) != file.label
    tried = ~file.right & knew
    if not tried.any():
        return []
    return [_rate(subject, None, "transfer", fell[tried], clusters[tried])]


def _verdict_rows(
    findings: Findings, subject: Subject, scored: Scored, clusters: NDArray[np.intp]
) -> list[Metric]:
    verdicts = findings.verdicts(scored)
    return [
        _rate(subject, OWN, "called abnormal", verdicts.abnormal, clusters),
        _rate(subject, VERDICT, "sent to review", verdicts.review, clusters),
    ]


def _rate(
    subject: Subject,
    detector: str | None,
    metric: str,
    hit: NDArray[np.bool_],
    clusters: NDArray[np.intp],
) -> Metric:
    return Metric(subject, detector, metric, share(hit, resampled(clusters, REPEATS)), len(hit))


def _numbers(keys: NDArray[np.str_]) -> NDArray[np.intp]:
    return np.asarray(np.unique(keys, return_inverse=True)[1])
