"""Evaluate a detector in steps: freeze and choose images, extract, fit, score, compare."""

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client
from numpy.typing import NDArray

from flows.cluster.executor import run_jobs
from flows.jobs.evaluation.compared import FitJob, fit_tap, score_part
from flows.jobs.evaluation.treated import (
    FalseAlarmJob,
    PartJob,
    Run,
    false_alarms,
    load_detector,
    make_part,
    parts,
    read_part,
)
from flows.monitoring.console import warn
from flows.monitoring.prefect_runs import task
from flows.stages.full_spectrum import PLANTED_LEVELS, is_healthy, planted_metrics, some_of
from storage.batches.manifests import load_batch, read_manifest
from storage.models.classifiers import ModelCard
from storage.models.contributions import contributed
from storage.models.detectors import DetectorCard
from storage.models.statistics import load_statistics
from storage.parquet import read_table, write_table
from storage.reports.evaluations import Evaluation, images_path
from tasks.detector.calibration import threshold
from tasks.evaluation.comparison import Comparison, compare
from tasks.evaluation.metrics import Metric, Subject
from tasks.evaluation.parts import CLEAN, FILE, Treatment
from tasks.evaluation.results.examples import Example, examples
from tasks.evaluation.results.findings import ATTACKED, SAMPLED, TEST, Findings
from tasks.evaluation.results.measured import attack_rows, covariate_rows, diagnosis_rows
from tasks.evaluation.results.pairs import comparisons
from tasks.evaluation.results.score_tables import score_tables
from tasks.evaluation.scored import OWN, ScoredPart, join_parts
from tasks.evaluation.treatments.attacks import find_attack
from tasks.evaluation.treatments.corruptions import CORRUPTIONS
from tasks.images.access.files import SourceError
from tasks.images.listing import list_images, named
from tasks.network.backbones import every_stage
from tasks.network.spec import NetworkSpec
from tasks.network.split import split_by

Key = tuple[str, Treatment]
Rows = NDArray[np.int64]

ROWS, ATTACKED_ROWS = 512, 64  # images per part
CALIBRATING = (5, 10, 20, 40)  # patients
ALPHAS = (0.01, 0.05)


@dataclass(frozen=True)
class SeedResult:
    """The metrics, scores and examples of the evaluation of one detector."""

    metrics: list[Metric]
    scores: list[pa.Table]
    examples: list[Example]
    unseen: int
    left_out: int
    left_out_of_nights: int


def evaluate_seed(
    client: Client, run: Run, asked: Evaluation, seed: int, of_laboratory: frozenset[bytes]
) -> SeedResult:
    """Evaluate the detector of one seed: freeze images, extract, fit, score and compare.

    Images with digests in ``of_laboratory`` are left out of slides and of planted images.
    """
    card, model = run.detector, run.model
    freeze_images(run, asked, card, model)
    others = {name: _set_name(name) for name in asked.ood}
    healthy = {name: images for name, images in others.items() if is_healthy(name)}
    sets = ("fitted", TEST, *others.values())
    clean = {name: _parts(run, name, CLEAN, ROWS) for name in sets}
    extract(client, [job for jobs in clean.values() for job in jobs], f"{card.name}: features")
    seen = _seen(clean["fitted"], model)
    choose_images(run, clean[TEST], seen, asked.attacked)
    for name in (SAMPLED, ATTACKED):
        clean[name] = _parts(run, name, CLEAN, ROWS)
    wanted = {(name, CLEAN): jobs for name, jobs in clean.items() if name != "fitted"}
    some = [some_of(images) for images in healthy.values()]
    for name, images in zip(some, healthy.values(), strict=True):
        table = _read_images(run, images)
        table = table.take(_good(clean[images], seen | of_laboratory)[0])
        _write_some(run, name, table, asked.attacked)
    wanted |= _treated(run, asked.attacks, some)
    title = f"{card.name}: corruptions and attacks"
    extract(client, [job for jobs in wanted.values() for job in jobs], title)
    stages = every_stage(NetworkSpec.from_dict(model.network))
    fit_compared(client, [FitJob(run, tap, tuple(clean["fitted"])) for tap in reversed(stages)])
    scored = {key: join_parts(found) for key, found in score(client, wanted).items()}
    before = sum(map(len, scored.values()))
    scored |= {(name, CLEAN): scored[name, CLEAN].without(seen) for name in sets[1:]}
    findings = Findings(
        model=card.model,
        classes=model.classes,
        seed=seed,
        alpha=card.alpha,
        threshold=threshold(load_detector(run).calibration, card.alpha),
        uncertain_below=card.uncertain_below,
        tables={name: _read_images(run, name) for name in clean},
        scored={k: v for k, v in scored.items() if k[0] not in (*healthy.values(), *some)},
        other_sets={name: images for name, images in others.items() if name not in healthy},
    )
    planted = planted_metrics(
        client, run, findings, scored, wanted, healthy, asked.planted, of_laboratory
    )
    return SeedResult(
        [*planted, *_metrics(client, run, findings, clean)],
        score_tables(findings),
        examples(findings) if seed == 0 else [],
        unseen=len(scored[TEST, CLEAN]),
        left_out=before - sum(map(len, scored.values())),
        left_out_of_nights=sum(
            row.tobytes() in of_laboratory
            for name in sets[1:]
            for row in scored[name, CLEAN].image_ids
        ),
    )


def _treated(run: Run, attacks: list[str], healthy: list[str]) -> dict[Key, list[PartJob]]:
    """List the parts of sampled images under every corruption, and of attacked ones by attack.

    Healthy cells of foreign slides are corrupted for planting.
    """
    corrupted = {(SAMPLED, each): _parts(run, SAMPLED, each, ROWS) for each in _corruptions()}
    corrupted |= {
        (images, each): _parts(run, images, each, ROWS)
        for images in healthy
        for each in _corruptions()
        if each.strength in PLANTED_LEVELS
    }
    return corrupted | {
        (ATTACKED, each): _parts(run, ATTACKED, each, ATTACKED_ROWS) for each in _attacks(attacks)
    }


def _metrics(
    client: Client, run: Run, findings: Findings, clean: dict[str, list[PartJob]]
) -> list[Metric]:
    return [
        *diagnosis_rows(findings),
        *false_alarm_rows(client, run, findings, clean),
        *covariate_rows(findings),
        *attack_rows(findings),
        *(metric for found in compare_all(client, comparisons(findings)) for metric in found),
    ]


def _set_name(given: str) -> str:
    return given.replace("/", "--")


def _corruptions() -> list[Treatment]:
    return [
        Treatment("corruption", name, float(level))
        for name, corruption in CORRUPTIONS.items()
        for level in range(1, len(corruption.levels) + 1)
    ]


def _attacks(names: list[str]) -> list[Treatment]:
    return [
        Treatment("attack", name, strength)
        for name in names
        for strength in find_attack(name).strengths
    ]


def _parts(run: Run, images: str, treatment: Treatment, size: int) -> list[PartJob]:
    return parts(run, images, treatment, _read_images(run, images).num_rows, size)


def _read_images(run: Run, images: str) -> pa.Table:
    return read_table(run.store, *images_path(run.evaluation, run.detector.name, images))


def _seen(fitted: Sequence[PartJob], model: ModelCard) -> set[bytes]:
    """Collect the digests of the images that the statistics or the network have seen."""
    seen = {row.tobytes() for part in map(read_part, fitted) for row in part.image_ids}
    if model.split_by == "image":
        keys = (*model.split["train"], *model.split["validation"])
        seen |= {bytes.fromhex(key) for key in keys}
    return seen


@task
def freeze_images(run: Run, evaluation: Evaluation, card: DetectorCard, model: ModelCard) -> None:
    """Write the lists of fitted images, of images of unseen patients, and of other sets, once."""

    def freeze(name: str, table: pa.Table, by: str = "image") -> None:
        keys = table["uri" if by == "image" else f"{by}_id"]
        _write_once(run, name, table.append_column("group", keys))

    lineage = load_statistics(run.store, card.model, card.statistics_version)
    fitted = []
    for contribution in lineage.contributions:
        given = contributed(run.store, model, contribution)
        batch = load_batch(run.store, contribution.batch, contribution.attempt)
        fitted.append(read_manifest(run.store, batch).take(given.rows))
    table = pa.concat_tables(fitted)
    freeze("fitted", table, _by(table))
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
    freeze("test", test, _by(test))
    for name, url in evaluation.ood.items():
        found = list_images(url, classes=model.classes, on_skip=warn)
        if not found.num_rows:
            raise SourceError(f"{url} holds no images")
        freeze(_set_name(name), *(_with_slides(name, found) if is_healthy(name) else (found,)))


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


def choose_images(run: Run, test: Sequence[PartJob], seen: set[bytes], count: int) -> None:
    """Write, once, the lists of unseen images to corrupt and of right diagnoses to attack."""
    table = _read_images(run, TEST)
    good, right = _good(test, seen)
    if not len(right):
        raise SourceError("not one image of an unseen patient is diagnosed rightly")
    for name, among in ((SAMPLED, good), (ATTACKED, right)):
        _write_some(run, name, table.take(among), count)


def _good(jobs: Sequence[PartJob], but: Set[bytes]) -> tuple[Rows, Rows]:
    """List the rows of a set without some digests, and those of them diagnosed correctly."""
    good: list[int] = []
    right: list[int] = []
    for part in map(read_part, jobs):
        if not len(part.rows):
            continue
        others = np.asarray([row.tobytes() not in but for row in part.image_ids], bool)
        diagnosed = part.forms[FILE].logits.argmax(axis=1)
        good += part.rows[others].tolist()
        right += part.rows[others & (diagnosed == part.label)].tolist()
    return np.asarray(good, np.int64), np.asarray(right, np.int64)


def _write_some(run: Run, name: str, table: pa.Table, count: int) -> None:
    """Write, once, a list of ``count`` images, spread evenly over a table."""
    spread = np.linspace(0, len(table) - 1, min(count, len(table))).astype(int)
    _write_once(run, name, table.take(spread))


def _write_once(run: Run, name: str, table: pa.Table) -> None:
    """Write a list of images, unless it exists."""
    path = images_path(run.evaluation, run.detector.name, name)
    if not run.store.exists(*path):
        write_table(run.store, table, *path)


@task
def extract(client: Client, jobs: list[PartJob], title: str) -> None:
    """Compute the features of the parts that do not exist yet."""
    for _ in run_jobs(client, make_part, jobs, title=title):
        pass


@task
def fit_compared(client: Client, jobs: list[FitJob]) -> None:
    """Fit the detectors that slidewatch is compared with."""
    for _ in run_jobs(client, fit_tap, jobs, title="fit the compared detectors"):
        pass


@task
def score(client: Client, jobs: dict[Key, list[PartJob]]) -> dict[Key, list[ScoredPart]]:
    """Score every part of every set under every treatment."""
    flat = [(key, job) for key, parts_of in jobs.items() for job in parts_of]
    found: dict[Key, list[ScoredPart]] = defaultdict(list)
    results = run_jobs(client, score_part, [job for _, job in flat], title="score")
    for (key, _), part in zip(flat, results, strict=True):
        found[key].append(part)
    return dict(found)


@task
def compare_all(client: Client, jobs: list[Comparison]) -> list[list[Metric]]:
    """Compare the detectors on every set."""
    return list(run_jobs(client, compare, jobs, title="compare"))


@task
def false_alarm_rows(
    client: Client, run: Run, findings: Findings, clean: dict[str, list[PartJob]]
) -> list[Metric]:
    """Measure realised false-alarm rates by method of calibration and number of patients."""
    patients = len(set(_read_images(run, "fitted")["group"].to_pylist()))
    counts = [count for count in CALIBRATING if count < patients] or [patients]
    fitted, unseen = tuple(clean["fitted"]), tuple(clean[TEST])
    rows = findings.scored[TEST, CLEAN].forms[FILE].rows
    jobs = [FalseAlarmJob(run, n, rows, fitted, unseen, ALPHAS) for n in counts]
    return [
        Metric(
            Subject(
                findings.model, findings.seed, "false alarms", found.method, float(found.patients)
            ),
            OWN,
            f"by {unit} at {found.alpha:g}",
            rate,
            negatives=found.images,
        )
        for results in run_jobs(client, false_alarms, jobs, title="false alarms")
        for found in results
        for unit, rate in (("patient", found.by_patient), ("image", found.by_image))
    ]
