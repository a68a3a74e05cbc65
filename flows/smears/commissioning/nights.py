"""Learn the nights of a laboratory: what each adds, and which of its slides are negative."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.jobs.scoring import plan
from flows.jobs.scoring.screened import Screened
from flows.monitoring.console import warn
from flows.smears.commissioning.laboratory import Laboratory, LaboratoryError, slides_in_parts
from flows.smears.jobs.known_cells import KnownJob, is_negative, is_parasite, known_cells
from flows.smears.jobs.laboratory_slides import Added, SlidesJob, learned_night, slides_statistics
from flows.smears.stages.chosen_thresholds import interpreter_elsewhere, load_error_rates
from flows.stages.scoring import jobs_of
from storage.batches.manifests import Batch, read_manifest
from storage.models.detectors import DetectorCard, LearnedNight
from storage.records import arrays_to_bytes, now
from storage.reports.tables import PERSONS, find_report
from storage.smears import learned
from storage.store import Store
from tasks import bundles
from tasks.detector.error_counts import THRESHOLDS, ErrorCounts, merge_errors
from tasks.detector.slides.normal import LEAST
from tasks.detector.witnesses import Discriminant
from tasks.reports.image_columns import PARASITIZED
from tasks.smears.counting.call import Call
from tasks.smears.counting.interpretation import chance_of_blank
from tasks.smears.laboratories import adaptation, learning

NAMED = 5  # slides that an error message names
LEAST_CHANCE = 0.001  # of as many called cells on some healthy slide of a night
RARE = 0.05  # chance of a laboratory that calls as many of its healthy cells
# Of all healthy cells of a night, however wide a detector's error rates are: at each of five
# laboratories at most 2.1% were called.
MOST_HEALTHY = 0.05


def learn_night(lab: Laboratory, batch: Batch, negative: tuple[str, ...]) -> LearnedNight:
    """Learn a batch with complete features, and keep its contribution to the laboratory.

    ``negative`` are its slides and patients known to be negative. LaboratoryError if they do not
    look negative, or the contribution is empty.
    """
    screened = lab.screened(batch)
    added = _slides_of_night(lab, screened)
    errors, labelled = known_of_night(lab.client, screened, negative)
    refuse_positive(lab.store, batch, lab.detector, errors, negative)
    added = replace(added, errors=errors, labelled=labelled)
    statistics = added.statistics
    if not statistics.keys:
        raise LaboratoryError(
            f"batch {batch.name} adds nothing to laboratory {lab.name}: fewer than "
            f"{learning.LEAST_CELLS} of its cells can be judged"
        )
    return LearnedNight(
        batch=batch.name,
        attempt=batch.attempt,
        manifest_digest=batch.manifest_digest,
        slides=len(statistics.keys),
        cells=int(statistics.n.sum()),
        digest=learned.save_night(lab.store, lab.name, arrays_to_bytes(added.to_arrays())),
        negative=negative,
    )


def _slides_of_night(lab: Laboratory, screened: Screened) -> Added:
    """Compute the statistics of a batch's slides, and the night's reference if some are small."""
    night, groups = None, slides_in_parts(screened.store, screened.batch)
    if any(slide.stop - slide.start < LEAST for some in groups for slide in some):
        title = f"normal of {screened.batch.name}"
        (night,) = run_jobs(lab.client, learned_night, [screened], title=title)
    jobs = [SlidesJob(screened, slides, night) for slides in groups]
    parts = run_jobs(lab.client, slides_statistics, jobs, title=f"learn {screened.batch.name}")
    return Added(learning.merged(parts, lab.own), night)


def known_of_night(
    client: Client,
    screened: Screened,
    negative: tuple[str, ...],
    discriminant: Discriminant | None = None,
) -> tuple[ErrorCounts, adaptation.Labelled]:
    """Count the errors on the cells of a batch whose kind is known, by patient or slide.

    They are those of the detector or, where a ``discriminant`` is given, of it as second witness.
    Without one, what diagnoses the batch's labelled cells is read too, each image once.
    """
    errors, labelled, seen = ErrorCounts.empty(), list[adaptation.Labelled](), set[str]()
    if PARASITIZED not in screened.model.classes:
        return errors, adaptation.NO_LABELS
    names = ["slide_id", "patient_id", "label"]
    table = read_manifest(screened.store, screened.batch, columns=names)
    known = is_negative(table, negative) | table["label"].is_valid().to_numpy()
    parts = plan.parts_of(screened)
    wanted = [part for part in parts if known[part.rows.start : part.rows.stop].any()]
    scored = jobs_of(client, screened, parts, wanted, now(), discriminant)
    jobs, title = [KnownJob(job, negative) for job in scored], f"errors of {screened.batch.name}"
    for part in run_jobs(client, known_cells, jobs, title=title):
        errors, new = merge_errors(errors, part.errors), []
        for row, image_id in enumerate(part.image_ids):
            if image_id not in seen:
                seen.add(image_id)
                new.append(row)
        if new:
            labelled.append(bundles.take(part.labelled, np.asarray(new)))
    return errors, adaptation.joined(labelled)


def negative_of(store: Store, batch: Batch, given: Sequence[str]) -> tuple[str, ...]:
    """Check the slides and patients of a batch that are declared negative.

    LaboratoryError if the batch has no such slide or patient, or labels parasites on one.
    """
    if learned.NONE in given:
        return ()
    table = read_manifest(store, batch, columns=["slide_id", "patient_id", "label"])
    there = {*table["slide_id"].to_pylist(), *table["patient_id"].to_pylist(), learned.ALL} - {None}
    unknown = [name for name in given if name not in there]
    if unknown:
        have = sorted(there - {learned.ALL})
        listed = ", ".join([*have[:NAMED], *(["..."] if len(have) > NAMED else [])])
        raise LaboratoryError(
            f"batch {batch.name} has no slide or patient {unknown[0]}, which is said to be "
            f"negative; there are: {listed or 'none with a name'}, or {learned.ALL} of them"
        )
    negative = tuple(sorted(set(given)))
    for row in find_report(store, batch, PERSONS).to_pylist():
        name = row["patient_id"] or row["slide_id"]
        if row["person_call"] == Call.POSITIVE and {name, row["slide_id"], learned.ALL} & {*given}:
            raise LaboratoryError(f"persons found parasites in {name}: leave it out of --negative")
    parasites = is_negative(table, negative) & is_parasite(table)
    if parasites.any():
        slides = table.filter(pa.array(parasites))
        name = next(slides[c][0] for c in ("slide_id", "patient_id") if slides[c][0].is_valid)
        raise LaboratoryError(
            f"{parasites.sum():,} cells of batch {batch.name} are labelled {PARASITIZED} on slides "
            f"said to be negative, the first of {name}: leave such slides out of --negative"
        )
    return negative


def refuse_positive(
    store: Store, batch: Batch, detector: DetectorCard, errors: ErrorCounts, given: Sequence[str]
) -> None:
    """Raise LaboratoryError if some slides that are declared negative look positive.

    A laboratory's healthy cells may be counted more often than those of fitted ones. So slides
    ``given`` one by one are refused only where as many count on healthy slides of hardly any
    laboratory. Nobody has looked at each slide if ``all`` are given: each has to be as usual, too.
    """
    is_all = learned.ALL in given
    far = interpreter_elsewhere(store, detector, 0.0).rates if given else None
    known = load_error_rates(store, detector) if is_all else far
    if known is None or far is None:
        return
    called, called_far = (
        errors.false[:, int(np.argmin(np.abs(THRESHOLDS - each.counting.log_odds)))].tolist()
        for each in (known, far)
    )
    slides = np.count_nonzero(errors.negatives)
    many = sum(called) >= MOST_HEALTHY * max(sum(errors.negatives), 1)
    strange = [
        (n / cells, name)
        for name, n, n_far, cells in zip(
            errors.slides, called, called_far, errors.negatives.tolist(), strict=True
        )
        if cells
        and (is_all or json.loads(name)[-1] in given)  # others have cells that are labelled healthy
        and (
            chance_of_blank(n_far, cells, far.counting) < RARE
            or (is_all and chance_of_blank(n, cells, known.counting) < LEAST_CHANCE / slides)
            or (is_all and many and n >= MOST_HEALTHY * cells)
        )
    ]
    if strange:
        worst = sorted(strange, reverse=True)
        names = ", ".join(f"{json.loads(name)[-1]} {share:.1%}" for share, name in worst[:NAMED])
        usual = f"{known.counting.false.median:.2%}"
        which, advice = "slides", "leave those with parasites out of --negative"
        if is_all:
            which, advice = "all slides", "name those that are negative: --negative NAME"
        raise LaboratoryError(
            f"{which} of batch {batch.name} are said to be negative, but {len(strange):,} of "
            f"{slides:,} patients or slides have more cells that count as parasites than healthy "
            f"slides have, where {usual} is usual: {names}{', ...' * (len(worst) > NAMED)}. Look "
            f"at them, and {advice}"
        )


def without_replaced(lab: Laboratory, batch: Batch, *, named: bool) -> list[LearnedNight]:
    """Return the other nights of a laboratory, without those whose images the batch also has.

    So a night that is commissioned again under another name, with labels perhaps, replaces itself.
    LaboratoryError if it has only some images of a night, or labels or negatives are not ``named``.
    """
    store, model = lab.store, lab.model
    images = learned.images_of_batch(store, model, batch) if batch.rows else frozenset[bytes]()
    left = []
    for night in lab.known.nights if lab.known else []:
        if night.batch == batch.name:
            continue
        theirs = learned.images_of_batch(store, model, lab.batch(night))
        both = len(images & theirs)
        if night.manifest_digest == batch.manifest_digest or both == len(theirs):
            known = Added.from_arrays(learned.load_night(store, lab.name, night)).labelled.slides
            if known and not read_manifest(store, batch, columns=["label"])["label"].drop_null():
                raise LaboratoryError(
                    f"night {night.batch} has labels of {len(known):,} cells, which batch "
                    f"{batch.name}, of the same images, would forget: give the images of that "
                    f"night, --images {lab.batch(night).images}"
                )
            if night.negative and not named:
                names = " ".join(f"--negative {each}" for each in night.negative[:NAMED])
                raise LaboratoryError(f"name the negative slides of {night.batch} again: {names}")
            warn(
                f"batch {batch.name} has the images of night {night.batch}, and takes its place in "
                "the laboratory: an image counts once"
            )
        elif both:
            assert lab.known is not None
            raise LaboratoryError(
                f"{both:,} of {len(images):,} images of batch {batch.name} are in night "
                f"{night.batch} of {lab.known.name} already, and an image counts once: leave "
                f"them out of the batch, or give it all images of {night.batch}, whose place it "
                "takes then"
            )
        else:
            left.append(night)
    return left
