"""Define treated images: their treatment, and the evidence on them that scores need."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from numpy import int8
from numpy.typing import NDArray

from tasks import bundles, types

FILE = "file"  # an image as stored in a lossless file
NOISE = "noise"  # the clean image with noise as large as the attack's change


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

    taps: Mapping[str, types.Single] = field(metadata={bundles.KEPT_AS: "tap"})
    logits: types.Single
    odin: types.Single | None = None


# They score the evidence on n images, (n,): higher is more abnormal.
Rivals = dict[str, Callable[[ImageEvidence], types.Float]]


@dataclass(frozen=True)
class TreatedImages(bundles.Bundle):
    """Images (n,) of a set under one treatment.

    ``rows`` (n,) are their rows in the set, ``image_ids`` (n, 32) digests of their files,
    ``label`` (n,) their classes, -1 if unknown; ``forms`` are empty without a good image.
    """

    rows: types.Counts
    image_ids: types.Pixels = field(metadata={bundles.KEPT_AS: "image_id"})
    label: NDArray[int8]
    forms: Mapping[str, ImageEvidence] = field(default_factory=dict)
