"""Score the images of an evaluation by the compared detectors and the classifier."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tasks import bundles
from tasks.detector import calibration, witnesses
from tasks.detector.detector import Detector
from tasks.detector.detector import score as score_images
from tasks.detector.mahalanobis import TiedGaussian, nearest_class_distance
from tasks.detector.probabilities import as_logits, log_odds, probabilities
from tasks.smears.evaluation.rivals import Rivals
from tasks.smears.evaluation.treated import Evidence, Norms, TreatedImages
from tasks.types import Counts, Float, Mask, Pixels

OWN = "slidewatch"
BORDER = "black border"  # the brightness of the border, which is black around a masked cell


@dataclass(frozen=True)
class Fitted:
    """The compared detectors; ``layers`` has a Gaussian for each stage of the network."""

    detector: Detector
    layers: Mapping[str, TiedGaussian]
    rivals: Rivals


@dataclass(frozen=True)
class Scored:
    """The results of detectors and classifier for images in one form.

    ``rows`` (n,) are their rows in the set; ``label`` (n,), -1 if unknown; ``scores`` (n,) by
    detector, those of rivals only if they are compared; ``layers`` (n, L) are log distances by
    stage; ``p_value`` (n,); ``diagnosed`` (n,) the likeliest class and ``probability`` (n,) its
    probability; ``logits`` (n, C) of the diagnosis; ``by_network`` (n,) the likeliest class by the
    network alone, and ``disagree`` (n,) whether two witnesses differ.
    """

    rows: Counts
    label: NDArray[np.int8]
    scores: dict[str, Float]
    layers: Float
    p_value: Float
    diagnosed: NDArray[np.int8]
    probability: Float
    logits: Float
    by_network: NDArray[np.int8]
    disagree: Mask

    @property
    def right(self) -> Mask:
        """Mark the images whose diagnosis equals their label."""
        return np.asarray(self.diagnosed == self.label)


@dataclass(frozen=True)
class ScoredImages:
    """Images under one treatment, scored by form; other fields are as in `TreatedImages`."""

    forms: Mapping[str, Scored]
    image_ids: Pixels
    norms: Mapping[str, Norms] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_ids)

    def without(self, image_ids: set[bytes]) -> "ScoredImages":
        """Remove the images that are among some others."""
        return bundles.take(
            self, np.flatnonzero([row.tobytes() not in image_ids for row in self.image_ids])
        )


def join_scored(shards: Sequence[ScoredImages]) -> ScoredImages:
    """Join the shards of a set; those without a good image have no forms."""
    return bundles.join([each for each in shards if len(each)] or shards[:1])


def score(images: TreatedImages, fitted: Fitted, temperature: float, leans: Float) -> ScoredImages:
    """Compute all scores of every form of images; ``leans`` (n,) are of their slides."""
    forms = {
        form: _scored(images, evidence, fitted, temperature, leans)
        for form, evidence in images.forms.items()
    }
    return ScoredImages(forms, images.image_ids, images.norms)


def _scored(
    images: TreatedImages, evidence: Evidence, fitted: Fitted, temperature: float, leans: Float
) -> Scored:
    detector = fitted.detector
    abnormality = score_images(detector, evidence.taps).abnormality
    rivals = {} if evidence.odin is None else fitted.rivals
    scores = {OWN: abnormality, **{name: rival(evidence) for name, rival in rivals.items()}}
    scores[BORDER] = np.asarray(evidence.border, np.float64)
    logits, disagree = diagnosis_of(evidence, detector.witnesses, temperature, leans)
    chances = probabilities(logits, temperature)
    return Scored(
        rows=images.rows,
        label=images.label,
        scores=scores,
        layers=layer_distances(evidence, fitted),
        p_value=calibration.p_values(detector.calibration, abnormality),
        diagnosed=chances.argmax(axis=1).astype(np.int8),
        probability=chances.max(axis=1),
        logits=logits,
        by_network=evidence.logits.argmax(axis=1).astype(np.int8),
        disagree=disagree,
    )


def layer_distances(evidence: Evidence, fitted: Fitted) -> Float:
    """Compute log distances (n, L) at every stage: the regressions of Lee et al. take them."""
    return calibration.log_distance(
        np.stack(
            [nearest_class_distance(g, evidence.taps[tap]) for tap, g in fitted.layers.items()],
            axis=1,
        )
    )


def diagnosis_of(
    evidence: Evidence, known: witnesses.Witnesses | None, temperature: float, leans: Float
) -> tuple[Float, Mask]:
    """Compute logits (n, C) of the diagnosis, and mark the images on which its witnesses disagree.

    ``leans`` (n,) are of the images' slides.
    """
    logits = np.asarray(evidence.logits, np.float64)
    if known is None:
        return logits, np.zeros(len(logits), bool)
    opinion = known.scales.combine(
        log_odds(logits, temperature, known.positive),
        known.discriminant.scores(evidence.taps) - leans,
    )
    return as_logits(opinion.both, temperature, known.positive), opinion.disagree
