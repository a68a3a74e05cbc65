"""Score treated images of an evaluation by the compared detectors and the classifier."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks import bundles
from tasks.detector import calibration, detector, probabilities, witnesses
from tasks.detector.verdict import VerdictRule
from tasks.types import Counts, Float, Mask, Pixels, Single, Texts

FILE = "file"  # an image as stored in a lossless file
NOISE = "noise"  # the clean image with noise as large as the attack's change
OWN = "slidewatch"


@dataclass(frozen=True)
class Treatment:
    """A treatment of images before they are scored.

    ``strength`` is an attack's L-infinity bound, or a corruption's level from 1 to 5.
    """

    kind: Literal["none", "corruption", "attack"] = "none"
    name: str = "clean"
    strength: float | None = None

    @property
    def key(self) -> str:
        """Return a name for a folder."""
        return self.name if self.strength is None else f"{self.name}-{self.strength:.4f}"

    @property
    def set(self) -> str:
        """Return the name of the treated images in tables."""
        return f"{self.kind}/{self.name}"


CLEAN = Treatment()


@dataclass(frozen=True)
class ImageEvidence(bundles.Bundle):
    """The evidence on n images.

    ``taps`` are pooled features (n, d) of the network's stages, ``logits`` (n, C), ``odin`` the
    logits after ODIN's input pre-processing, None where no rival is compared.
    """

    taps: Mapping[str, Single] = field(metadata={bundles.KEPT_AS: "tap"})
    logits: Single
    odin: Single | None = None


# They score the evidence on n images, (n,): higher is more abnormal.
Rivals = dict[str, Callable[[ImageEvidence], Float]]


@dataclass(frozen=True)
class TreatedImages(bundles.Bundle):
    """Images (n,) of a set under one treatment.

    ``rows`` (n,) are their rows in the set, ``image_ids`` (n, 32) digests of their files,
    ``label`` (n,) their classes, -1 if unknown; ``forms`` are empty without a good image.
    """

    rows: Counts
    image_ids: Pixels = field(metadata={bundles.KEPT_AS: "image_id"})
    label: NDArray[np.int8]
    forms: Mapping[str, ImageEvidence] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredForm:
    """The results of detectors and classifier for images in one form.

    ``rows`` (n,) are their rows in the set, ``clusters`` (n,) their patients, slides or themselves;
    ``label`` (n,), -1 if unknown; ``scores`` (n,) by detector, those of rivals only if they are
    compared; ``abnormal`` (n,) and ``review`` (n,), whether the nightly report would call them
    abnormal and send them to a person; ``diagnosed`` (n,) the likeliest class; ``logits`` (n, C) of
    the diagnosis; ``by_network`` (n,) the likeliest class by the network alone, and ``disagree``
    (n,) whether two witnesses differ.
    """

    rows: Counts
    clusters: Texts
    label: NDArray[np.int8]
    scores: dict[str, Float]
    abnormal: Mask
    review: Mask
    diagnosed: NDArray[np.int8]
    logits: Float
    by_network: NDArray[np.int8]
    disagree: Mask

    @property
    def right(self) -> Mask:
        """Mark the images whose diagnosis equals their label."""
        return np.asarray(self.diagnosed == self.label)


@dataclass(frozen=True)
class ScoredImages:
    """Images under one treatment, scored by form, and the digests (n, 32) of their files."""

    forms: Mapping[str, ScoredForm]
    image_ids: Pixels

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


def score(
    images: TreatedImages,
    clusters: Texts,
    own: detector.Detector,
    rivals: Rivals,
    rule: VerdictRule,
    temperature: float,
    leans: Float,
) -> ScoredImages:
    """Compute all scores of every form of images; ``leans`` (n,) are of their slides."""
    forms = {}
    for form, evidence in images.forms.items():
        abnormality = detector.score(own, evidence.taps).abnormality
        scores = {OWN: abnormality, **{name: rival(evidence) for name, rival in rivals.items()}}
        logits, disagree = _diagnosis_of(evidence, own.witnesses, temperature, leans)
        chances = probabilities.probabilities(logits, temperature)
        p_value = calibration.p_values(own.calibration, abnormality)
        forms[form] = ScoredForm(
            rows=images.rows,
            clusters=clusters,
            label=images.label,
            scores=scores,
            abnormal=p_value <= rule.alpha,
            review=rule.decide(p_value, chances.max(axis=1)).review,
            diagnosed=chances.argmax(axis=1).astype(np.int8),
            logits=logits,
            by_network=evidence.logits.argmax(axis=1).astype(np.int8),
            disagree=disagree,
        )
    return ScoredImages(forms, images.image_ids)


def _diagnosis_of(
    evidence: ImageEvidence, known: witnesses.Witnesses | None, temperature: float, leans: Float
) -> tuple[Float, Mask]:
    """Compute logits (n, C) of the diagnosis, and mark the images on which its witnesses disagree.

    ``leans`` (n,) are of the images' slides.
    """
    logits = np.asarray(evidence.logits, np.float64)
    if known is None:
        return logits, np.zeros(len(logits), bool)
    opinion = known.scales.combine(
        probabilities.log_odds(logits, temperature, known.positive),
        known.discriminant.scores(evidence.taps) - leans,
    )
    both = probabilities.as_logits(opinion.both, temperature, known.positive)
    return both, opinion.disagree
