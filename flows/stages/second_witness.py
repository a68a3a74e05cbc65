"""Fit the second witness of the diagnosis, and calibrate both on cells that neither has seen."""

from flows.cluster.executor import run_jobs
from flows.jobs.fitting import unseen
from flows.jobs.fitting.fitted_rows import slides_of_version
from flows.jobs.fitting.unseen import Evidence, WitnessJob, unseen_evidence
from flows.stages.class_statistics import Fitting
from storage.models import classifiers, detectors, statistics
from storage.models.contributions import contributed, grouped, held_out_rows
from storage.store import Store
from tasks.detector.error_counts import ErrorCounts, count_errors
from tasks.detector.witnesses import (
    LEAST_CELLS,
    LEAST_OF_A_KIND,
    Witnesses,
    calibrated,
    discriminant,
)
from tasks.network.split import SplitBy
from tasks.reports.image_columns import PARASITIZED

ALONE = "the network alone diagnoses"
NOBODY = None, None, None


# Two witnesses, the errors of their diagnosis on unseen cells, and their card.
FittedWitnesses = tuple[Witnesses, ErrorCounts, detectors.WitnessCard]


def fitted_witnesses(
    to: Fitting, lineage: statistics.Lineage, by: SplitBy
) -> tuple[FittedWitnesses | tuple[None, None, None], list[str]]:
    """Make a witness of a version's discriminant, leaving groups out, or say why it cannot be."""
    store, card = to.store, to.model
    if len(card.classes) != 2 or PARASITIZED not in card.classes:
        return NOBODY, []
    if by == "image":
        return NOBODY, [f"{ALONE}: the fitted images name neither patient nor slide"]
    place = card.classes.index(PARASITIZED)
    try:
        known = discriminant(slides_of_version(store, card.name, lineage.version), place)
        jobs = _jobs(store, card, lineage, by)
        evidence = Evidence.joined(
            list(run_jobs(to.client, unseen_evidence, jobs, title="score unseen cells"))
        )
    except ValueError as error:
        return NOBODY, [f"{ALONE}: {error}"]
    scales = calibrated(evidence.network, evidence.scores, evidence.parasitized)
    if scales is None:
        return NOBODY, [
            f"{ALONE}: of {LEAST_CELLS} labelled cells that training has not seen, "
            f"{LEAST_OF_A_KIND} of each kind, only {len(evidence.keys)} are there"
        ]
    by_witness = scales.combine(evidence.network, evidence.scores)
    both = by_witness.both
    wrong, disagree = (both > 0) != evidence.parasitized, by_witness.disagree
    described = detectors.WitnessCard(
        taps=list(known.weights),
        slides=len(set(evidence.keys)),
        cells=len(evidence.keys),
        disagreeing=float(disagree.mean()),
        errors_disagreeing=float(disagree[wrong].mean()) if wrong.any() else None,
    )
    errors = count_errors(both, evidence.parasitized, evidence.keys, evidence.sizes)
    return (Witnesses(place, known, scales), errors, described), []


def _jobs(
    store: Store, card: classifiers.ModelCard, lineage: statistics.Lineage, by: SplitBy
) -> list[WitnessJob]:
    """List the patients or slides with cells that the network, or a fold's, has not seen."""
    fitted = grouped([contributed(store, card, each) for each in lineage.contributions], by)
    held_out = grouped([held_out_rows(store, card, each) for each in lineage.contributions], by)
    seen: set[object] = set()
    if card.split_by == by and unseen.out_of_fold(store, card) is None:
        seen.update(card.split["train"])
    return [
        WitnessJob(
            store, card, lineage.version,
            tuple(fitted.get(key, ())), tuple(held_out.get(key, ())),
        )
        for key in {**fitted, **held_out}
        if key not in seen
    ]  # fmt: skip
