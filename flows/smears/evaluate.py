"""Run the flow `evaluate`: test a detector on other images and attacks, and report it."""

import json
import time
from hashlib import sha256
from importlib.util import find_spec

from flows.cluster.client import open_client
from flows.monitoring import telemetry
from flows.monitoring.console import warn
from flows.options.flows import Evaluate, named_set
from flows.prefect.decorators import flow
from flows.settings import Settings, UsageError
from flows.smears.jobs.evaluation.images import Run
from flows.smears.stages.evaluation import evaluate_detector
from flows.smears.stages.evaluation_report import EvaluationOutcome, publish
from storage import leases, records
from storage.models.detectors import load_detector_card, load_model_of
from storage.smears.evaluations import Evaluation, start_evaluation
from storage.store import Store, StoreError
from tasks.images.listing import as_given, each_source, refuse_missing

# Options that the record of an evaluation has as they are given.
ASKED = {"limit", "attacks", "attacked"}
EXTRA = ("foolbox", "pytorch_ood")  # modules of the extra "evaluate"


@flow()
@telemetry.observed()
def evaluate(options: Evaluate, settings: Settings) -> EvaluationOutcome:
    """Evaluate a detector; the same command resumes."""
    if missing := [name for name in EXTRA if find_spec(name) is None]:
        raise UsageError(f"evaluate needs {', '.join(missing)}: pip install 'slidewatch[evaluate]'")
    store = Store(settings.store)
    started = time.monotonic()
    first = load_detector_card(store, options.detector, warn)
    if first.parent is not None:
        raise StoreError(
            f"detector {first.name} was commissioned, and only fitted ones are evaluated: give "
            f"--detector {first.parent}"
        )
    sets = dict(named_set(given) for given in options.ood)
    if options.name is None or not store.exists("evaluations", options.name, "card.json"):
        refuse_missing([*each_source(options.images), *sets.values()])
    asked = Evaluation(
        name=options.name or "-",
        started_at=records.now(),
        detectors=[first.name],
        images=as_given(options.images),
        ood=sets,
        **options.model_dump(include=ASKED),
    )
    asked = asked.model_copy(update={"name": options.name or _digest_name(asked)})
    with leases.lease(store, "evaluations", asked.name) as held:
        store = held.store
        asked = start_evaluation(store, asked)
        run = Run(store, asked.name, first, load_model_of(store, first))
        with open_client(settings) as client:
            result = evaluate_detector(client, run, asked)
        return publish(store, asked, result, time.monotonic() - started)


def _digest_name(wanted: Evaluation) -> str:
    """Name an evaluation by a digest of its options, so that the same command resumes it."""
    asked = wanted.model_dump(mode="json", exclude={"started_at", "name", "commissioned"})
    digest = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"{wanted.detectors[0]}-{digest[:8]}"
