"""Run the flow `evaluate`: test a detector on other images and attacks, and report it."""

import json
import time
from hashlib import sha256
from importlib.util import find_spec

from flows import train
from flows.cluster.client import open_client
from flows.fit import fit
from flows.monitoring import telemetry
from flows.monitoring.console import tell, warn
from flows.options.flows import Evaluate, Fit, named_set
from flows.prefect.decorators import flow
from flows.settings import Settings, UsageError
from flows.smears.jobs.evaluation.images import Run
from flows.smears.stages.evaluation import evaluate_seed
from flows.smears.stages.evaluation_report import EvaluationOutcome, publish
from flows.stages.training.recipes import TrainingRecipe
from storage import leases, records
from storage.batches.manifests import load_batch
from storage.models import classifiers, statistics
from storage.models.detectors import (
    DetectorCard,
    list_detectors,
    load_detector_card,
    load_model_of,
)
from storage.smears.evaluations import Evaluation, start_evaluation
from storage.smears.learned import images_learned
from storage.store import Store
from tasks.images.listing import as_given, each_source, refuse_missing

# Options that the record of an evaluation has as they are given.
ASKED = {"limit", "attacks", "attacked", "save_attacks"}
EXTRA = ("foolbox", "pytorch_ood")  # modules of the extra "evaluate"


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
        return publish(store, asked, cards, results, time.monotonic() - started)


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
