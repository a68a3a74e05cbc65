"""Compose slides and nights of an evaluation's cells: the full spectrum of what a night may be."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.monitoring.console import tell, warn
from flows.prefect.decorators import task
from flows.smears.jobs.evaluation.images import Run, SetShard, load_detector
from flows.smears.jobs.evaluation.scores import Chosen, CompositionJob, compose_and_measure
from tasks.metrics.metrics import Result, Subject
from tasks.smears.evaluation import compositions, measures, scored

Key = tuple[str, scored.Treatment]

HEALTHY = "healthy/"  # prefix of the names of sets whose cells are ordinary for their slides
COMPOSED_LEVELS = (3.0, 5.0)  # of corruptions


def is_healthy(name: str) -> bool:
    """Return whether a set has healthy cells on slides of another laboratory."""
    return name.startswith(HEALTHY)


def some_of(images: str) -> str:
    """Return the name of the list of a set's images to corrupt."""
    return f"{images}--some"


@dataclass(frozen=True)
class CellSets:
    """The scored sets of a detector, the shards of each, and the lists of healthy cells by name."""

    scored: measures.ScoredSets
    shards: Mapping[Key, list[SetShard]]
    healthy: Mapping[str, str]

    def chosen(self, key: Key) -> Chosen | None:
        """Choose the images of a set that count; None without any."""
        treatment, known = key[1], self.scored.scored[key]
        counts = np.arange(len(known))
        if treatment.kind == "attack":
            counts = self.scored.counted(treatment)
        rows = known.forms[scored.FILE].rows[counts].tolist() if len(counts) else []
        return Chosen(tuple(self.shards[key]), tuple(rows)) if rows else None

    def ordinary(self) -> dict[str, Key]:
        """List the sets of ordinary cells."""
        return {
            measures.HOME: (measures.TEST, scored.CLEAN),
            **{name: (images, scored.CLEAN) for name, images in self.healthy.items()},
        }

    def strange(self, host: str) -> Iterator[tuple[Subject, Key]]:
        """Yield what may stand among a host's cells: other sets, and its own cells changed."""
        for name, key in self.ordinary().items():
            if name != host:
                yield Subject(name), key
        for name, images in self.scored.others.items():
            yield Subject(name), (images, scored.CLEAN)
        sample = measures.SAMPLED if host == measures.HOME else some_of(self.healthy[host])
        for key in self.shards:
            images, treatment = key
            corrupted = images == sample and treatment.strength in COMPOSED_LEVELS
            if treatment.kind == "attack" or (treatment.kind == "corruption" and corrupted):
                yield Subject(treatment.set, treatment.strength), key


@task
def composed_results(client: Client, run: Run, sets: CellSets) -> list[Result]:
    """Measure a night's results for slides and nights of every share of strange cells."""
    if load_detector(run).own is None:
        tell(f"detector {run.detector.name} has no normal of its slides: none is composed")
        return []
    jobs = list(_jobs(run, sets))
    parts = run_jobs(client, compose_and_measure, jobs, title="composed slides and nights")
    return [result for results in parts for result in results]


def _jobs(run: Run, sets: CellSets) -> Iterator[CompositionJob]:
    """Yield each host's cells alone, and each strange set alone and in every share of a host."""

    def named_and_not(
        subject: Subject, suffix: str, ordinary: Chosen | None, strange: Chosen | None
    ) -> Iterator[CompositionJob]:
        for words, named in (("slides", True), ("night", False)):
            composed = subject._replace(composition=words + suffix)
            yield CompositionJob(run, composed, ordinary, strange, named)

    alone = set(map(Subject, sets.ordinary()))  # as hosts, whose share of strange cells is 0
    for host, key in sets.ordinary().items():
        ordinary = sets.chosen(key)
        if ordinary is None:
            warn(f"{host}: no image is left to judge, so nothing is said of its slides")
            continue
        yield from named_and_not(Subject(host, share=0.0), "", ordinary, None)
        for subject, strange_key in sets.strange(host):
            strange = sets.chosen(strange_key)
            if strange is None:  # not every attack succeeds
                continue
            for share in compositions.SHARES:
                mixture = subject._replace(share=share)
                if share < 1:
                    yield from named_and_not(mixture, f" of {host}", ordinary, strange)
                elif subject not in alone:
                    alone.add(subject)
                    yield from named_and_not(mixture, "", None, strange)
