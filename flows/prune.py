"""Run the flow `prune`: remove features and reports by their age."""

from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta

from pydantic import Field

from flows.monitoring import console, telemetry
from flows.options.flows import Prune
from flows.outcome import DamageOutcome, table
from flows.prefect.decorators import flow
from flows.settings import Settings
from flows.stages.batch import lease_batch
from storage.leases import HeldByOtherError, sweep
from storage.records import now
from storage.retention import Removable, expired_features, expired_reports, newest_record
from storage.store import Store, refuse_absent
from tasks.words import counted

# Between two batches of a store that is in use; a clock that is further ahead may be wrong.
LONGEST_PAUSE = timedelta(days=60)
Find = Callable[[str | None], Iterable[Removable]]  # expired data of all batches or one


class PolicyError(Exception):
    """A policy would remove reports before the features that they were made of."""


class ClockError(Exception):
    """The clock of this machine may be wrong, and everything would seem old by it."""


class PruneOutcome(DamageOutcome):
    """The files that went, or would; ``features`` and ``reports`` are the days they stay."""

    applied: bool
    features: int
    reports: int | None
    removed: dict[str, list[str]] = Field({})
    bytes: int = 0
    busy: list[str] = Field([])
    swept: int = 0

    def _text(self) -> str:
        done = "removed" if self.applied else "would remove"
        rows: list[tuple[str, object]] = [
            (what, f"{counted(len(batches), 'batch')}: {', '.join(batches)}")
            for what, batches in self.removed.items()
        ]
        if self.busy:
            rows.append(("left, because runs work on them", ", ".join(self.busy)))
        if self.swept:
            rows.append(("half-written by killed runs", f"{self.swept:,} files or folders"))
        if not rows:
            kept = "forever" if self.reports is None else f"{counted(self.reports, 'day')}"
            days = counted(self.features, "day")
            return f"nothing is old enough to remove: features are kept {days}, reports {kept}"
        hint = "" if self.applied else "\nnothing is removed yet: run it again with --apply"
        return f"{done} {self.bytes / 2**20:,.1f} MiB\n{table(rows)}{hint}"


@flow()
@telemetry.observed()
def prune(options: Prune, settings: Settings) -> PruneOutcome:
    """Nothing is removed of a batch that a run works on.

    PolicyError if reports are to go before features; ClockError if the clock is far ahead of the
    newest record, and nobody has confirmed it.
    """
    if options.reports is not None and options.reports < options.features:
        raise PolicyError(
            f"reports would be kept for {options.reports} days, and the features that they were "
            f"made of for {options.features}: give --reports no less than --features"
        )
    store = Store(settings.store)
    refuse_absent(store)
    moment = now()
    if options.apply:
        _refuse_wrong_clock(store, moment, options.today)
    outcome = PruneOutcome(
        applied=options.apply, features=options.features, reports=options.reports
    )

    def leave(text: str) -> None:
        if text not in outcome.damaged:
            outcome.damaged.append(text)
            console.warn(text)

    def take(find: Find) -> None:
        for removable in list(find(None)):
            size = sum(int(store.fs.du(store.path(*path))) for path in removable.paths)
            if options.apply and not _remove(store, removable, find):
                outcome.busy.append(removable.batch.name)
                continue
            outcome.bytes += size
            outcome.removed.setdefault(removable.what, []).append(removable.batch.key)

    take(
        lambda only: expired_features(store, moment - timedelta(days=options.features), only, leave)
    )
    if options.reports is not None:
        day = moment.date() - timedelta(days=options.reports)
        take(lambda only: expired_reports(store, day, only, leave))
    if options.apply:
        outcome.swept = sweep(store)
    return outcome


def _refuse_wrong_clock(store: Store, moment: datetime, today: date | None) -> None:
    newest = newest_record(store, moment)
    if newest is None or moment - newest <= LONGEST_PAUSE or today == moment.date():
        return
    if today is not None:
        raise ClockError(f"--today {today}: the clock of this machine says {moment:%Y-%m-%d}")
    raise ClockError(
        f"the clock of this machine says {moment:%Y-%m-%d}, and the newest record of the store is "
        f"of {newest:%Y-%m-%d}: nothing was removed. Set the clock, or, if it is right, confirm "
        f"its date with --today {moment:%Y-%m-%d}"
    )


def _remove(store: Store, removable: Removable, find: Find) -> bool:
    """Remove something unless a run works on its batch or needs it by now; return if it is gone."""
    try:
        with lease_batch(store, removable.batch.name, wait=False) as held:
            if removable not in find(removable.batch.name):
                return False
            held.check()
            for path in removable.paths:
                held.store.remove(*path)
    except HeldByOtherError:
        return False
    return True
