"""What is old and may go, and what must stay."""

from datetime import date, datetime, timedelta
from pathlib import Path

import pytest

from flows import prune as module
from flows.fit import FitOutcome, fit
from flows.options.flows import Fit, Prune, Retract, Screen
from flows.prune import ClockError, PolicyError, prune
from flows.retract import retract
from flows.settings import Settings
from flows.smears.night import screen
from storage.batches.ledger import list_seals
from storage.batches.manifests import load_batch
from storage.leases import lease
from storage.records import now
from storage.reports.tables import FIELDS, report_path
from storage.retention import newest_record
from storage.store import Store
from tests.support.fitted import copied
from tests.support.images import write_cells

TODAY = date(2026, 3, 1)


@pytest.fixture(scope="module")
def prepared(
    fitted: tuple[Settings, FitOutcome], images: Path, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of a store with a fitted batch and two screened ones; their cells lie beside it."""
    root = tmp_path_factory.mktemp("prepared")
    settings = copied(fitted[0], root / "store")
    for name, first, day in (("one", 51, TODAY), ("two", 61, TODAY + timedelta(days=20))):
        write_cells(root / name, 1, 12, seed=first, first=first)
        screen.fn(Screen(images=str(root / name), batch=name, date=day), settings)
    # Fitted and screened: its features are in the statistics.
    screen.fn(Screen(images=str(images / "smears"), batch="first"), settings)
    return settings


@pytest.fixture
def settings(prepared: Settings, tmp_path: Path) -> Settings:
    """Settings of a store of one's own."""
    return copied(prepared, tmp_path / "store")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 days have passed since everything was computed."""
    monkeypatch.setattr(module, "now", lambda: now() + timedelta(days=40))


def on(monkeypatch: pytest.MonkeyPatch, day: date) -> None:
    moment = datetime.combine(day, now().timetz())
    monkeypatch.setattr(module, "now", lambda: moment)


def files(settings: Settings) -> dict[str, bytes]:
    root = Path(settings.store)
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and "lease" not in path.parts
    }


def test_nothing_goes_before_its_time(settings: Settings) -> None:
    before = files(settings)
    outcome = prune.fn(Prune(features=30, reports=30, apply=True), settings)
    # Reports go by the day of the batch, which is the first of March.
    assert "features under m" not in outcome.removed
    assert {k for k in files(settings) if k.startswith("features")} == {
        k for k in before if k.startswith("features")
    }


def test_a_clock_far_ahead_of_the_store_removes_nothing_until_its_date_is_confirmed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, date(2040, 1, 1))
    before = files(settings)
    assert prune.fn(Prune(reports=30), settings).removed  # listing asks nobody
    with pytest.raises(ClockError, match=r"2040-01-01, and .* confirm its date with --today 2040"):
        prune.fn(Prune(reports=30, apply=True), settings)
    with pytest.raises(ClockError, match=r"--today 2026-01-01: the clock of this machine says 20"):
        prune.fn(Prune(apply=True, today=date(2026, 1, 1)), settings)
    assert files(settings) == before
    outcome = prune.fn(Prune(apply=True, today=date(2040, 1, 1)), settings)
    assert outcome.removed == {"features under m": ["one", "two"]}


def test_a_record_of_the_future_hides_no_wrong_clock(settings: Settings) -> None:
    store = Store(settings.store)
    newest = newest_record(store, now())
    assert newest is not None
    batch = load_batch(store, "one")
    path = ("batches", "one", "batch.json")
    store.write_json(
        store.read_json(*path) | {"started_at": (now() + timedelta(days=5000)).isoformat()}, *path
    )
    assert newest_record(store, now()) == newest
    assert batch.started_at <= newest


def test_it_only_lists_unless_it_is_told_to_remove(settings: Settings, later: None) -> None:
    before = files(settings)
    outcome = prune.fn(Prune(), settings)
    assert outcome.removed == {"features under m": ["one", "two"]}
    assert outcome.bytes > 0
    assert "--apply" in outcome.text()
    assert files(settings) == before


def test_features_go_and_all_that_was_concluded_from_them_stays(
    settings: Settings, prepared: Settings, later: None
) -> None:
    before = files(settings)
    outcome = prune.fn(Prune(apply=True), settings)
    after = files(settings)
    gone = before.keys() - after.keys()
    assert gone == {k for k in before if k.startswith(("features/m/one.", "features/m/two."))}
    assert all(after[name] == before[name] for name in after)
    assert outcome.bytes == sum(len(before[name]) for name in gone)
    images = Path(prepared.store).parent
    assert screen.fn(Screen(images=str(images / "one"), batch="one"), settings).repeated
    # What is in the statistics can still be added to and taken out.
    fit.fn(Fit(images=str(images / "one"), batch="more"), settings)
    retract.fn(Retract(batch="first"), settings)
    assert prune.fn(Prune(apply=True), settings).removed == {"features under m": ["first"]}


def test_a_batch_whose_features_went_can_be_scored_anew(
    settings: Settings, prepared: Settings, later: None
) -> None:
    images = Path(prepared.store).parent
    first = screen.fn(Screen(images=str(images / "one"), batch="one"), settings)
    before = files(settings)
    prune.fn(Prune(apply=True), settings)
    Path(first.report).unlink()
    again = screen.fn(Screen(images=str(images / "one"), batch="one"), settings)
    assert not again.repeated
    report = str(Path(first.report).relative_to(settings.store))
    assert files(settings)[report] == before[report]


def test_reports_go_later_and_the_history_of_nights_stays(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, TODAY + timedelta(days=40))
    # As a batch of whole fields has it.
    Store(settings.store).write_bytes(b"fields", *report_path("one", TODAY, FIELDS))
    before = files(settings)
    monkeypatch.setattr(module, "expired_features", lambda *_: [])
    outcome = prune.fn(Prune(features=30, reports=30, apply=True), settings)
    assert outcome.removed == {"report and page": ["one"]}
    gone = before.keys() - files(settings).keys()
    assert sorted(gone) == [
        "reports/fields/batch_date=2026-03-01/one.parquet",
        "reports/html/one.html",
        "reports/images/batch_date=2026-03-01/one.parquet",
        "reports/patients/batch_date=2026-03-01/one.parquet",
        "reports/slides/batch_date=2026-03-01/one.parquet",
    ]
    assert prune.fn(Prune(features=30, reports=30, apply=True), settings).removed == {}


def test_what_a_damaged_record_hides_stays_and_the_rest_goes(
    settings: Settings, later: None
) -> None:
    batch = Path(settings.store) / "batches" / "one" / "batch.json"
    batch.write_text("{")
    outcome = prune.fn(Prune(apply=True), settings)
    assert outcome.removed == {"features under m": ["two"]}
    assert outcome.failed
    assert len(outcome.damaged) == 1
    assert str(batch) in outcome.damaged[0]
    lineage = Path(settings.store) / "statistics" / "m" / "v0001" / "lineage.json"
    lineage.write_text("{")
    outcome = prune.fn(Prune(apply=True), settings)
    assert outcome.removed == {}
    assert str(lineage) in outcome.damaged[0]


def test_reports_do_not_go_before_features(settings: Settings) -> None:
    with pytest.raises(PolicyError, match="no less than --features"):
        prune.fn(Prune(features=30, reports=7), settings)


def test_a_batch_that_is_not_finished_or_being_worked_on_stays(
    settings: Settings, later: None
) -> None:
    store = Store(settings.store)
    with lease(store, "batches", "one"):
        outcome = prune.fn(Prune(apply=True), settings)
    assert (outcome.removed, outcome.busy) == ({"features under m": ["two"]}, ["one"])
    assert "runs work on them" in outcome.text()
    (seal,) = list_seals(store, load_batch(store, "one"))
    store.remove("batches", "one", "sealed", f"{seal.detector}.json")
    assert prune.fn(Prune(apply=True), settings).removed == {}
