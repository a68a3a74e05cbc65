"""Evaluate a detector in steps: freeze and choose images, extract, fit, score, compare."""

from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.cluster.client import Client
from flows.cluster.executor import run_jobs
from flows.monitoring.console import warn
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
from storage.batches.manifests import load_batch, read_manifest
from storage.models import classifiers, contributions
from storage.models.statistics import load_statistics
from storage.parquet import write_table
from storage.smears.evaluations import Evaluation, images_path
from tasks.detector import calibration, verdict
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images, named
from tasks.metrics import metrics
from tasks.network.split import split_by
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
from tasks.types import Counts

Key = tuple[str, Treatment]

FITTED = "fitted"
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
    others = {name: _list_name(name) for name in asked.ood}
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


def _list_name(given: str) -> str:
    return given.replace("/", "--")


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
def freeze_images(run: Run, evaluation: Evaluation) -> None:
    """Write the lists of fitted images, of images of unseen patients, and of other sets, once."""
    model = run.model

    def freeze(name: str, table: pa.Table, by: str = "image") -> None:
        keys = table["uri" if by == "image" else f"{by}_id"]
        _write_once(run, name, table.append_column("group", keys))

    lineage = load_statistics(run.store, run.detector.model, run.detector.statistics_version)
    fitted = []
    for contribution in lineage.contributions:
        given = contributions.contributed(run.store, model, contribution)
        batch = load_batch(run.store, contribution.batch, contribution.attempt)
        fitted.append(read_manifest(run.store, batch).take(given.rows))
    table = pa.concat_tables(fitted)
    freeze(FITTED, table, _by(table))
    test = list_images(
        evaluation.images, classes=model.classes, limit=evaluation.limit, on_skip=warn
    )
    seen = [*model.split["train"], *model.split["validation"]]
    unseen = pc.is_in(test["label"], pa.array(model.classes))
    if model.split_by != "image":  # seen images are recognised later, by their digests
        keys = test[f"{model.split_by}_id"]
        unseen = pc.and_(unseen, pc.invert(pc.is_in(keys, pa.array(seen, pa.string()))))
    test = test.filter(unseen)
    if not test.num_rows:
        raise SourceError(
            f"{named(evaluation.images)} has no labelled image of a {model.split_by} that model "
            f"{model.name} has not seen: give images of others"
        )
    freeze(TEST, test, _by(test))
    for name, url in evaluation.ood.items():
        listing = list_images(url, classes=model.classes, on_skip=warn)
        if not listing.num_rows:
            raise SourceError(f"{url} holds no images")
        freeze(
            _list_name(name),
            *(_with_slides(name, listing) if compositions.is_healthy(name) else (listing,)),
        )


def _with_slides(name: str, table: pa.Table) -> tuple[pa.Table, str]:
    """Name the slides of healthy cells, a single one if unknown; return the kind of name."""
    by = _by(table)
    if by == "image":
        place = table.schema.get_field_index("slide_id")
        one = pa.repeat(pa.scalar(name, table.schema.field(place).type), table.num_rows)
        return table.set_column(place, "slide_id", one), "slide"
    return table, by


def _by(table: pa.Table) -> str:
    return split_by(table["patient_id"].to_pylist(), table["slide_id"].to_pylist())


def choose_images(
    run: Run,
    clean: dict[str, list[Shard]],
    healthy: Collection[str],
    seen: set[bytes],
    learned: Set[bytes],
    count: int,
) -> None:
    """Write, once, the lists of images to corrupt and of right diagnoses to attack."""
    good, right = _good(clean[TEST], seen)
    if not len(right):
        raise SourceError("not one image of an unseen patient is diagnosed rightly")
    chosen = {SAMPLED: (TEST, good), ATTACKED: (TEST, right)}
    for images in healthy:
        chosen[compositions.some_of(images)] = images, _good(clean[images], seen | learned)[0]
    for name, (images, rows) in chosen.items():
        spread = np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)
        _write_once(run, name, run.images(images).take(rows[spread]))


def _good(among: Sequence[Shard], but: Set[bytes]) -> tuple[Counts, Counts]:
    """Return the rows whose digest is not in ``but``, and the correctly diagnosed ones of these."""
    good: list[int] = []
    right: list[int] = []
    for images in map(read_treated, among):
        if not len(images.rows):
            continue
        others = np.asarray([row.tobytes() not in but for row in images.image_ids], bool)
        diagnosed = images.forms[FILE].logits.argmax(axis=1)
        good += images.rows[others].tolist()
        right += images.rows[others & (diagnosed == images.label)].tolist()
    return np.asarray(good, np.int64), np.asarray(right, np.int64)


def _write_once(run: Run, name: str, table: pa.Table) -> None:
    """Write a list of images, unless it exists."""
    path = images_path(run.evaluation, run.detector.name, name)
    if not run.store.exists(*path):
        write_table(run.store, table, *path)


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
