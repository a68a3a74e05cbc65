"""Learn, during a fit, the result of second looks at ordinary images.

It depends only on the network: later detectors of the same model take it over, and read no image
again.
"""

import numpy as np
from numpy.typing import NDArray

from flows.cluster.executor import run_jobs
from flows.jobs.fitting.altered import Image
from flows.jobs.second_look import OrdinaryJob, ordinary_losses
from flows.jobs.verified import load_fitted_detector
from flows.monitoring.console import warn
from flows.stages.batch import images_of
from flows.stages.class_statistics import Fitting
from storage.batches.features import image_ids, read_block
from storage.batches.manifests import Batch, load_batch, read_manifest
from storage.models.classifiers import ModelCard
from storage.models.contributions import is_labelled
from storage.models.detectors import list_detectors
from storage.models.statistics import Contribution, Lineage
from storage.store import Store
from tasks.detector.calibration import Calibration
from tasks.second_look.choice import spread_over
from tasks.second_look.stability import calibrate_stability

MOST = 256  # images, spread evenly over patients: each costs twelve passes of the network
LEAST = 20  # images; with fewer, one in twenty cannot be estimated
IMAGES_A_JOB = 32


def ordinary_stability(to: Fitting, lineage: Lineage) -> tuple[Calibration | None, list[str]]:
    """Calibrate second looks on fitted batches' images that the network was not trained on.

    Returns:
        The calibration, or None and the reasons.
    """
    store, card = to.store, to.model
    for made in reversed(list_detectors(store, on_damage=warn)):
        if made.model_digest == card.digest and made.second_look:
            return load_fitted_detector(store, made).stability, []
    images, patients = _unseen_images(store, card, lineage)
    jobs = [
        OrdinaryJob(store, card, tuple(images[start : start + IMAGES_A_JOB]))
        for start in range(0, len(images), IMAGES_A_JOB)
    ]
    parts = list(run_jobs(to.client, ordinary_losses, jobs, title="calibrate second looks"))
    there = np.concatenate([np.zeros(0, bool), *(there for there, _ in parts)])
    if there.sum() < LEAST:
        return None, [
            f"no image gets a second look: of the fitted batches {there.sum()} images can be read "
            f"that the network was not trained on, and {LEAST} are needed"
        ]
    found = np.concatenate([losses for _, losses in parts if losses.size])
    return calibrate_stability(found, patients[there]), []


def _unseen_images(
    store: Store, card: ModelCard, lineage: Lineage
) -> tuple[list[Image], NDArray[np.intp]]:
    """Choose images that the network was not trained on, and number the patient of each."""
    batches = [load_batch(store, each.batch, each.attempt) for each in lineage.own]
    found = [_unseen_rows(store, card, *each) for each in zip(batches, lineage.own, strict=True)]
    number = np.repeat(np.arange(len(found)), [len(rows) for rows, _ in found])
    rows = np.concatenate([np.zeros(0, np.intp), *(rows for rows, _ in found)])
    names = [name for _, names in found for name in names]
    _, patients = np.unique(np.asarray(names, str), return_inverse=True)
    chosen = spread_over(patients, MOST)
    images: list[Image] = []
    for place, batch in enumerate(batches):
        images += images_of(store, card, batch, rows[chosen[number[chosen] == place]])
    return images, patients[chosen]


def _unseen_rows(
    store: Store, card: ModelCard, batch: Batch, contribution: Contribution
) -> tuple[NDArray[np.intp], list[str]]:
    """List labelled rows of a batch that are of no training patient, with their patients.

    The model's test part stays unseen, because evaluations use it.
    """
    manifest = read_manifest(store, batch, columns=["patient_id", "slide_id"])
    block = read_block(store, card.name, batch.key, 0, batch.rows, taps=False)
    patients, slides = manifest["patient_id"].to_pylist(), manifest["slide_id"].to_pylist()
    keys = {"patient": patients, "slide": slides, "image": image_ids(block)}[card.split_by]
    chosen = is_labelled(block)
    chosen &= ~np.isin(keys, [*card.split["train"], *card.split["test"]])
    chosen &= ~np.isin(patients, contribution.without_patients)
    chosen &= ~np.isin(slides, contribution.without_slides)
    rows = np.flatnonzero(chosen)
    return rows, [str(patients[row] or slides[row] or row) for row in rows.tolist()]
