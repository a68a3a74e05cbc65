"""Evaluate a detector in steps: freeze and choose images, extract, score, compare."""

from collections.abc import Collection, Iterator

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.prefect.decorators import task
from flows.smears.jobs.evaluation.images import Run, SetShard, load_detector, shards, treat
from flows.smears.jobs.evaluation.scores import ScoringJob, score_shard
from flows.smears.stages import compositions
from flows.smears.stages.evaluated_images import FITTED, choose_images, freeze_images, list_name
from storage.smears.evaluations import Evaluation
from tasks.detector import calibration
from tasks.metrics import metrics
from tasks.smears.evaluation.measures import (
    ATTACKED,
    SAMPLED,
    TEST,
    ScoredSets,
    compare,
    comparisons,
    measures,
)
from tasks.smears.evaluation.scored import CLEAN, ScoredImages, Treatment, join_scored
from tasks.smears.evaluation.treatments import CORRUPTIONS, STRENGTHS

Key = compositions.Key


def evaluate_detector(
    client: Client, run: Run, asked: Evaluation
) -> tuple[list[metrics.Result], int, int]:
    """Evaluate a detector: freeze images, extract, score and compare.

    Return the results, and the number of images of unseen patients, and of those left out.
    """
    card = run.detector
    seen = freeze_images(run, asked)
    others = {name: list_name(name) for name in asked.ood}
    healthy = {name: images for name, images in others.items() if compositions.is_healthy(name)}
    sets = (TEST, *others.values())
    clean = {name: shards(run, name, CLEAN) for name in (FITTED, *sets)}
    extract(client, [shard for each in clean.values() for shard in each], f"{card.name}: features")
    choose_images(run, clean, healthy.values(), seen, asked.attacked)
    wanted = {(name, CLEAN): clean[name] for name in sets}
    wanted |= {(name, CLEAN): shards(run, name, CLEAN) for name in (SAMPLED, ATTACKED)}
    wanted |= _treated(run, asked.attacks, healthy.values())
    title = f"{card.name}: corruptions and attacks"
    extract(client, [shard for each in wanted.values() for shard in each], title)
    scored = score(client, wanted, tuple(clean[FITTED]))
    before = sum(map(len, scored.values()))
    scored |= {(name, CLEAN): scored[name, CLEAN].without(seen) for name in sets}
    cells = compositions.CellSets(
        ScoredSets(
            calibration.threshold(load_detector(run).calibration, card.alpha),
            scored,
            {name: images for name, images in others.items() if name not in healthy},
        ),
        wanted,
        healthy,
    )
    results = [
        *compositions.composed_results(client, run, cells),
        *measures(cells.scored),
        *compare_all(client, cells.scored),
    ]
    return results, len(scored[TEST, CLEAN]), before - sum(map(len, scored.values()))


def _treated(run: Run, attacks: list[str], healthy: Collection[str]) -> dict[Key, list[SetShard]]:
    """List the shards of images to corrupt, healthy ones for compositions, and of attacked ones."""
    corruptions = [
        Treatment("corruption", name, float(level))
        for name, (levels, _) in CORRUPTIONS.items()
        for level in range(1, len(levels) + 1)
    ]
    composed = [each for each in corruptions if each.strength in compositions.COMPOSED_LEVELS]
    by_set = {SAMPLED: corruptions, **dict.fromkeys(map(compositions.some_of, healthy), composed)}
    by_set[ATTACKED] = [
        Treatment("attack", name, strength) for name in attacks for strength in STRENGTHS[name]
    ]
    keys = [(images, each) for images, treatments in by_set.items() for each in treatments]
    return {key: made for key in keys if (made := shards(run, *key))}


@task
def extract(client: Client, wanted: list[SetShard], title: str) -> None:
    """Compute the features of the shards that do not exist yet."""
    for _ in run_jobs(client, treat, wanted, title=title):
        pass


@task
def score(
    client: Client, wanted: dict[Key, list[SetShard]], fitted: tuple[SetShard, ...]
) -> dict[Key, ScoredImages]:
    """Score every shard of every set under every treatment."""
    jobs = [
        ScoringJob(shard, tuple(wanted.get((images, CLEAN), wanted[TEST, CLEAN])), fitted)
        for (images, _), among in wanted.items()
        for shard in among
    ]
    results = run_jobs(client, score_shard, jobs, title="score")
    return {key: join_scored([next(results) for _ in among]) for key, among in wanted.items()}


@task
def compare_all(client: Client, sets: ScoredSets) -> Iterator[metrics.Result]:
    """Compare the detectors on every set."""
    jobs = list(comparisons(sets))
    return (result for each in run_jobs(client, compare, jobs, title="compare") for result in each)
