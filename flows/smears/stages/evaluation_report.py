"""Publish an evaluation: the table of its results, and its page."""

import math

import pyarrow as pa

from flows import outcome
from flows.smears.stages.evaluation import Evaluated
from storage import parquet
from storage.smears.evaluations import FOLDER, RESULTS, Evaluation
from storage.smears.schemas.evaluations import EVALUATION_SCHEMA
from storage.store import Store
from tasks.images.listing import named
from tasks.metrics import metrics
from tasks.smears.evaluation import scored
from tasks.smears.visualisation.robustness_page import robustness_page


class EvaluationOutcome(outcome.Outcome):
    """The figures and addresses of a robustness report."""

    evaluation: str
    detectors: list[str]
    report: str
    results: str
    unseen_images: int
    left_out: int
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


def publish(
    store: Store, evaluation: Evaluation, result: Evaluated, seconds: float
) -> EvaluationOutcome:
    """Write the table of results, and the page."""
    folder, detector = (FOLDER, evaluation.name), evaluation.detectors[0]
    rows = [{"evaluation": evaluation.name, "seed": 0, **each.row()} for each in result.results]
    table = pa.Table.from_pylist(rows, EVALUATION_SCHEMA)
    parquet.write_table(store, table, *folder, RESULTS)
    facts = {
        "Evaluation": evaluation.name,
        "Detectors": detector,
        "Images of unseen patients": f"{result.unseen:,}",
        "From": named(evaluation.images),
        "Other images": ", ".join(f"{name} ({url})" for name, url in evaluation.ood.items()),
        "Attacked and corrupted": f"{evaluation.attacked:,} images",
        "Left out because the detector was fitted on them": f"{result.left_out:,}",
        "Time of the last run": f"{seconds:,.0f} s",
    }
    page = robustness_page(f"Robustness of {detector}", facts, table)
    store.write_bytes(page.encode(), *folder, "report.html")
    return EvaluationOutcome(
        evaluation=evaluation.name,
        detectors=[detector],
        report=store.address(*folder, "report.html"),
        results=store.address(*folder, RESULTS),
        unseen_images=result.unseen,
        left_out=result.left_out,
        auroc={
            each.subject.set + _strength(each.subject): each.found.value
            for each in result.results
            if (each.detector, each.measure) == (scored.OWN, "AUROC")
            and each.subject.composition == metrics.SINGLE
            and math.isfinite(each.found.value)
        },
        seconds=seconds,
    )


def _strength(subject: metrics.Subject) -> str:
    return "" if subject.strength is None else f" {subject.strength:.4f}"
