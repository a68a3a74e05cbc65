"""Slides that are said to be negative, and look positive."""

from datetime import date
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.jobs.fitting.unseen import key_of
from flows.smears.commissioning import laboratory, nights
from storage.store import Store
from tasks.detector.error_counts import ErrorCounts, count_errors
from tasks.smears.counting.call import Interpreter
from tasks.smears.counting.error_rates import known_rates, laboratory_rates
from tasks.smears.counting.interpretation import KnownRates, chance_of_blank

BATCH: Any = SimpleNamespace(name="night", batch_date=date(2026, 3, 2))
DETECTOR: Any = SimpleNamespace(name="d")


def counts(seed: int, shares: list[float], n: int = 400) -> ErrorCounts:
    """Slides of so many cells, of which a share looks like parasites."""
    rng = np.random.default_rng(seed)
    odds, names = [], []
    for number, share in enumerate(shares):
        odds.append(np.where(rng.random(n) < share, 8.0, -8.0))
        names += [key_of(f"P{number}", None, "")] * n
    return count_errors(np.concatenate(odds), np.zeros(len(names), bool), names)


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rates of fitted slides, of whose healthy cells one in two hundred is counted."""
    rng = np.random.default_rng(0)
    parasitized = rng.random(8000) < 0.3
    odds = np.where(parasitized, 8.0, np.where(rng.random(8000) < 0.005, 8.0, -8.0))
    fitted = count_errors(odds, parasitized, [f"S{i % 20}" for i in range(8000)])
    known = known_rates(fitted, 1000)
    monkeypatch.setattr(nights, "load_error_rates", lambda *_: known)
    wide = laboratory_rates(fitted, ErrorCounts.empty(), known.counting.log_odds)
    elsewhere = Interpreter(KnownRates(wide, wide), 0.0)
    monkeypatch.setattr(nights, "interpreter_elsewhere", lambda *_: elsewhere)
    assert chance_of_blank(0, 400, known.counting) == 1.0
    assert chance_of_blank(3, 400, known.counting) > 0.05
    assert chance_of_blank(60, 400, known.counting) < 1e-6


def test_slides_that_look_positive_are_not_negative_because_all_are_said_to_be(
    store: Store,
) -> None:
    night = counts(1, [0.005] * 13 + [0.1, 0.15, 0.3, 0.2, 0.1, 0.12, 0.2])
    with pytest.raises(
        laboratory.LaboratoryError,
        match=r"7 of 20 patients .* where 0\.\d+% is usual: P15 .*%, P\d+ .*, \.\.\.",
    ):
        nights.refuse_positive(store, BATCH, DETECTOR, night, ("all",))


def test_nobody_is_negative_in_whom_persons_found_parasites(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pa.table({"slide_id": ["s"], "patient_id": ["P0"], "person_call": ["positive"]})
    monkeypatch.setattr(nights, "read_manifest", lambda *_, columns: rows.select(columns[:2]))
    monkeypatch.setattr(nights, "find_report", lambda *_: rows)
    for given in ("P0", "s", "all"):
        with pytest.raises(laboratory.LaboratoryError, match="found parasites in P0"):
            nights.negative_of(store, BATCH, (given,))


def test_a_patient_said_to_be_negative_by_name_may_look_worse_but_not_infected(
    store: Store,
) -> None:
    """Laboratories differ: 2 in 100 healthy cells are counted at some, 15 hardly anywhere."""
    names = ("P0", "P1", "P2")
    nights.refuse_positive(store, BATCH, DETECTOR, counts(1, [0.005, 0.02, 0.02]), names)
    with pytest.raises(
        laboratory.LaboratoryError, match=r"1 of 3 .*: P1 1\d.\d%. Look .* out of --neg"
    ):
        nights.refuse_positive(store, BATCH, DETECTOR, counts(1, [0.005, 0.15, 0.02]), names)
    with pytest.raises(laboratory.LaboratoryError, match="P1 1"):  # nor with all
        nights.refuse_positive(store, BATCH, DETECTOR, counts(1, [0.005, 0.15, 0.02]), ("all",))
    for others in ((), ("P0", "P2")):  # P1 has cells that are labelled healthy, and nobody names it
        nights.refuse_positive(store, BATCH, DETECTOR, counts(1, [0.005, 0.15, 0.02]), others)


def test_a_night_of_called_cells_is_not_healthy_however_wide_the_rates_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nights, "chance_of_blank", lambda *_: 1.0)
    with pytest.raises(laboratory.LaboratoryError, match=r"P0 .*%"):
        nights.refuse_positive(store, BATCH, DETECTOR, counts(1, [0.3] * 8), ("all",))
    nights.refuse_positive(store, BATCH, DETECTOR, counts(1, [0.02] * 8), ("all",))


def test_healthy_slides_are_believed(store: Store) -> None:
    for seed in range(20):
        nights.refuse_positive(store, BATCH, DETECTOR, counts(seed, [0.005] * 20), ("all",))
    nights.refuse_positive(store, BATCH, DETECTOR, ErrorCounts.empty(), ("all",))
