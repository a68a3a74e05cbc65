"""Run the flow `evaluate`: test a detector on other images and attacks, and report it."""

import json
import time
from collections import defaultdict
from hashlib import sha256
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

from flows import outcome, train
from flows.cluster.client import open_client
from flows.fit import fit
from flows.monitoring import telemetry
from flows.monitoring.console import tell, warn
from flows.options.flows import Evaluate, Fit, named_set
from flows.prefect.decorators import flow
from flows.settings import Settings, UsageError
from flows.smears.jobs.evaluation.images import Run
from flows.smears.stages.evaluation import SeedResult, evaluate_seed
from flows.stages.training.recipes import TrainingRecipe
from storage import leases, parquet, records
from storage.batches.manifests import load_batch
from storage.models import classifiers, statistics
from storage.models.detectors import (
    DetectorCard,
    list_detectors,
    load_detector_card,
    load_model_of,
)
from storage.smears.evaluations import RESULTS, Evaluation, start_evaluation
from storage.smears.learned import images_learned
from storage.smears.schemas.evaluations import evaluation_schema
from storage.store import Store
from tasks.images.listing import as_given, each_source, named, refuse_missing
from tasks.metrics import metrics
from tasks.smears.evaluation import scored
from tasks.smears.visualisation.robustness_page import robustness_page

# Options that the record of an evaluation has as they are given.
ASKED = {"limit", "attacks", "attacked", "save_attacks"}
EXTRA = ("foolbox", "pytorch_ood")  # modules of the extra "evaluate"


class EvaluationOutcome(outcome.Outcome):
    """The figures and addresses of a robustness report."""

    evaluation: str
    detectors: list[str]
    report: str
    results: str
    unseen_images: int
    left_out: int
    commissioned: str | None = None
    left_out_of_nights: int = 0
    auroc: dict[str, float]
    seconds: float

    def _text(self) -> str:
        width = max((len(name) for name in self.auroc), default=0)
        lines = [f"  {name:<{width}}  {value:.4f}" for name, value in self.auroc.items()]
        head = (
            f"evaluation {self.evaluation} of {', '.join(self.detectors)}: "
            f"{self.unseen_images:,} images of unseen patients, {self.seconds:.0f} s"
        )
        if self.commissioned:
            head += (
                f"\n  slides judged by {self.commissioned}, too, without "
                f"{self.left_out_of_nights:,} images of its nights"
            )
        return "\n".join(
            [head, "  AUROC of slidewatch's score (mean over seeds)", *lines, f"  {self.report}"]
        )


@flow()
@telemetry.observed()
def evaluate(options: Evaluate, settings: Settings) -> EvaluationOutcome:
    """Evaluate a detector; the same command resumes."""
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise UsageError(f"evaluate needs {', '.join(missing)}: pip install 'slidewatch[evaluate]'")
    store = Store(settings.store)
    started = time.monotonic()
    first, place = load_detector_card(store, options.detector, warn), None
    if first.parent is not None:
        first, place = load_detector_card(store, first.parent), first
    sets = dict(named_set(given) for given in options.ood)
    if options.name is None or not store.exists("evaluations", options.name, "card.json"):
        refuse_missing([*each_source(options.images), *sets.values()])
    cards = [first, *(_repeat(settings, store, first, seed) for seed in range(1, options.seeds))]
    asked = Evaluation(
        name=options.name or "-",
        started_at=records.now(),
        detectors=[card.name for card in cards],
        images=as_given(options.images),
        ood=sets,
        commissioned=place.name if place else None,
        **options.model_dump(include=ASKED),
    )
    asked = asked.model_copy(update={"name": options.name or _digest_name(asked)})
    with leases.lease(store, "evaluations", asked.name) as held:
        store = held.store
        asked = start_evaluation(store, asked)
        known = images_learned(store, place) if place else frozenset()
        results = []
        models = [load_model_of(store, card) for card in cards]
        with open_client(settings) as client:
            for seed, (card, model) in enumerate(zip(cards, models, strict=True)):
                at = place if seed == 0 else None  # it has one parent
                run = Run(store, asked.name, card, model, options.save_attacks, at)
                results.append(evaluate_seed(client, run, asked, known))
        return _publish(store, asked, cards, results, time.monotonic() - started)


def _digest_name(wanted: Evaluation) -> str:
    """Name an evaluation by a digest of its options, so that the same command resumes it."""
    left = {"started_at", "name"} | (set() if wanted.commissioned else {"commissioned"})
    asked = wanted.model_dump(mode="json", exclude=left)
    digest = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"{wanted.detectors[0]}-{digest[:8]}"


def _repeat(settings: Settings, store: Store, first: DetectorCard, seed: int) -> DetectorCard:
    """Train and fit a detector by the same recipe with another seed, unless it is there already."""
    recipe = TrainingRecipe.from_card(classifiers.load_card(store, first.model))
    recipe = recipe.with_seed(recipe.plan.seed + seed)
    name = f"{first.model}-seed-{recipe.plan.seed}"
    if name not in classifiers.model_names(store):
        tell(f"training {name}")
        train.train_by(recipe, name, settings, repeats=True)
    alike = settings.model_copy(
        update={"alpha": first.alpha, "uncertain_below": first.uncertain_below}
    )
    lineage = statistics.load_statistics(store, first.model, first.statistics_version)
    for contribution in lineage.contributions:
        batch = load_batch(store, contribution.batch, contribution.attempt)
        images = as_given(batch.images)
        fit.fn(Fit(images=images, batch=batch.name, model=name, limit=batch.limit), alike)
    made = [each for each in list_detectors(store, warn) if each.model == name and not each.parent]
    return made[-1]


def _publish(
    store: Store,
    evaluation: Evaluation,
    cards: list[DetectorCard],
    results: list[SeedResult],
    seconds: float,
) -> EvaluationOutcome:
    """Write the table of results, and the page."""
    folder = ("evaluations", evaluation.name)
    rows = [
        {"evaluation": evaluation.name, "seed": seed, **result.row()}
        for seed, of_seed in enumerate(results)
        for result in of_seed.results
    ]
    table = pa.Table.from_pylist(rows, evaluation_schema())
    parquet.write_table(store, table, *folder, RESULTS)
    left_out = sum(result.left_out for result in results)
    facts = {
        "Evaluation": evaluation.name,
        "Detectors": ", ".join(card.name for card in cards),
        "Images of unseen patients": f"{sum(result.unseen for result in results):,}",
        "From": named(evaluation.images),
        "Other images": ", ".join(f"{name} ({url})" for name, url in evaluation.ood.items()),
        "Attacked and corrupted": f"{evaluation.attacked:,} images per seed",
        "Left out because the detector was fitted on them": f"{left_out:,}",
        **_learned_facts(evaluation, results[0]),
        "Time of the last run": f"{seconds:,.0f} s",
    }
    page = robustness_page(f"Robustness of {cards[0].name}", facts, table)
    store.write_bytes(page.encode(), *folder, "report.html")
    return EvaluationOutcome(
        evaluation=evaluation.name,
        detectors=[card.name for card in cards],
        report=store.address(*folder, "report.html"),
        results=store.address(*folder, RESULTS),
        unseen_images=sum(result.unseen for result in results),
        left_out=left_out,
        commissioned=evaluation.commissioned,
        left_out_of_nights=results[0].left_out_of_nights,
        auroc=_mean_auroc(rows),
        seconds=seconds,
    )


def _learned_facts(evaluation: Evaluation, first: SeedResult) -> dict[str, str]:
    """State by whose normal slides are judged too, and how many images it has learned."""
    if evaluation.commissioned is None:
        return {}
    return {
        "Slides judged by": evaluation.commissioned,
        "Left out of nights because it has learned them": f"{first.left_out_of_nights:,}",
    }


def _mean_auroc(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Average the AUROC of slidewatch's score against clean images, by set and strength."""
    by_set: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        about = row["detector"], row["measure"], row["composition"]
        if about == (scored.OWN, "AUROC", metrics.SINGLE) and row["value"] is not None:
            strength = "" if row["strength"] is None else f" {row['strength']:.4f}"
            by_set[row["set"] + strength].append(row["value"])
    return {name: float(np.mean(values)) for name, values in by_set.items()}
