"""Run the flow `fit`: labelled batches -> class statistics -> a detector."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from flows.cluster.client import open_client
from flows.extensions import extension
from flows.jobs.shard import ShardJob, ShardResult
from flows.monitoring import console, logs, telemetry
from flows.options.flows import Fit
from flows.outcome import Outcome, numbered, table
from flows.prefect.decorators import flow
from flows.settings import Settings
from flows.stages import class_statistics, error_counts, leaving_out
from flows.stages.batch import GivenImages, lease_batch, run_shards, start_or_resume
from storage.batches.manifests import Batch
from storage.models import classifiers
from storage.models.contributions import repeated_rows
from storage.models.statistics import Contribution, Lineage, latest_statistics, version_name
from storage.store import Store
from tasks import words
from tasks.detector.error_counts import merge_errors
from tasks.detector.moments import ClassStatistics, merge_statistics, merge_tree
from tasks.images.access.files import SourceError


class FitOutcome(Outcome):
    """A version of the statistics, and the detector made from it where one could be calibrated."""

    changed: str
    model: str
    statistics: str
    images: dict[str, int]
    unreadable: int = 0
    detector: str | None = None
    calibrated_by: str | None = None
    calibrating_groups: int | None = None
    alpha: float | None = None
    warnings: list[str]

    @property
    def failed(self) -> bool:
        """Return whether no detector could be calibrated."""
        return self.detector is None

    def _text(self) -> str:
        fitted = f"{self.statistics} of {self.model}: {numbered(self.images)}"
        rows: list[tuple[str, object]] = [("statistics", fitted)]
        if self.detector:
            groups = f"{self.calibrating_groups} {self.calibrated_by}s"
            how = f"calibrated by leaving out each of {groups}; alpha {self.alpha}"
            rows.append(("detector", f"{self.detector}, {how}"))
        rows += [("warning", warning) for warning in self.warnings]
        return f"{self.changed}\n{table(rows)}"


@flow(flow_run_name="fit {options.batch}")
@telemetry.observed()
def fit(options: Fit, settings: Settings) -> FitOutcome:
    """Fit a batch; StoreError if earlier verdicts on a screened batch count already."""
    store = Store(settings.store)
    card = classifiers.find_card(store, options.model, console.warn)
    with lease_batch(store, options.batch, wait=options.wait) as held_batch, ExitStack() as work:
        store = held_batch.store
        frozen = start_or_resume(
            store, settings, options.batch, GivenImages(options.images, options.limit), card.classes
        )
        class_statistics.check_labels(store, frozen, card)
        to = class_statistics.Fitting(
            work.enter_context(open_client(settings)), settings, store, card
        )
        known = latest_statistics(store, card.name)
        if known and known.contribution(options.batch):
            changed = f"batch {options.batch} is in the statistics already: it counts once"
            return fitted_outcome(to, known, changed)
        part, contribution, failures = _extract_batch(to, frozen)
        with class_statistics.statistics_lease(store, card) as held:
            to = replace(to, store=held.store)
            if refuse := extension("check of labels"):
                refuse(to.store, card.name, options.batch, frozen.images)
            latest = latest_statistics(to.store, card.name)
            before, errors = class_statistics.totals(to, latest)
            others = latest.contributions if latest else []
            class_statistics.refuse_damage(to, others)
            part, contribution = class_statistics.without_repeats(to, part, contribution, others)
            repeated = repeated_rows(to.store, card, contribution, others, held_out=True)
            contribution = contribution.model_copy(update={"repeated_held_out": tuple(repeated)})
            held.check()
            lineage = class_statistics.save_version(
                to,
                latest,
                merge_statistics(before, part),
                merge_errors(errors, error_counts.errors_of_batch(to.store, card, contribution)),
                f"fit {options.batch}",
                [*others, contribution],
            )
            again = f", {len(contribution.repeated):,} repeated" if contribution.repeated else ""
            changed = (
                f"batch {options.batch}: {contribution.images:,} of "
                f"{words.counted(frozen.rows, 'image')} added, "
                f"{contribution.held_out:,} left out (the model's validation and test "
                f"{card.split_by}s), {failures} unreadable{again}"
            )
            return fitted_outcome(to, lineage, changed, unreadable=failures)


def _extract_batch(
    to: class_statistics.Fitting, batch: Batch
) -> tuple[ClassStatistics, Contribution, int]:
    """Extract a batch; return its statistics, its contribution and how many images failed."""
    store, card = to.store, to.model
    counts = Counter[str]()

    def counted(results: Iterator[ShardResult]) -> Iterator[ClassStatistics]:
        for result in results:
            counts["fitted"] += result.fitted
            counts["held_out"] += result.held_out
            counts["failures"] += len(result.failures)
            assert result.statistics is not None
            yield result.statistics

    jobs = [ShardJob(store, batch, shard, card, fit=True) for shard in batch.shards()]
    results = run_shards(to.client, store, batch, card, jobs, f"fit {batch.name}")
    part = merge_tree(counted(results))
    if not counts["fitted"]:
        raise SourceError(
            f"batch {batch.name} adds nothing: of {batch.rows} images {counts['held_out']} belong "
            f"to the model's validation and test {card.split_by}s and {counts['failures']} are "
            "unreadable"
        )
    contribution = Contribution(
        batch=batch.name,
        attempt=batch.attempt,
        manifest_digest=batch.manifest_digest,
        images=counts["fitted"],
        held_out=counts["held_out"],
    )
    return part, contribution, counts["failures"]


def fitted_outcome(
    to: class_statistics.Fitting, lineage: Lineage, changed: str, unreadable: int = 0
) -> FitOutcome:
    """Calibrate a detector on the statistics, or say in outcome and log why none is possible."""
    made: dict[str, Any] = {
        "changed": changed,
        "model": to.model.name,
        "statistics": version_name(lineage.version),
        "images": lineage.images,
        "unreadable": unreadable,
    }
    try:
        detector = leaving_out.calibrate_detector(to, lineage)
        same = {"calibrated_by", "calibrating_groups", "alpha", "warnings"}
        made |= {"detector": detector.name} | detector.model_dump(include=same)
    except leaving_out.CalibrationError as error:
        made["warnings"] = [f"no detector: {error}"]
    for warning in made["warnings"]:
        logs.log(logging.WARNING, warning)
    return FitOutcome(**made)
