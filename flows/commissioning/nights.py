"""Learn the nights of a laboratory, in which an image counts once."""

from distributed import Client

from flows.cluster.executor import run_jobs
from flows.commissioning.versions import Laboratory, LaboratoryError, population, slides_in_parts
from flows.jobs.laboratory_slides import Added, SlidesJob, slides_statistics
from flows.jobs.scoring.night import learned_night
from flows.jobs.scoring.screened import Screened
from flows.monitoring.console import warn
from storage.arrays import arrays_to_bytes
from storage.batches.manifests import Batch
from storage.models.classifiers import ModelCard
from storage.models.laboratories import (
    LaboratoryCard,
    LaboratoryNight,
    images_of_batch,
    images_of_night,
    save_night,
)
from storage.store import Store
from tasks.detector.slides.groups import merge_groups
from tasks.detector.slides.normal import Choices
from tasks.laboratories.learning import LEAST_CELLS, NightNormal, merged


def learn_slides(client: Client, screened: Screened) -> Added:
    """Compute the contribution of a batch with complete features to a laboratory.

    The contribution has the night's reference if slides have too few cells, and no error counts.
    """
    total, night = merged([], population(screened.store, screened.detector)), None
    groups = slides_in_parts(screened.store, screened.batch)
    if any(slide.stop - slide.start < Choices.least for some in groups for slide in some):
        title = f"normal of {screened.batch.name}"
        (reference,) = run_jobs(client, learned_night, [screened], title=title)
        night = NightNormal(reference.normal, reference.rows)
    jobs = [SlidesJob(screened, slides, night) for slides in groups]
    for part in run_jobs(client, slides_statistics, jobs, title=f"learn {screened.batch.name}"):
        total = merge_groups(total, part)
    return Added(total, night)


def keep_night(
    lab: Laboratory, batch: Batch, added: Added, negative: tuple[str, ...]
) -> LaboratoryNight:
    """Keep a batch's contribution to a laboratory, with its ``negative`` slides.

    Raises:
        LaboratoryError: the contribution is empty.
    """
    statistics = added.statistics
    if not statistics.keys:
        raise LaboratoryError(
            f"batch {batch.name} adds nothing to laboratory {lab.name}: fewer than {LEAST_CELLS} "
            "of its cells can be judged"
        )
    return LaboratoryNight(
        batch=batch.name,
        attempt=batch.attempt,
        manifest_digest=batch.manifest_digest,
        slides=len(statistics.keys),
        cells=int(statistics.n.sum()),
        digest=save_night(lab.store, lab.name, arrays_to_bytes(added.to_arrays())),
        negative=negative,
    )


def without_replaced(
    store: Store, card: ModelCard, laboratory: LaboratoryCard | None, batch: Batch
) -> list[LaboratoryNight]:
    """Return the other nights of a laboratory, without those whose images the batch also has.

    So a night that is commissioned again under another name, with labels perhaps, replaces itself.

    Raises:
        LaboratoryError: the batch has some, but not all images of a night.
    """
    mine = images_of_batch(store, card.name, batch) if batch.rows else frozenset[bytes]()
    left = []
    for night in laboratory.nights if laboratory else []:
        if night.batch == batch.name:
            continue
        theirs = images_of_night(store, card.name, night)
        both = len(mine & theirs)
        if night.manifest_digest == batch.manifest_digest or both == len(theirs):
            warn(
                f"batch {batch.name} has the images of night {night.batch}, and takes its place in "
                "the laboratory: an image counts once"
            )
        elif both:
            assert laboratory is not None
            raise LaboratoryError(
                f"{both:,} of {len(mine):,} images of batch {batch.name} are in night "
                f"{night.batch} of {laboratory.label} already, and an image counts once: leave "
                f"them out of the batch, or give it all images of {night.batch}, whose place it "
                "takes then"
            )
        else:
            left.append(night)
    return left
