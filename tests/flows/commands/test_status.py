from pathlib import Path

import pytest

from flows.commands import status as module
from flows.commands.status import status
from flows.options.tools import Status
from flows.settings import Settings
from storage.models.classifiers import list_models, load_card
from storage.store import Store
from tests.support.batches import freeze, manifest
from tests.system.golden.make_golden import write_store


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("batches/bad/batch.json", "batches"),
        ("detectors/golden/card.json", "detectors"),
        ("models/golden/card.json", "models"),
        ("statistics/golden/v0001/lineage.json", "statistics"),
    ],
)
def test_what_is_damaged_is_named_and_the_rest_is_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
) -> None:
    write_store(store)
    card = load_card(store, "golden")
    made = {"network": card.network | {"network": "timm:test"}, "metrics": {}}
    card.model_copy(update=made).write(store, "models", "golden", "card.json")
    freeze(store, manifest(2), "bad")
    told: list[str] = []
    monkeypatch.setattr("flows.monitoring.console.warn", told.append)
    whole = status(Status(), Settings(store=store.url))
    assert told == []
    Path(store.path(path)).write_bytes(store.read_bytes(path)[:-9])
    found = status(Status(), Settings(store=store.url))
    assert len(getattr(found, kind)) == len(getattr(whole, kind)) - 1
    assert len(told) == 1
    assert path in told[0]
    assert found.damaged == told
    assert (whole.failed, found.failed) == (False, True)
    assert len(list_models(store, on_damage=told.append)) == len(found.models)


def test_a_damaged_seal_is_named_and_its_batch_shown_without_a_report(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(store)
    (seal,) = store.fs.glob(store.path("batches", "*", "sealed", "*.json"))
    Path(seal).write_text("{")
    monkeypatch.setattr("flows.monitoring.console.warn", lambda _: None)
    monkeypatch.setattr(module, "list_models", lambda *_: [])
    found = status(Status(), Settings(store=store.url))
    assert [row["detector"] for row in found.batches] == [None]
    (told,) = found.damaged
    assert seal in told


def test_a_night_shows_its_light_and_its_positive_patients(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(store)
    monkeypatch.setattr(module, "list_models", lambda *_: [])
    (row,) = status(Status(), Settings(store=store.url)).batches
    assert row["light"] in {"green", "amber", "red"}
    numbers = [row[name] for name in ("images", "shards", "extracted")]
    assert all(type(each) is int for each in numbers)
    calls = {"positive": 2, "negative": 1200}
    assert module._positive(calls, {}) == "2 of 1,202"
    assert module._positive(calls, {"positive": 1}) == "2 of 1,202 (1 by persons)"
    assert module._positive(None, {}) is None


def test_a_terminal_shows_what_a_newcomer_knows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(store)
    card = load_card(store, "golden")
    made = {"network": card.network | {"network": "timm:test"}, "metrics": {}}
    cards = [card.model_copy(update=made)]
    monkeypatch.setattr(module, "list_models", lambda *_: cards)
    found = status(Status(), Settings(store=store.url))
    text = found.text()
    assert all(
        word in text for word in ("detectors", "kampala-v0001", "1 batch, 2 slides", "batches")
    )
    assert found.batches[0]["date"] in text
    assert not any(word in text for word in ("shard", "alpha", "statistics", "unfinished"))
    assert found.detectors[0]["alpha"] is not None  # in --json
    found.batches[0]["complete"] = False
    found.detectors.clear()
    text = found.text()
    assert "unfinished" in text
    assert "none of model golden: slidewatch fit" in " ".join(text.split())
