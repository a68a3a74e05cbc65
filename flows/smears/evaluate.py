"""Run the flow `evaluate`: test a detector on other images and attacks, and report it."""

import json
import math
import time
from hashlib import sha256
from importlib.util import find_spec

import pyarrow as pa

from flows.cluster.client import open_client
from flows.monitoring import telemetry
from flows.monitoring.console import warn
from flows.options.flows import Evaluate, named_set
from flows.outcome import Outcome
from flows.prefect.decorators import flow
from flows.settings import Settings, UsageError
from flows.smears.jobs.evaluation.images import Run
from flows.smears.stages.evaluation import evaluate_detector
from storage import leases, parquet, records
from storage.models.detectors import is_shipped, load_detector_card, load_model_of
from storage.smears.evaluations import FOLDER, RESULTS, Evaluation, start_evaluation
from storage.smears.schemas.evaluations import EVALUATION_SCHEMA
from storage.store import Store, StoreError
from tasks.images.listing import as_given, each_source, named, refuse_missing
from tasks.metrics import metrics
from tasks.smears.evaluation import scored
from tasks.smears.visualisation.robustness_page import robustness_page

# Options that the record of an evaluation has as they are given.
ASKED = {"limit", "attacks", "attacked"}
EXTRA = ("foolbox", "pytorch_ood")  # modules of the extra "evaluate"


class EvaluationOutcome(Outcome):
    """The figures and addresses of a robustness report."""

    evaluation: str
    detectors: list[str]
    report: str
    results: str
    unseen_images: int
    left_out: int | None
    auroc: dict[str, float]
    seconds: float

    def _text(self) -> str:
        width = max((len(name) for name in self.auroc), default=0)
        lines = [f"  {name:<{width}}  {value:.4f}" for name, value in self.auroc.items()]
        head = (
            f"evaluation {self.evaluation} of {', '.join(self.detectors)}: "
            f"{self.unseen_images:,} images of unseen patients, {self.seconds:.0f} s"
        )
        return "\n".join([head, "  AUROC of slidewatch's score", *lines, f"  {self.report}"])


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
    if options.name is None or not store.exists(FOLDER, options.name, "card.json"):
        refuse_missing([*each_source(options.images), *sets.values()])
    if is_shipped(first) and options.attacks:
        warn(
            f"detector {first.name} comes with slidewatch, without weights for PyTorch and without "
            "its fitted images: nothing is attacked, two rivals are compared, and images that it "
            "was fitted on count too. Train and fit a detector to measure the rest"
        )
        options = options.model_copy(update={"attacks": []})
    asked = Evaluation(
        name=options.name or "-",
        started_at=records.now(),
        detectors=[first.name],
        images=as_given(options.images),
        ood=sets,
        **options.model_dump(include=ASKED),
    )
    asked = asked.model_copy(update={"name": options.name or _digest_name(asked)})
    with leases.lease(store, FOLDER, asked.name) as held:
        store = held.store
        asked = start_evaluation(store, asked)
        run = Run(store, asked.name, first, load_model_of(store, first))
        with open_client(settings) as client:
            results, unseen, left_out = evaluate_detector(client, run, asked)
        known = None if is_shipped(first) else left_out
        return _publish(store, asked, results, unseen, known, time.monotonic() - started)


def _digest_name(wanted: Evaluation) -> str:
    """Name an evaluation by a digest of its options, so that the same command resumes it."""
    asked = wanted.model_dump(mode="json", exclude={"started_at", "name", "commissioned"})
    digest = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return f"{wanted.detectors[0]}-{digest[:8]}"


def _publish(
    store: Store,
    evaluation: Evaluation,
    results: list[metrics.Result],
    unseen: int,
    left_out: int | None,
    seconds: float,
) -> EvaluationOutcome:
    folder, detector = (FOLDER, evaluation.name), evaluation.detectors[0]
    rows = [{"evaluation": evaluation.name, "seed": 0, **each.row()} for each in results]
    table = pa.Table.from_pylist(rows, EVALUATION_SCHEMA)
    parquet.write_table(store, table, *folder, RESULTS)
    facts = {
        "Evaluation": evaluation.name,
        "Detectors": detector,
        "Images of unseen patients": f"{unseen:,}",
        "From": named(evaluation.images),
        "Other images": ", ".join(f"{name} ({url})" for name, url in evaluation.ood.items()),
        "Attacked or corrupted": f"{evaluation.attacked:,} images",
        "Left out, as fitted on": "unknown" if left_out is None else f"{left_out:,}",
        "Time of the last run": f"{seconds:,.0f} s",
    }
    page = robustness_page(f"Robustness of {detector}", facts, table)
    store.write_bytes(page.encode(), *folder, "report.html")
    return EvaluationOutcome(
        evaluation=evaluation.name,
        detectors=[detector],
        report=store.address(*folder, "report.html"),
        results=store.address(*folder, RESULTS),
        unseen_images=unseen,
        left_out=left_out,
        auroc={
            f"{of.set} {of.strength:.4f}" if of.strength else of.set: each.found.value
            for each, of in ((each, each.subject) for each in results)
            if (each.detector, each.measure) == (scored.OWN, "AUROC")
            and of.composition == metrics.SINGLE
            and math.isfinite(each.found.value)
        },
        seconds=seconds,
    )
