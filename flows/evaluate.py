"""The flow `evaluate`: a detector against other images and attacks -> a robustness report."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client
from numpy.typing import NDArray
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from flows.cluster import open_client
from flows.fit import fit
from flows.jobs import run_in_order
from flows.progress import tell
from flows.results import Outcome
from flows.settings import Settings
from flows.telemetry import observed
from flows.train import train
from storage.batches.manifests import load_batch, read_manifest
from storage.leases import lease
from storage.models.classifiers import ModelCard, list_models, load_card
from storage.models.contributions import contributed
from storage.models.detectors import DetectorCard, list_detectors, load_detector_card
from storage.models.statistics import load_statistics
from storage.records import now
from storage.reports.evaluations import (
    Evaluation,
    images_path,
    read_arrays,
    read_table,
    start_evaluation,
    write_table,
)
from storage.store import Store, StoreError
from tasks.attacks import ATTACKS, find_attack
from tasks.calibration import threshold
from tasks.comparison import Comparison, compare
from tasks.corruptions import CORRUPTIONS
from tasks.evaluation import (
    FalseAlarmJob,
    FitJob,
    PartJob,
    Run,
    false_alarms,
    fit_tap,
    load_detector,
    make_part,
    parts,
    score_part,
)
from tasks.findings import (
    ATTACKED,
    CLEAN,
    FILE,
    SAMPLED,
    TEST,
    Findings,
    ScoredPart,
    Treatment,
    join_parts,
)
from tasks.network import NetworkSpec, every_stage
from tasks.reading import SourceError
from tasks.robustness import Example, robustness_page
from tasks.robustness_tables import METRICS, robustness_markdown
from tasks.sources import list_images
from tasks.split import split_by

ROWS, ATTACKED_ROWS = 512, 64  # images a part
CALIBRATING = (5, 10, 20, 40)  # patients
ALPHAS = (0.01, 0.05)


class EvaluationOutcome(Outcome):
    """A robustness report, in figures."""

    evaluation: str
    detectors: list[str]
    report: str
    metrics: str
    scores: str
    unseen_images: int
    left_out: int
    auroc: dict[str, float]
    seconds: float

    def text(self) -> str:
        """The outcome as a person reads it in a terminal."""
        width = max((len(name) for name in self.auroc), default=0)
        lines = [f"  {name:<{width}}  {value:.4f}" for name, value in self.auroc.items()]
        head = (
            f"evaluation {self.evaluation} of {', '.join(self.detectors)}: "
            f"{self.unseen_images:,} images of unseen patients, {self.seconds:.0f} s"
        )
        return "\n".join(
            [head, "  AUROC of slidewatch's score (mean over seeds)", *lines, f"  {self.report}"]
        )


@flow
@observed()
def evaluate(
    images: Annotated[
        str, Field(description="labelled images, of which those of unseen patients are taken")
    ],
    detector: Annotated[
        str | None, Field(description="the detector; by default the newest")
    ] = None,
    ood: Annotated[
        list[str], Field(description="other images, GROUP/NAME=URL (groups: near, far); repeat it")
    ] = [],  # noqa: B006  (never changed)
    attacks: Annotated[
        list[str], Field(description=f"attacks, by default all: {', '.join(ATTACKS)}")
    ] = list(ATTACKS),  # noqa: B006
    seeds: Annotated[
        int, Field(ge=1, description="repeat with so many models, trained with other seeds")
    ] = 1,
    attacked: Annotated[int, Field(ge=1, description="images to attack and to corrupt")] = 500,
    magnitudes: Annotated[
        list[float], Field(description="of input pre-processing, in pixel units")
    ] = [0.0014],  # noqa: B006
    limit: Annotated[int | None, Field(ge=1, description="take only so many of --images")] = None,
    save_attacks: Annotated[bool, Field(description="keep every attacked image as a PNG")] = False,
    name: Annotated[str | None, Field(description="name of the evaluation")] = None,
    settings: Settings | None = None,
) -> EvaluationOutcome:
    """Try a detector on other images, corruptions and attacks, beside other detectors."""
    settings = settings or Settings()
    store = Store(settings.store)
    started = time.monotonic()
    for attack in attacks:
        find_attack(attack)
    first = load_detector_card(store, detector)
    sets = dict(_named(given) for given in ood)
    cards = [first, *(_repeat(settings, store, first, seed) for seed in range(1, seeds))]
    asked = Evaluation(
        name=name or "-",
        started_at=now(),
        detectors=[card.name for card in cards],
        images=images,
        limit=limit,
        ood=sets,
        attacks=attacks,
        attacked=attacked,
        magnitudes=magnitudes,
        save_attacks=save_attacks,
    )
    asked = asked.model_copy(update={"name": name or _digest_name(asked)})
    with lease(store, "evaluations", asked.name):
        asked = start_evaluation(store, asked)
        results = []
        with open_client(settings) as client:
            for seed, card in enumerate(cards):
                other = cards[(seed + 1) % len(cards)].name if len(cards) > 1 else None
                run = Run(store, asked.name, card.name, tuple(magnitudes), other, save_attacks)
                results.append(_evaluate_one(client, run, asked, seed))
        return _publish(store, asked, cards, results, time.monotonic() - started)


def _named(given: str) -> tuple[str, str]:
    name, found, url = given.partition("=")
    if not found or not name or not url:
        raise SourceError(f"--ood {given} is not of the form GROUP/NAME=URL")
    return (name if "/" in name else f"other/{name}"), url


def _digest_name(wanted: Evaluation) -> str:
    """A name that is the same for the same question, so that the same command goes on."""
    asked = wanted.model_dump(mode="json", exclude={"started_at", "name"})
    digest = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"{wanted.detectors[0]}-{digest[:8]}"


def _repeat(settings: Settings, store: Store, first: DetectorCard, seed: int) -> DetectorCard:
    """The detector of the same recipe with another seed, trained and fitted unless it is there."""
    card = load_card(store, first.model)
    recipe, network = card.training, card.network
    if "fractions" not in recipe:
        raise StoreError(
            f"the card of model {first.model}, made by an older slidewatch, does not say how it "
            "was split: train it anew to repeat it with other seeds"
        )
    name = f"{first.model}-seed-{recipe['seed'] + seed}"
    if name not in {model.name for model in list_models(store)}:
        tell(f"training {name}")
        train(
            recipe["images"],
            model=name,
            network=network["network"],
            weights=recipe["weights"],
            taps=network["taps"],
            frozen=network["frozen"],
            side=network["side"],
            epochs=recipe["epochs"],
            rate=recipe["peak_rate"],
            fractions=recipe["fractions"],
            seed=recipe["seed"] + seed,
            limit=recipe["limit"],
            settings=settings,
        )
    alike = settings.model_copy(
        update={"alpha": first.alpha, "uncertain_below": first.uncertain_below}
    )
    lineage = load_statistics(store, first.model, first.statistics_version)
    for contribution in lineage.contributions:
        batch = load_batch(store, contribution.batch, contribution.attempt)
        fit(batch.images, batch=batch.name, model=name, limit=batch.limit, settings=alike)
    return [made for made in list_detectors(store) if made.model == name][-1]


@dataclass(frozen=True)
class _Result:
    """What the evaluation of one detector came to."""

    metrics: list[dict[str, Any]]
    scores: list[pa.Table]
    examples: list[Example]
    unseen: int
    left_out: int


def _evaluate_one(client: Client, run: Run, asked: Evaluation, seed: int) -> _Result:
    card = load_detector_card(run.store, run.detector)
    model = load_card(run.store, card.model)
    freeze_images(run, asked, card, model)
    others = {name: _set_name(name) for name in asked.ood}
    clean = {name: _parts(run, name, CLEAN, ROWS) for name in ("fitted", TEST, *others.values())}
    extract(client, [job for jobs in clean.values() for job in jobs], f"{card.name}: features")
    seen = _seen(clean["fitted"], model)
    choose_images(run, clean[TEST], seen, asked.attacked)
    for name in (SAMPLED, ATTACKED):
        clean[name] = _parts(run, name, CLEAN, ROWS)
    treated = {
        (images, treatment): _parts(run, images, treatment, size)
        for images, size, treatments in (
            (SAMPLED, ROWS, _corruptions()),
            (ATTACKED, ATTACKED_ROWS, _attacks(asked.attacks)),
        )
        for treatment in treatments
    }
    wanted = {(name, CLEAN): jobs for name, jobs in clean.items() if name != "fitted"} | treated
    title = f"{card.name}: corruptions and attacks"
    extract(client, [job for jobs in wanted.values() for job in jobs], title)
    stages = every_stage(NetworkSpec.from_dict(model.network))
    fit_compared(client, [FitJob(run, tap, tuple(clean["fitted"])) for tap in reversed(stages)])
    scored = {key: join_parts(found) for key, found in score(client, wanted).items()}
    left_out = 0
    for name in (TEST, *others.values()):
        whole = scored[name, CLEAN]
        scored[name, CLEAN] = whole.without(seen)
        left_out += len(whole) - len(scored[name, CLEAN])
    unseen_rows = scored[TEST, CLEAN].forms[FILE].rows
    findings = Findings(
        model=card.model,
        classes=model.classes,
        seed=seed,
        alpha=card.alpha,
        threshold=threshold(load_detector(run).calibration, card.alpha),
        uncertain_below=card.uncertain_below,
        tables={name: _read_images(run, name) for name in clean},
        scored=scored,
        other_sets=others,
    )
    rows = [
        *findings.diagnosis_rows(),
        *false_alarm_rows(client, run, clean, unseen_rows, card.model, seed),
        *findings.covariate_rows(),
        *findings.attack_rows(),
        *(row for found in compare_all(client, findings.comparisons()) for row in found),
    ]
    return _Result(
        rows,
        findings.score_tables(),
        findings.examples() if seed == 0 else [],
        len(scored[TEST, CLEAN]),
        left_out,
    )


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
    return read_table(run.store, *images_path(run.evaluation, run.detector, images))


def _seen(fitted: Sequence[PartJob], model: ModelCard) -> set[bytes]:
    """Digests of the images that the statistics, or the network, have seen."""
    seen = {
        row.tobytes() for job in fitted for row in read_arrays(job.run.store, *job.path)["image_id"]
    }
    if model.split_by == "image":
        keys = (*model.split["train"], *model.split["validation"])
        seen |= {bytes.fromhex(key) for key in keys}
    return seen


@task(cache_policy=NO_CACHE)
def freeze_images(run: Run, evaluation: Evaluation, card: DetectorCard, model: ModelCard) -> None:
    """Write once which images were fitted on, which are of unseen patients, and the other sets."""

    def freeze(name: str, table: pa.Table, by: str = "image") -> None:
        path = images_path(run.evaluation, run.detector, name)
        if run.store.exists(*path):
            return
        keys = table["uri" if by == "image" else f"{by}_id"]
        write_table(run.store, table.append_column("group", keys), *path)

    lineage = load_statistics(run.store, card.model, card.statistics_version)
    fitted = []
    for contribution in lineage.contributions:
        given = contributed(run.store, model, contribution)
        batch = load_batch(run.store, contribution.batch, contribution.attempt)
        fitted.append(read_manifest(run.store, batch).take(given.rows))
    table = pa.concat_tables(fitted)
    freeze("fitted", table, _by(table))
    test = list_images(evaluation.images, classes=model.classes, limit=evaluation.limit)
    seen = [*model.split["train"], *model.split["validation"]]
    unseen = pc.is_in(test["label"], pa.array(model.classes))
    if model.split_by != "image":  # images that were seen are found by their digests, later
        keys = test[f"{model.split_by}_id"]
        unseen = pc.and_(unseen, pc.invert(pc.is_in(keys, pa.array(seen, pa.string()))))
    test = test.filter(unseen)
    if not test.num_rows:
        raise SourceError(
            f"{evaluation.images} has no labelled image of a {model.split_by} that model "
            f"{model.name} has not seen: give images of others"
        )
    freeze("test", test, _by(test))
    for name, url in evaluation.ood.items():
        found = list_images(url, classes=model.classes)
        if not found.num_rows:
            raise SourceError(f"{url} holds no images")
        freeze(_set_name(name), found)


def _by(table: pa.Table) -> str:
    return split_by(table["patient_id"].to_pylist(), table["slide_id"].to_pylist())


def choose_images(run: Run, test: Sequence[PartJob], seen: set[bytes], count: int) -> None:
    """Write once which unseen images are corrupted, and which, rightly diagnosed, are attacked."""
    table = _read_images(run, TEST)
    good: list[int] = []
    right: list[int] = []
    for job in test:
        arrays = read_arrays(run.store, *job.path)
        unseen = np.asarray([row.tobytes() not in seen for row in arrays["image_id"]], bool)
        diagnosed = arrays[f"{FILE}/logits"].argmax(axis=1)
        good += arrays["rows"][unseen].tolist()
        right += arrays["rows"][unseen & (diagnosed == arrays["label"])].tolist()
    if not right:
        raise SourceError("not one image of an unseen patient is diagnosed rightly")
    for name, among in ((SAMPLED, good), (ATTACKED, right)):
        path = images_path(run.evaluation, run.detector, name)
        if not run.store.exists(*path):
            spread = np.linspace(0, len(among) - 1, min(count, len(among))).astype(int)
            write_table(run.store, table.take([among[i] for i in spread]), *path)


@task(cache_policy=NO_CACHE)
def extract(client: Client, jobs: list[PartJob], title: str) -> None:
    """Make the features of parts that are not there yet."""
    for _ in run_in_order(client, make_part, jobs, title=title):
        pass


@task(cache_policy=NO_CACHE)
def fit_compared(client: Client, jobs: list[FitJob]) -> None:
    """Fit the detectors that slidewatch is compared with."""
    for _ in run_in_order(client, fit_tap, jobs, title="fit the compared detectors"):
        pass


Key = tuple[str, Treatment]


@task(cache_policy=NO_CACHE)
def score(client: Client, jobs: dict[Key, list[PartJob]]) -> dict[Key, list[ScoredPart]]:
    """Score every part of every set under every treatment."""
    flat = [(key, job) for key, parts_of in jobs.items() for job in parts_of]
    found: dict[Key, list[ScoredPart]] = defaultdict(list)
    results = run_in_order(client, score_part, [job for _, job in flat], title="score")
    for (key, _), part in zip(flat, results, strict=True):
        found[key].append(part)
    return dict(found)


@task(cache_policy=NO_CACHE)
def compare_all(client: Client, jobs: list[Comparison]) -> list[list[dict[str, Any]]]:
    """Compare the detectors on every set."""
    return list(run_in_order(client, compare, jobs, title="compare"))


@task(cache_policy=NO_CACHE)
def false_alarm_rows(
    client: Client,
    run: Run,
    clean: dict[str, list[PartJob]],
    unseen_rows: NDArray[np.int64],
    model: str,
    seed: int,
) -> list[dict[str, Any]]:
    """Realised false-alarm rates by the way of calibrating and the number of patients."""
    patients = len(set(_read_images(run, "fitted")["group"].to_pylist()))
    counts = [count for count in CALIBRATING if count < patients] or [patients]
    fitted, unseen = tuple(clean["fitted"]), tuple(clean[TEST])
    jobs = [FalseAlarmJob(run, n, unseen_rows, fitted, unseen, ALPHAS) for n in counts]
    return [
        {
            "model": model,
            "seed": seed,
            "group": "false alarms",
            "set": found.method,
            "strength": float(found.patients),
            "against": None,
            "images": "as files",
            "detector": "slidewatch",
            "metric": f"by {unit} at {found.alpha:g}",
            **rate._asdict(),
            "positives": 0,
            "negatives": found.images,
        }
        for results in run_in_order(client, false_alarms, jobs, title="false alarms")
        for found in results
        for unit, rate in (("patient", found.by_patient), ("image", found.by_image))
    ]


def _publish(
    store: Store,
    evaluation: Evaluation,
    cards: list[DetectorCard],
    results: list[_Result],
    seconds: float,
) -> EvaluationOutcome:
    """Write the tables and the report."""
    folder = ("evaluations", evaluation.name)
    metrics = _table([row for result in results for row in result.metrics])
    scores = pa.concat_tables([table for result in results for table in result.scores])
    write_table(store, metrics, *folder, "metrics.parquet")
    write_table(store, scores, *folder, "scores.parquet")
    left_out = sum(result.left_out for result in results)
    facts = {
        "Evaluation": evaluation.name,
        "Detectors": ", ".join(card.name for card in cards),
        "Images of unseen patients": f"{sum(result.unseen for result in results):,}",
        "From": evaluation.images,
        "Other images": ", ".join(f"{name} ({url})" for name, url in evaluation.ood.items()),
        "Attacked and corrupted": f"{evaluation.attacked:,} images a seed",
        "Left out, for they were fitted on": f"{left_out:,}",
        "Time of the last run": f"{seconds:,.0f} s",
    }
    examples = [example for result in results for example in result.examples]
    title = "Robustness of " + cards[0].name
    store.write_bytes(
        robustness_page(title, facts, metrics, scores, examples).encode(), *folder, "report.html"
    )
    store.write_bytes(robustness_markdown(title, facts, metrics).encode(), *folder, "report.md")
    return EvaluationOutcome(
        evaluation=evaluation.name,
        detectors=[card.name for card in cards],
        report=store.address(*folder, "report.html"),
        metrics=store.address(*folder, "metrics.parquet"),
        scores=store.address(*folder, "scores.parquet"),
        unseen_images=sum(result.unseen for result in results),
        left_out=left_out,
        auroc=_mean_auroc(metrics),
        seconds=seconds,
    )


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows as a table of `tasks.robustness_tables.METRICS`; what is not a number is null."""
    columns = []
    for field in METRICS:
        values = [row[field.name] for row in rows]
        # Where nothing can be said, a null says so; NaN is a number to most who ask.
        columns.append(pa.array(values, field.type, from_pandas=True))
    return pa.Table.from_arrays(columns, schema=METRICS)


def _mean_auroc(metrics: pa.Table) -> dict[str, float]:
    """The AUROC of slidewatch's score against clean images, by set and strength."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in metrics.to_pylist():
        wanted = (row["detector"], row["metric"], row["against"], row["images"])
        if wanted == ("slidewatch", "AUROC", "clean", "as files"):
            strength = "" if row["strength"] is None else f" {row['strength']:.4f}"
            found[f"{row['group']}: {row['set']}{strength}"].append(row["value"])
    return {name: float(np.mean(values)) for name, values in found.items()}
