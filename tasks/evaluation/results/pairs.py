"""Pair ordinary images with others, and with attacked ones, to compare detectors on."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.bundles import join, take
from tasks.evaluation.comparison import Comparison, Side
from tasks.evaluation.metrics import AS_COMPUTED, AS_FILES
from tasks.evaluation.parts import CLEAN, COMPUTED, FILE, NOISE, Treatment
from tasks.evaluation.results.findings import ATTACKED, TEST, Findings

FEWEST = 2  # successful attacks that a comparison needs
TEACHER = "fgsm"  # the attack from which the regression for unseen attacks learns


def comparisons(findings: Findings) -> list[Comparison]:
    """Pair every set of other images and every attack with ordinary images."""
    ordinary = _side(findings, TEST, CLEAN, FILE)
    teachers = _teachers(findings)
    found = []
    for group_and_name, images in findings.other_sets.items():
        group, name = group_and_name.split("/", 1)
        abnormal = _side(findings, images, CLEAN, FILE)
        subject = findings.subject(_with_mask(group, ordinary, abnormal), name)
        subject = replace(subject, against="clean")
        found.append(Comparison(subject, ordinary, abnormal, teachers))
    for treatment in findings.treatments("attack"):
        subject = findings.subject("attack", treatment.name, treatment.strength)
        for form, words in ((FILE, AS_FILES), (COMPUTED, AS_COMPUTED)):
            counted = findings.counted(treatment, form)
            if len(counted) < FEWEST:
                continue
            clean = _side(findings, ATTACKED, CLEAN, FILE, counted)
            noisy = _side(findings, ATTACKED, treatment, NOISE, counted)
            attacked = _side(findings, ATTACKED, treatment, form, counted)
            both = join([clean, noisy])
            for against, side in (("clean", clean), ("clean and noise", both)):
                own = replace(subject, images=words, against=against)
                found.append(Comparison(own, side, attacked, teachers))
    return found


def _teachers(findings: Findings) -> tuple[Side, Side] | None:
    """Join ordinary and attacked images for the regression for unseen attacks to learn from."""
    ordinary, attacked = [], []
    for treatment in findings.treatments("attack"):
        counted = findings.counted(treatment, FILE)
        if treatment.name == TEACHER and len(counted):
            ordinary.append(_side(findings, ATTACKED, CLEAN, FILE, counted))
            ordinary.append(_side(findings, ATTACKED, treatment, NOISE, counted))
            attacked.append(_side(findings, ATTACKED, treatment, FILE, counted))
    return (join(ordinary), join(attacked)) if attacked else None


def _side(
    findings: Findings,
    images: str,
    treatment: Treatment,
    form: str,
    chosen: NDArray[np.intp] | None = None,
) -> Side:
    scored = findings.scored[images, treatment].forms[form]
    scored = scored if chosen is None else take(scored, chosen)
    ordered = np.sort(scored.logits, axis=1)
    return Side(
        scored.scores,
        scored.layers,
        ordered[:, -1] - ordered[:, -2],
        findings.verdicts(scored).review,
        findings.clusters(images, scored),
    )


def _with_mask(group: str, ordinary: Side, abnormal: Side) -> str:
    """Name the group, marked if its images have borders as dark as those of ordinary cells."""
    own, others = (side.scores["black border"] for side in (ordinary, abnormal))
    return f"{group}, masked" if np.median(others) <= np.quantile(own, 0.95) else group
