"""Measure a detector over the full spectrum: known and foreign slides with planted cells."""

from collections.abc import Iterator, Mapping, Set

import numpy as np
from distributed import Client

from flows.cluster.executor import run_jobs
from flows.jobs.evaluation.planted_slides import (
    AlarmJob,
    Chosen,
    CompanyJob,
    Job,
    PlantJob,
    WholeJob,
    measure,
)
from flows.jobs.evaluation.treated import PartJob, Run, load_detector
from flows.monitoring.console import tell, warn
from flows.monitoring.prefect_runs import task
from tasks.evaluation.metrics import Metric, Subject
from tasks.evaluation.parts import CLEAN, FILE, Treatment
from tasks.evaluation.results.findings import ATTACKED, SAMPLED, TEST, Findings
from tasks.evaluation.scored import ScoredPart
from tasks.evaluation.seeds import BY_SLIDE, PLANTED, WHOLE, WHOLE_NIGHTS

Key = tuple[str, Treatment]

HEALTHY = "healthy/"  # prefix of the names of sets whose cells are ordinary for their slides
PLANTED_LEVELS = (3.0, 5.0)  # of corruptions
HOME = "unseen patients"


def is_healthy(name: str) -> bool:
    """Return whether a set has healthy cells on slides of another laboratory."""
    return name.startswith(HEALTHY)


def some_of(images: str) -> str:
    """Return the name of the list of a set's images to corrupt."""
    return f"{images}--some"


@task
def planted_metrics(
    client: Client,
    run: Run,
    findings: Findings,
    scored: Mapping[Key, ScoredPart],
    parts: Mapping[Key, list[PartJob]],
    healthy: Mapping[str, str],
    shares: list[float],
    left_out: Set[bytes],
) -> list[Metric]:
    """Measure false alarms and catches by slide, and slides of one kind.

    Images with digests in ``left_out`` are not used.
    """
    if load_detector(run).own is None:
        tell(f"detector {run.detector.name} has no normal of its slides: none is planted")
        return []
    jobs = list(_jobs(findings, scored, parts, healthy, shares, left_out))
    return [
        metric
        for metrics in run_jobs(client, measure, jobs, title="planted slides")
        for metric in metrics
    ]


def _jobs(
    findings: Findings,
    scored: Mapping[Key, ScoredPart],
    parts: Mapping[Key, list[PartJob]],
    healthy: Mapping[str, str],
    shares: list[float],
    left_out: Set[bytes],
) -> Iterator[Job]:
    hosts = {HOME: TEST} | {name.removeprefix(HEALTHY): images for name, images in healthy.items()}

    def chosen(key: Key) -> Chosen:
        part = scored[key]
        counts = np.asarray([row.tobytes() not in left_out for row in part.image_ids], bool)
        if key[1].kind == "attack":
            counts[np.setdiff1d(np.arange(len(counts)), findings.counted(key[1], FILE))] = False
        return Chosen(tuple(parts[key]), tuple(part.forms[FILE].rows[counts].tolist()))

    def subject(group: str, name: str, strength: float | None = None, against: str = "") -> Subject:
        return Subject(findings.model, findings.seed, group, name, strength, against or None)

    others = {name: chosen((images, CLEAN)) for name, images in findings.other_sets.items()}
    others = {name: things for name, things in others.items() if things.rows}
    for host, images in hosts.items():
        ordinary = chosen((images, CLEAN))
        if not ordinary.rows:
            warn(f"{host}: no image is left to judge, so nothing is said of its slides")
            continue
        yield AlarmJob(subject(BY_SLIDE, host), ordinary, findings.classes[0])
        for share in shares:
            against = f"{share:.0%} of {host}"
            for name, things in others.items():
                yield PlantJob(
                    subject(PLANTED, name, None, against), ordinary, things, share, False
                )
            for key in parts:
                treated, treatment = key
                mine = (SAMPLED, ATTACKED) if images == TEST else (some_of(images),)
                if treated not in mine or not _is_planted(treatment):
                    continue
                things = chosen(key)
                if things.rows:  # not every attack succeeds
                    about = subject(PLANTED, *_label(treatment), against)
                    yield PlantJob(about, ordinary, things, share, True)
    for name, things in others.items():
        yield WholeJob(subject(WHOLE, name), things)
    cells = {host: chosen((images, CLEAN)) for host, images in hosts.items()}
    strange: dict[tuple[str, float | None], Chosen] = {
        (name, None): things for name, things in (others | cells).items()
    }
    for key in parts:
        if key[0] == ATTACKED and key[1].kind == "attack":
            strange[_label(key[1])] = chosen(key)
    for (name, strength), things in strange.items():
        if things.rows:
            yield CompanyJob(subject(WHOLE_NIGHTS, name, strength), None, things)
            for host, ordinary in cells.items():
                if ordinary.rows and host != name:
                    about = subject(WHOLE_NIGHTS, name, strength, host)
                    yield CompanyJob(about, ordinary, things)


def _is_planted(treatment: Treatment) -> bool:
    return treatment.kind == "attack" or (
        treatment.kind == "corruption" and treatment.strength in PLANTED_LEVELS
    )


def _label(treatment: Treatment) -> tuple[str, float | None]:
    """Return a treatment's name, and its strength if that is a distance of pixels."""
    if treatment.kind == "corruption":
        return f"{treatment.name}, level {treatment.strength:.0f}", None
    return treatment.name, treatment.strength
