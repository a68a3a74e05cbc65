"""Evaluate a detector in steps: freeze and choose images, extract, fit, score, compare."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.prefect.decorators import task
from flows.smears.jobs.evaluation.images import (
    Run,
    Shard,
    load_detector,
    read_treated,
    shards,
    treat,
)
from flows.smears.jobs.evaluation.scores import FitJob, ScoreJob, fit_compared, score_shard
from flows.smears.stages import compositions
from flows.smears.stages.evaluated_images import (
    FITTED,
    choose_images,
    freeze_images,
    list_name,
)
from storage.models import classifiers
from storage.smears.evaluations import Evaluation
from tasks.detector import calibration, verdict
from tasks.metrics import metrics
from tasks.smears.evaluation.comparison import compare
from tasks.smears.evaluation.measures import (
    ATTACKED,
    SAMPLED,
    TEST,
    ScoredSets,
    comparisons,
    is_masked,
    measures,
)
from tasks.smears.evaluation.scored import ScoredImages, join_scored
from tasks.smears.evaluation.treated import CLEAN, FILE, Treatment
from tasks.smears.evaluation.treatments.attacks import ATTACKS
from tasks.smears.evaluation.treatments.corruptions import CORRUPTIONS

Key = tuple[str, Treatment]

ROWS, ATTACKED_ROWS = 512, 64  # images per shard


@dataclass(frozen=True)
class SeedResult:
    """The results of the evaluation of one detector, and how many images were left out."""

    results: list[metrics.Result]
    unseen: int
    left_out: int
    left_out_of_nights: int


def evaluate_seed(
    client: Client, run: Run, asked: Evaluation, learned: frozenset[bytes]
) -> SeedResult:
    """Evaluate the detector of one seed: freeze images, extract, fit, score and compare.

    Images with digests in ``learned`` are left out of composed slides and nights.
    """
    card, model = run.detector, run.model
    freeze_images(run, asked)
    others = {name: list_name(name) for name in asked.ood}
    healthy = {name: images for name, images in others.items() if compositions.is_healthy(name)}
    sets = (TEST, *others.values())
    clean = {name: _clean(run, name) for name in (FITTED, *sets)}
    extract(client, [shard for each in clean.values() for shard in each], f"{card.name}: features")
    seen = _seen(clean[FITTED], model)
    choose_images(run, clean, healthy.values(), seen, learned, asked.attacked)
    wanted = {(name, CLEAN): clean[name] for name in sets}
    wanted |= {(name, CLEAN): _clean(run, name) for name in (SAMPLED, ATTACKED)}
    wanted |= _treated(run, asked.attacks, healthy.values())
    title = f"{card.name}: corruptions and attacks"
    extract(client, [shard for each in wanted.values() for shard in each], title)
    fit(client, FitJob(run, tuple(clean[FITTED]), run.images(FITTED).num_rows))
    scored = score(client, wanted)
    before = sum(map(len, scored.values()))
    scored |= {(name, CLEAN): scored[name, CLEAN].without(seen) for name in sets}
    cells = compositions.CellSets(
        ScoredSets(
            rule=verdict.VerdictRule(card.alpha, card.uncertain_below),
            threshold=calibration.threshold(load_detector(run).calibration, card.alpha),
            groups={name: run.groups(name) for name in {name for name, _ in wanted}},
            scored=scored,
            others=_labelled(scored, {k: v for k, v in others.items() if k not in healthy}),
        ),
        wanted,
        healthy,
        learned,
    )
    return SeedResult(
        [
            *compositions.composed_results(client, run, cells),
            *measures(cells.scored),
            *compare_all(client, cells.scored),
        ],
        unseen=len(scored[TEST, CLEAN]),
        left_out=before - sum(map(len, scored.values())),
        left_out_of_nights=sum(
            row.tobytes() in learned for name in sets for row in scored[name, CLEAN].image_ids
        ),
    )


def _labelled(scored: dict[Key, ScoredImages], others: dict[str, str]) -> dict[str, str]:
    """Mark the names of sets whose borders are as dark as those of ordinary cells."""
    ordinary = scored[TEST, CLEAN].forms[FILE]
    return {
        f"{name}, masked"
        if is_masked(ordinary, scored[images, CLEAN].forms[FILE])
        else name: images
        for name, images in others.items()
    }


def _treated(run: Run, attacks: list[str], healthy: Collection[str]) -> dict[Key, list[Shard]]:
    """List the shards of sampled images under every corruption, and of attacked ones by attack.

    Healthy cells of foreign slides are corrupted for compositions. A set that has no image left is
    not listed.
    """
    corruptions = [
        Treatment("corruption", name, float(level))
        for name, corruption in CORRUPTIONS.items()
        for level in range(1, len(corruption.levels) + 1)
    ]
    composed = [each for each in corruptions if each.strength in compositions.COMPOSED_LEVELS]
    attacked = [
        Treatment("attack", name, strength)
        for name in attacks
        for strength in ATTACKS[name].strengths
    ]
    by_set = {SAMPLED: corruptions, **dict.fromkeys(map(compositions.some_of, healthy), composed)}
    by_set[ATTACKED] = attacked
    listed: dict[Key, list[Shard]] = {}
    for images, treatments in by_set.items():
        rows, size = run.images(images).num_rows, ATTACKED_ROWS if images == ATTACKED else ROWS
        for each in treatments if rows else ():
            listed[images, each] = shards(run, images, each, rows, size)
    return listed


def _clean(run: Run, images: str) -> list[Shard]:
    return shards(run, images, CLEAN, run.images(images).num_rows, ROWS)


def _seen(fitted: Sequence[Shard], model: classifiers.ModelCard) -> set[bytes]:
    """Collect the digests of the images that the statistics or the network have seen."""
    seen = {row.tobytes() for shard in fitted for row in read_treated(shard).image_ids}
    if model.split_by == "image":
        keys = (*model.split["train"], *model.split["validation"])
        seen |= {bytes.fromhex(key) for key in keys}
    return seen


@task
def extract(client: Client, wanted: list[Shard], title: str) -> None:
    """Compute the features of the shards that do not exist yet."""
    for _ in run_jobs(client, treat, wanted, title=title):
        pass


@task
def fit(client: Client, job: FitJob) -> None:
    """Fit the detectors that slidewatch is compared with."""
    for _ in run_jobs(client, fit_compared, [job], title="fit the compared detectors"):
        pass


@task
def score(client: Client, wanted: dict[Key, list[Shard]]) -> dict[Key, ScoredImages]:
    """Score every shard of every set under every treatment."""
    jobs = [
        ScoreJob(shard, tuple(wanted.get((images, CLEAN), wanted[TEST, CLEAN])))
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
