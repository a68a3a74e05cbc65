"""Score the images of an evaluation by the compared detectors and the classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks.bundles import join, take
from tasks.detector.calibration import p_values
from tasks.detector.probabilities import as_logits, log_odds, probabilities
from tasks.detector.witnesses import Witnesses
from tasks.evaluation.baselines import Evidence, Fitted, all_scores, layer_distances
from tasks.evaluation.parts import Norms, Pictures, Transfer, TreatedPart
from tasks.images.platelets import without_platelets
from tasks.types import Float

OWN = "slidewatch"


@dataclass(frozen=True)
class Scored:
    """The results of detectors and classifier for images in one form.

    ``rows`` (n,) are their rows in the set; ``scores`` (n,) by detector; ``layers`` (n, L) are log
    distances by stage; ``p_value`` (n,); ``diagnosed`` (n,) the likeliest class and ``probability``
    (n,) its probability; ``label`` (n,), -1 if unknown; ``logits`` (n, C) of the diagnosis;
    ``by_network`` (n,) the likeliest class by the network alone, and ``disagree`` (n,) whether two
    witnesses differ.
    """

    rows: NDArray[np.int64]
    label: NDArray[np.int8]
    scores: dict[str, Float]
    layers: Float
    p_value: Float
    diagnosed: NDArray[np.int8]
    probability: Float
    logits: Float
    by_network: NDArray[np.int8]
    disagree: NDArray[np.bool_]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Mark the images whose diagnosis equals their label."""
        return np.asarray(self.diagnosed == self.label)


@dataclass(frozen=True)
class ScoredPart:
    """Images under one treatment, scored by form; other fields are as in `TreatedPart`."""

    forms: Mapping[str, Scored]
    image_ids: NDArray[np.uint8]
    norms: Mapping[str, Norms] = field(default_factory=dict)
    transfer: Transfer | None = None
    pictures: Pictures = field(default_factory=Pictures)

    def __len__(self) -> int:
        return len(self.image_ids)

    def without(self, image_ids: set[bytes]) -> "ScoredPart":
        """Remove the images that are among some others."""
        chosen = np.flatnonzero([row.tobytes() not in image_ids for row in self.image_ids])
        return ScoredPart(
            take(self.forms, chosen),
            self.image_ids[chosen],
            take(self.norms, chosen),
            take(self.transfer, chosen),
            self.pictures,
        )


def join_parts(parts: Sequence[ScoredPart]) -> ScoredPart:
    """Join the parts of a set; only the pictures of the first are kept."""
    parts = [part for part in parts if len(part)] or parts[:1]
    return ScoredPart(
        join([part.forms for part in parts]),
        join([part.image_ids for part in parts]),
        join([part.norms for part in parts]),
        join([part.transfer for part in parts]),
        parts[0].pictures,
    )


def score(part: TreatedPart, fitted: Fitted, temperature: float, leans: Float) -> ScoredPart:
    """Compute all scores of every form of a part's images.

    ``leans`` (n,) are of the images' slides, for a second witness.
    """
    forms = {
        form: _scored(part, evidence, fitted, temperature, leans)
        for form, evidence in part.forms.items()
    }
    return ScoredPart(forms, part.image_ids, part.norms, part.transfer, part.pictures)


def _scored(
    part: TreatedPart, evidence: Evidence, fitted: Fitted, temperature: float, leans: Float
) -> Scored:
    scores = all_scores(evidence, fitted)
    logits, disagree = diagnosis_of(evidence, fitted.detector.witnesses, temperature, leans)
    chances = probabilities(logits, temperature)
    return Scored(
        rows=part.rows,
        label=part.label,
        scores=scores,
        layers=layer_distances(evidence, fitted),
        p_value=p_values(fitted.detector.calibration, scores[OWN]),
        diagnosed=chances.argmax(axis=1).astype(np.int8),
        probability=chances.max(axis=1),
        logits=logits,
        by_network=evidence.logits.argmax(axis=1).astype(np.int8),
        disagree=disagree,
    )


def diagnosis_of(
    evidence: Evidence, known: Witnesses | None, temperature: float, leans: Float
) -> tuple[Float, NDArray[np.bool_]]:
    """Compute logits (n, C) of the diagnosis, and mark the images on which its witnesses disagree.

    With two witnesses, a platelet at the rim counts as it does in a night; ``leans`` (n,) are of
    the images' slides.
    """
    logits = np.asarray(evidence.logits, np.float64)
    if known is None:
        return logits, np.zeros(len(logits), bool)
    said = known.scales.combine(
        log_odds(logits, temperature, known.positive),
        known.discriminant.scores(evidence.taps) - leans,
    )
    both = without_platelets(said.both, evidence.platelet)
    return as_logits(both, temperature, known.positive), said.disagree
