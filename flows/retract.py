"""Run the flow `retract`: take images out of the class statistics, exactly."""

from flows.cluster.client import open_client
from flows.fit import FitOutcome, fitted_outcome
from flows.monitoring import console, telemetry
from flows.options.flows import Retract
from flows.prefect.decorators import flow
from flows.settings import Settings
from flows.stages import class_statistics, error_counts
from storage.models import classifiers
from storage.models.contributions import Rows
from storage.models.detectors import list_detectors
from storage.models.statistics import Contribution, Lineage, latest_statistics, version_name
from storage.store import Store, StoreError
from tasks import words
from tasks.detector.error_counts import ErrorCounts, retract_errors
from tasks.detector.moments import ClassStatistics, retract_statistics


@flow()
@telemetry.observed()
def retract(options: Retract, settings: Settings) -> FitOutcome:
    """Take something out, and calibrate without it."""
    store = Store(settings.store)
    given = options.model_dump(include={"batch", "slide", "patient"}, exclude_none=True)
    ((kind, name),) = given.items()
    card = classifiers.find_card(store, options.model, console.warn)
    with class_statistics.statistics_lease(store, card) as held:
        store = held.store
        latest = latest_statistics(store, card.name)
        if latest is None:
            raise StoreError(f"model {card.name} has no statistics yet: slidewatch fit makes them")
        taken, held_out, kept = _found(store, card, latest, kind, name)
        operation = f"retract {kind} {name}"
        if not taken and not held_out:
            fitted = {(d.model, d.statistics_version) for d in list_detectors(store, console.warn)}
            if latest.operation == operation and (card.name, latest.version) not in fitted:
                # An earlier run ended between the statistics and their detector.
                changed = f"{kind} {name} was taken out of the statistics before"
                with open_client(settings) as client:
                    to = class_statistics.Fitting(client, settings, store, card)
                    return fitted_outcome(to, latest, changed)
            raise StoreError(f"{kind} {name} is not in statistics {version_name(latest.version)}")
        images = words.counted(sum(map(len, taken)), "image")
        changed = f"{kind} {name}: {images} taken out of the statistics"
        if held_out:
            changed += f", and {sum(map(len, held_out)):,} held-out ones out of the error counts"
        with open_client(settings) as client:
            to = class_statistics.Fitting(client, settings, store, card)
            class_statistics.refuse_damage(to, latest.contributions)
            before = class_statistics.as_before(to, kept)
            total, errors = before or _without(to, latest, taken, held_out)
            held.check()
            lineage = class_statistics.save_version(to, latest, total, errors, operation, kept)
            return fitted_outcome(to, lineage, changed)


def _without(
    to: class_statistics.Fitting, latest: Lineage, taken: list[Rows], held_out: list[Rows]
) -> tuple[ClassStatistics, ErrorCounts]:
    total, errors = class_statistics.totals(to, latest)
    for rows in (*taken, *held_out):
        errors = retract_errors(errors, error_counts.errors_of_rows(to.store, to.model, rows))
    if taken:
        total = retract_statistics(
            total, class_statistics.statistics_of_rows(to, taken, "take out")
        )
    return total, errors


def _found(
    store: Store, card: classifiers.ModelCard, latest: Lineage, kind: str, name: str
) -> tuple[list[Rows], list[Rows], list[Contribution]]:
    """Find rows to take out, fitted and held out, and the contributions that remain."""
    parts = [
        class_statistics.take_out(store, card, contribution, kind, name)
        for contribution in latest.contributions
    ]
    return (
        [fitted for fitted, _, _ in parts if len(fitted)],
        [held_out for _, held_out, _ in parts if len(held_out)],
        [left for _, _, left in parts if left],
    )
