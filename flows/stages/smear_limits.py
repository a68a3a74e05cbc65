"""Learn the limits of a smear of blood from fitted slides, altered as laboratories differ."""

from collections.abc import Hashable, Mapping

import numpy as np

from flows.cluster.executor import run_jobs
from flows.jobs.fitting.altered import AlteredJob, Image, altered_features
from flows.stages import batch, class_statistics
from storage.batches.manifests import Batch, load_batch_of_key
from storage.models.contributions import Rows
from tasks.detector.slides import night_smears
from tasks.detector.slides.cell_score import Prior

# More slides show more directions than more cells: B has a row for each feature.
SLIDES, CELLS = 192, 16
WITHOUT = "any slide passes for a smear of blood, whatever its images are"


def fitted_floor(
    to: class_statistics.Fitting, priors: Mapping[str, Prior], groups: Mapping[Hashable, list[Rows]]
) -> tuple[night_smears.Floor | None, list[str]]:
    """Alter cells of every fitted patient, or slide without one; return the floor, or why there is
    none.

    ``priors`` are of all fitted slides; ``groups`` are the fitted rows of each patient or slide.
    """
    names = list(groups)
    batches: dict[str, Batch] = {}
    owners = [names[number % len(names)] for number in range(SLIDES)]
    jobs = [
        AlteredJob(
            to.store, to.model, _cells(to, groups[owner], number // len(names), batches), number
        )
        for number, owner in enumerate(owners)
    ]
    slides, whose = [], []
    for owner, altered in zip(
        owners, run_jobs(to.client, altered_features, jobs, title="alter slides"), strict=True
    ):
        if altered is not None:
            slides.append(night_smears.residuals(priors, *altered)[0])
            whose.append(owner)
    try:
        return night_smears.fit_floor(slides, whose), []
    except ValueError as error:
        return None, [f"{WITHOUT}: {error}"]


def _cells(
    to: class_statistics.Fitting, parts: list[Rows], draw: int, batches: dict[str, Batch]
) -> tuple[Image, ...]:
    """Choose cells of a patient, spread evenly, and different ones for every draw."""
    total = sum(map(len, parts))
    places = np.unique((np.arange(CELLS) * total + draw * total // CELLS) // CELLS % total)
    images: list[Image] = []
    start = 0
    for part in parts:
        rows = places[(places >= start) & (places < start + len(part))] - start
        start += len(part)
        if len(rows):
            if part.batch not in batches:
                batches[part.batch] = load_batch_of_key(to.store, part.batch)
            images += batch.images_of(to.store, to.model, batches[part.batch], part.rows[rows])
    return tuple(images)
