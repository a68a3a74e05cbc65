"""Publish an evaluation: the table of its results, and its page."""

from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa

from flows import outcome
from flows.smears.stages.evaluation import SeedResult
from storage import parquet
from storage.models.detectors import DetectorCard
from storage.smears.evaluations import RESULTS, Evaluation
from storage.smears.schemas.evaluations import evaluation_schema
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


def publish(
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
