"""Show some images before and after a treatment, with their captions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.bundles import take
from tasks.evaluation.parts import CLEAN, FILE
from tasks.evaluation.results.findings import SAMPLED, Findings
from tasks.evaluation.scored import OWN, Scored

EXAMPLES = 2  # of each treatment


@dataclass(frozen=True)
class Example:
    """A cell before and after an attack or corruption, two uint8 (S, S, 3), with captions."""

    heading: str
    clean: NDArray[np.uint8]
    changed: NDArray[np.uint8]
    captions: tuple[str, ...]


def examples(findings: Findings) -> list[Example]:
    """Choose some images before and after each treatment, with their captions."""
    found = []
    sampled = findings.scored[SAMPLED, CLEAN].pictures.changed
    for (images, treatment), part in findings.scored.items():
        if treatment.kind == "none":
            continue
        after = part.pictures.changed
        before = sampled if part.pictures.clean is None else part.pictures.clean
        if before is None or after is None:
            continue
        for i in range(min(EXAMPLES, len(before), len(part))):
            forms = (findings.scored[images, CLEAN].forms[FILE], part.forms[FILE])
            said = [_said(findings, take(scored, np.asarray([i]))) for scored in forms]
            captions = (f"before: {said[0]}", f"after: {said[1]}")
            strength = f" {treatment.strength:.3g}" if treatment.strength else ""
            found.append(Example(treatment.name + strength, before[i], after[i], captions))
    return found


def _said(findings: Findings, one: Scored) -> str:
    return (
        f"{findings.classes[one.diagnosed[0]]} ({one.probability[0]:.2f}), "
        f"abnormality {one.scores[OWN][0]:.1f}, p {one.p_value[0]:.2g}"
    )
