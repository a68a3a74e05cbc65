"""Keep the images of a part of an evaluation: their treatment and the evidence on them.

One file holds a `TreatedPart`, as named arrays from `TreatedPart.to_arrays`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.evaluation.baselines import Evidence
from tasks.types import Arrays, below, nested

FILE = "file"  # an image as stored in a lossless file
COMPUTED = "computed"  # as an attack computed it, not rounded to 8 bits
NOISE = "noise"  # the clean image with noise as large as the attack's change
FORMS = (FILE, COMPUTED, NOISE)


@dataclass(frozen=True)
class Treatment:
    """A treatment of images before they are scored; ``strength`` is in the name's unit."""

    kind: Literal["none", "corruption", "attack"] = "none"
    name: str = "clean"
    strength: float | None = None

    @property
    def key(self) -> str:
        """Return a name for a folder."""
        return self.name if self.strength is None else f"{self.name}-{self.strength:.4f}"


CLEAN = Treatment()


@dataclass(frozen=True)
class Norms:
    """Norms (n,) of an attack's changes to images with pixels in [0, 1]."""

    l2: NDArray[np.float32]
    linf: NDArray[np.float32]


@dataclass(frozen=True)
class Transfer:
    """Logits (n, C) of another model on images before an attack and on the attacked files."""

    clean: NDArray[np.float32]
    file: NDArray[np.float32]


@dataclass(frozen=True)
class Pictures:
    """Some images uint8 (k, S, S, 3) after a treatment; for an attack, also the clean ones."""

    changed: NDArray[np.uint8] | None = None
    clean: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class TreatedPart:
    """A part of a set: n images under one treatment.

    ``rows`` (n,) are their rows in the set, ``image_ids`` (n, 32) digests of their files,
    ``label`` (n,) their classes, -1 if unknown. ``forms`` and an attack's ``norms`` are by form;
    a part without a good image has none.
    """

    rows: NDArray[np.int64]
    image_ids: NDArray[np.uint8]
    label: NDArray[np.int8]
    forms: Mapping[str, Evidence] = field(default_factory=dict)
    norms: Mapping[str, Norms] = field(default_factory=dict)
    transfer: Transfer | None = None
    pictures: Pictures = field(default_factory=Pictures)

    def to_arrays(self) -> Arrays:
        """Return named arrays to be stored."""
        arrays: Arrays = {"rows": self.rows, "image_id": self.image_ids, "label": self.label}
        for form, evidence in self.forms.items():
            arrays |= nested(form, evidence.to_arrays())
        for form, norms in self.norms.items():
            arrays |= nested(form, vars(norms))
        if self.transfer:
            arrays |= nested("other", vars(self.transfer))
        kept = {name: images for name, images in vars(self.pictures).items() if images is not None}
        return arrays | nested("pictures", kept)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> "TreatedPart":
        """Read a part back from `to_arrays`."""
        forms = {form: below(form, arrays) for form in FORMS}
        other = below("other", arrays)
        return cls(
            arrays["rows"],
            arrays["image_id"],
            arrays["label"],
            {form: Evidence.from_arrays(of) for form, of in forms.items() if "logits" in of},
            {form: Norms(of["l2"], of["linf"]) for form, of in forms.items() if "l2" in of},
            Transfer(**other) if other else None,
            Pictures(**below("pictures", arrays)),
        )
