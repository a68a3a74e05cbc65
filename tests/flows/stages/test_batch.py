"""A batch that goes on after an upgrade, and a model that was trained before one."""

from collections.abc import Iterator

import pytest

from flows.commands import doctor as doctor_module
from flows.commands.doctor import doctor
from flows.options.tools import Doctor
from flows.settings import Settings
from flows.stages import batch as module
from storage.batches.ledger import read_shard_record, write_shard_record
from storage.batches.manifests import Batch
from storage.models.classifiers import load_card, save_model
from storage.store import Store
from tests.support.shards import Night


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    monkeypatch.setattr(module, "warn", heard.append)
    monkeypatch.setattr(module, "prepare_features", lambda *_, **__: None)

    def nothing(*_: object, **__: object) -> Iterator[None]:
        return iter(())

    monkeypatch.setattr(module, "run_jobs", nothing)
    return heard


def go_on(night: Night) -> None:
    list(module.run_shards(None, night.store, night.batch, night.card, [], "test"))  # type: ignore[arg-type]


def remade(night: Night, batch: Batch, versions: dict[str, str]) -> None:
    record = read_shard_record(night.store, batch, "tiny", next(batch.shards()))
    assert record is not None
    made = record.model_copy(update={"versions": versions})
    write_shard_record(night.store, batch, "tiny", made)


def test_a_batch_that_goes_on_with_other_libraries_says_so_once(
    night: Night, told: list[str]
) -> None:
    go_on(night)
    night.run()
    go_on(night)
    assert told == []
    remade(night, night.batch, {"python": "3.1", "torch": "0.4.1"})
    go_on(night)
    (text,) = told
    assert "batch night was begun with other libraries (python was 3.1" in text
    assert "torch was 0.4.1" in text


def test_a_model_of_another_pytorch_is_told_of(
    store_with_model: Store, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor_module, "_cluster", lambda settings: (True, "not looked at"))
    card = load_card(store_with_model, "tiny")
    module.warn_of_model(card)
    assert told == []
    made = {"name": "old", "sequence": 1, "versions": {"torch": "0.4.1"}}
    old = card.model_copy(update=made)
    save_model(store_with_model, old, store_with_model.read_bytes("models/tiny/model.safetensors"))
    module.warn_of_model(old)
    (text,) = told
    assert "model old was trained with another PyTorch (torch was 0.4.1, and is" in text
    found = {
        check.name: check for check in doctor(Doctor(), Settings(store=store_with_model.url)).checks
    }
    assert "torch was 0.4.1" in found["model"].found
