"""The unit of work that looks at a few cells again: a thumbnail of each, and why it is abnormal."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from PIL import Image

from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.store import Store
from tasks.explanation import Explanation, explain
from tasks.images import BadImageError, resize
from tasks.pieces import Piece, find_unchanged
from tasks.process import settle_worker
from tasks.reading import ChangedError
from tasks.shard import load_fitted_detector
from tasks.statistics import Float

HEAT_COLOURS = "inferno"  # from dark to light in every kind of colour vision, and in grey
# How much of a drawn pixel is the heat; the rest is the image in grey.
HEAT = 0.6
THUMBNAIL = 128  # pixels of the longer side at most
QUALITY = 85
AT_ONCE = 16  # images whose maps are in memory together


@dataclass(frozen=True)
class ExhibitJob:
    """Cells to look at again: where each lies, and the digest that it had."""

    store: Store
    model: str
    detector: str
    cells: tuple[tuple[Piece, str], ...]


@dataclass(frozen=True)
class Exhibit:
    """What there is to see of a cell.

    ``thumbnail`` and ``heat`` are WebP files; without a thumbnail, ``missing`` says why. Without
    ``heat`` the tap of the explanation has no locations.
    """

    missing: str | None = None
    thumbnail: bytes | None = None
    heat: bytes | None = None
    explanation: Explanation | None = None


def make_exhibits(job: ExhibitJob) -> list[Exhibit]:
    """Look at cells again, in order; what cannot be seen is missing, and never an error."""
    # The coordinator has this module too, and need not wait for what only workers run.
    from tasks.loading import load_classifier
    from tasks.maps import taps_and_maps

    settle_worker()
    card, detector_card = (
        load_card(job.store, job.model),
        load_detector_card(job.store, job.detector),
    )
    classifier = load_classifier(job.store, job.model, card.digest)
    detector = load_fitted_detector(job.store, job.detector, detector_card.digest)
    exhibits: list[Exhibit] = []
    for start in range(0, len(job.cells), AT_ONCE):
        found = [_see(piece, image_id) for piece, image_id in job.cells[start : start + AT_ONCE]]
        images = [image for image in found if isinstance(image, Image.Image)]
        explanations: Iterator[Explanation] = iter(())
        if images:
            pixels = np.stack([resize(image, classifier.spec.side) for image in images])
            explanations = iter(explain(detector, *taps_and_maps(classifier, pixels)))
        exhibits += [
            Exhibit(missing=image) if isinstance(image, str) else _show(image, next(explanations))
            for image in found
        ]
    return exhibits


def _see(piece: Piece, image_id: str) -> Image.Image | str:
    """The image at an address, or why it cannot be seen again."""
    try:
        return find_unchanged(piece, image_id).image()
    except ChangedError:
        return "the file has changed since it was screened"
    except BadImageError as error:
        return f"the image cannot be decoded: {error.reason}"
    except Exception:  # a page must not depend on what a source raises
        return "the image cannot be read any more"


def _show(image: Image.Image, explanation: Explanation) -> Exhibit:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    shares = explanation.shares
    heat = None if shares is None else _webp(heat_picture(small, shares))
    return Exhibit(thumbnail=_webp(small), heat=heat, explanation=explanation)


def heat_picture(image: Image.Image, shares: Float) -> Image.Image:
    """Shares (h, w) over an RGB image in grey: black adds nothing, the lightest the most."""
    top = float(shares.max(initial=0.0))
    heat = np.clip(shares / top, 0.0, 1.0) if top > 0 else np.zeros_like(shares)
    smooth = Image.fromarray(np.asarray(255 * heat, np.uint8)).resize(
        image.size, Image.Resampling.BICUBIC
    )
    colours = (255 * mpl.colormaps[HEAT_COLOURS](np.asarray(smooth))[..., :3]).astype(np.uint8)
    return Image.blend(image.convert("L").convert("RGB"), Image.fromarray(colours), HEAT)


def _webp(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=QUALITY, method=6)
    return file.getvalue()
