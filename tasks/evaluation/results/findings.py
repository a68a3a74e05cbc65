"""Hold the scored images of an evaluation, and choose among them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.detector.verdict import VerdictRule, Verdicts
from tasks.evaluation.metrics import Subject
from tasks.evaluation.parts import CLEAN, FILE, NOISE, Treatment
from tasks.evaluation.scored import Scored, ScoredPart

TEST, SAMPLED, ATTACKED = "test", "sampled", "attacked"  # sets of unseen patients' images


@dataclass(frozen=True)
class Findings:
    """All scored sets of one detector, and the levels of its verdict.

    ``threshold`` is the abnormality from which on an image is abnormal at level ``alpha``.
    ``tables`` list the images of each set, with the ``group`` (patient, slide or image) that each
    belongs to; ``other_sets`` maps "group/name" to the set's name.
    """

    model: str
    classes: Sequence[str]
    seed: int
    alpha: float
    threshold: float
    uncertain_below: float
    tables: Mapping[str, pa.Table]
    scored: Mapping[tuple[str, Treatment], ScoredPart]
    other_sets: Mapping[str, str]

    def counted(self, treatment: Treatment, form: str) -> NDArray[np.intp]:
        """Select images that are right, even under noise as large, and wrong when attacked."""
        clean = self.scored[ATTACKED, CLEAN].forms[FILE]
        part = self.scored[ATTACKED, treatment]
        return np.flatnonzero(clean.right & part.forms[NOISE].right & ~part.forms[form].right)

    def treatments(self, kind: str) -> list[Treatment]:
        """List the treatments of a kind, such as "attack"."""
        return [treatment for _, treatment in self.scored if treatment.kind == kind]

    def clusters(self, images: str, scored: Scored) -> NDArray[np.str_]:
        """Name the group (n,) of each scored image of a set."""
        return np.asarray(self.tables[images]["group"].to_pylist())[scored.rows]

    def verdicts(self, scored: Scored) -> Verdicts:
        """Decide what the nightly report would say of images (n,)."""
        rule = VerdictRule(self.alpha, self.uncertain_below)
        return rule.decide(scored.p_value, scored.probability)

    def subject(self, group: str, images: str, strength: float | None = None) -> Subject:
        """Name the measures of a set of images."""
        return Subject(self.model, self.seed, group, images, strength)
