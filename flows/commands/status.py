"""Run the commands `status` and `verify`: list the contents of a store, and check them."""

from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from flows.monitoring.console import noting
from flows.options.tools import Status, Verify
from flows.outcome import DamageOutcome, shown_width
from flows.settings import Settings
from storage.batches import ledger, manifests
from storage.batches.kinds import batch_checks
from storage.kinds import all_checks
from storage.models.classifiers import list_models
from storage.models.detectors import DetectorCard, list_detectors
from storage.models.statistics import list_statistics, version_name
from storage.records import Tell
from storage.reports.kinds import calls_by_persons
from storage.reports.tables import is_withdrawn, newest_batches
from storage.store import Store, refuse_absent
from tasks.words import counted

Row = dict[str, Any]
NIGHTS = 14  # batches whose light and patients are shown
LEARN_IT = "fit again to have it"
# Columns at a terminal; JSON has more.
OF_A_DETECTOR = (
    "detector", "created", "trained on", "accuracy", "calibrated by", "learned", "warnings",
)  # fmt: skip
OF_A_BATCH = (
    "batch", "date", "images", "light", "positive patients", "abnormal", "failed", "detector",
)  # fmt: skip


class StatusOutcome(DamageOutcome):
    """The models, statistics, detectors and batches of a store, oldest first."""

    store: str
    models: list[Row]
    statistics: list[Row]
    detectors: list[Row]
    batches: list[Row]

    def _text(self) -> str:
        unfinished = [{} if row["complete"] else {"light": "unfinished"} for row in self.batches]
        batches = [
            row | more | {"positive patients": _positive(row["patients"], row["persons"])}
            for row, more in zip(self.batches, unfinished, strict=True)
        ]
        detectors = _drawn("detectors", self._detectors(), OF_A_DETECTOR)
        tables = [*detectors, *_drawn("batches", batches, OF_A_BATCH)]
        return "\n".join([f"store {self.store}", *tables])

    def _detectors(self) -> list[Row]:
        """Describe each detector with its model, and each model that has none yet."""
        models = {row["model"]: row for row in self.models}
        fitted = {row["model"] for row in self.detectors}
        return [models.get(row["model"], {}) | row for row in self.detectors] + [
            row | {"detector": f"none of model {name}: slidewatch fit makes one"}
            for name, row in models.items()
            if name not in fitted
        ]


def _drawn(title: str, rows: list[Row], columns: tuple[str, ...]) -> list[str]:
    if not rows:
        return [f"no {title}"]
    out = StringIO()
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in columns))
    Console(file=out, width=shown_width()).print(table)
    return [line.rstrip() for line in out.getvalue().rstrip().splitlines()]


def status(options: Status, settings: Settings) -> StatusOutcome:
    """List the readable records of a store, and name the damaged ones."""
    store = Store(settings.store)
    refuse_absent(store)
    damaged: list[str] = []
    leave_out = noting(damaged)
    models = list_models(store, leave_out)
    versions = [
        version for card in models for version in list_statistics(store, card.name, leave_out)
    ]
    return StatusOutcome(
        store=settings.store,
        models=[
            {
                "model": card.name,
                "created": f"{card.created_at:%Y-%m-%d %H:%M}",
                "network": card.network["network"],
                "arithmetic": card.arithmetic,
                **{name: card.metrics.get(name, {}).get("value") for name in ("accuracy", "AUROC")},
                "trained on": {card.split_by: len(card.split["train"])},
            }
            for card in models
        ],
        statistics=[
            {
                "model": version.model,
                "version": version_name(version.version),
                "created": f"{version.created_at:%Y-%m-%d %H:%M}",
                "made by": version.operation,
                "images": version.images,
            }
            for version in versions
        ],
        detectors=[
            {
                "detector": card.name,
                "model": card.model,
                "created": f"{card.created_at:%Y-%m-%d %H:%M}",
                "calibrated by": {card.calibrated_by: card.calibrating_groups},
                "alpha": card.alpha,
                "limits of a smear": limits_of(card),
                "witnesses": "network" if card.witnesses is None else "network, statistics",
                "warnings": len(card.warnings) or None,
                **_learned(card),
            }
            for card in list_detectors(store, leave_out, models)
        ],
        batches=_batch_rows(store, leave_out),
        damaged=damaged,
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return ", ".join(counted(number, noun) for noun, number in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def limits_of(card: DetectorCard) -> str | None:
    """Write what the limits of a smear were learned from; None if cells have no slides."""
    if card.slides is None:
        return None
    return f"{card.floor.slides} altered slides" if card.floor else LEARN_IT


def _learned(card: DetectorCard) -> Row:
    learned = card.learned
    if learned is None:
        return {"parent": None, "learned": None}
    return {
        "parent": card.parent,
        "made by": learned.operation,
        "learned": {"batch": len(learned.nights), "slide": learned.slides, "cell": learned.cells},
        "called abnormal": learned.alarms_text,
        "negative slides": card.counting and card.counting.counting.false_positives.slides,
    }


def _batch_rows(store: Store, leave_out: Tell) -> list[Row]:
    """Make a row for each batch; the last `NIGHTS` have their light and patients."""
    batches = manifests.list_batches(store, leave_out)
    last = {batch.name for batch in batches[-NIGHTS:]}
    nights = {row["batch"]: row for row, _ in newest_batches(store, last.__contains__, leave_out)}
    persons = calls_by_persons(store, {batch.name for batch in batches})
    return [
        _batch_row(store, batch, nights.get(batch.name), persons.get(batch.name, {}), leave_out)
        for batch in batches
    ]


def _batch_row(
    store: Store,
    batch: manifests.Batch,
    night: Row | None,
    persons: dict[str, int],
    leave_out: Tell,
) -> Row:
    is_published = not is_withdrawn(store, batch.name, batch.batch_date)
    seals = ledger.list_seals(store, batch, leave_out) if is_published else []
    shards = len(list(batch.shards()))
    models = store.names("batches", batch.key, "ledger")
    done = [len(ledger.complete_shards(store, batch, model)) for model in models]
    extracted, seal = max(done, default=0), seals[-1] if seals else None
    return {
        "batch": batch.name,
        "date": batch.batch_date.isoformat(),
        "images": batch.rows,
        "shards": shards,
        "extracted": extracted,
        "complete": extracted == shards,
        **{name: seal and getattr(seal, name) for name in ("detector", "failed", "abnormal")},
        "light": night["light"] if night and seals else None,
        "patients": dict(night["patient_calls"] or ()) if night and seals else None,
        "persons": persons if seals else None,
    }


def _positive(calls: dict[str, int] | None, persons: dict[str, int] | None) -> str | None:
    if not calls:
        return None
    by_persons = f" ({persons.get('positive', 0):,} by persons)" if persons else ""
    return f"{calls.get('positive', 0):,} of {sum(calls.values()):,}{by_persons}"


class VerifyOutcome(DamageOutcome):
    """The number of things compared, and a line for each that is damaged."""

    store: str
    compared: int

    def _text(self) -> str:
        damage = f"{len(self.damaged):,} damaged" if self.damaged else "nothing is damaged"
        done = f"store {self.store}: {counted(self.compared, 'thing')} compared, {damage}"
        return "\n".join([done, *self.damaged])


def verify(options: Verify, settings: Settings) -> VerifyOutcome:
    """Check everything, or one batch."""
    store = Store(settings.store)
    refuse_absent(store)
    compared, damaged = 0, []
    for check in batch_checks(store, options.batch) if options.batch else all_checks(store):
        compared += 1
        try:
            check.verify()
        except Exception as error:  # a check that breaks is a finding, not a crash
            damaged.append(f"{check.path}: {' '.join(str(error).split())}")
    return VerifyOutcome(store=settings.store, compared=compared, damaged=damaged)
