"""The unit of work that looks at a few cells again: a thumbnail of each, and why it is abnormal."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from flows.jobs.detectors import load_fitted_detector
from flows.jobs.worker import settle_worker
from storage.models.classifiers import ModelCard
from storage.models.detectors import DetectorCard
from storage.store import Store
from tasks.detector.explanation import Explanation, explain
from tasks.images.decoding import BadImageError, resize
from tasks.images.files import ChangedError
from tasks.images.regions import ImageRef, find_unchanged
from tasks.visualisation.thumbnails import Exhibit, make_exhibit

AT_ONCE = 16  # images whose maps are in memory together


@dataclass(frozen=True)
class ExhibitJob:
    """Cells to look at again: where each lies, and the digest that it had."""

    store: Store
    model: ModelCard
    detector: DetectorCard
    cells: tuple[tuple[ImageRef, str], ...]


def make_exhibits(job: ExhibitJob) -> list[Exhibit]:
    """Look at cells again, in order; what cannot be seen is missing, and never an error."""
    # The coordinator has this module too, and need not wait for what only workers run.
    from flows.jobs.networks import load_classifier
    from tasks.network.inference import taps_and_maps

    settle_worker()
    classifier = load_classifier(job.store, job.model)
    detector = load_fitted_detector(job.store, job.detector)
    exhibits: list[Exhibit] = []
    for start in range(0, len(job.cells), AT_ONCE):
        found = [_see(ref, image_id) for ref, image_id in job.cells[start : start + AT_ONCE]]
        images = [image for image in found if isinstance(image, Image.Image)]
        explanations: Iterator[Explanation] = iter(())
        if images:
            pixels = np.stack([resize(image, classifier.spec.side) for image in images])
            explanations = iter(explain(detector, *taps_and_maps(classifier, pixels)))
        exhibits += [
            Exhibit(missing=image)
            if isinstance(image, str)
            else make_exhibit(image, next(explanations))
            for image in found
        ]
    return exhibits


def _see(ref: ImageRef, image_id: str) -> Image.Image | str:
    """The image at an address, or why it cannot be seen again."""
    try:
        return find_unchanged(ref, image_id).image()
    except ChangedError:
        return "the file has changed since it was screened"
    except BadImageError as error:
        return f"the image cannot be decoded: {error.reason}"
    except Exception:  # a page must not depend on what a source raises
        return "the image cannot be read any more"
