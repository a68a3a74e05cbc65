"""List the kinds of files of models: features, class statistics, detectors and what they need."""

from collections.abc import Iterable, Iterator

import numpy as np

from storage.batches import features, known_features, ledger, manifests
from storage.batches.kinds import kind_of_attempts, kind_of_files
from storage.kinds import Check, Kind, leases_of
from storage.models import classifiers, detectors, statistics, tunings
from storage.store import Store, StoreError


def _model_checks(store: Store) -> Iterator[Check]:
    for name in store.folders("models", having="card.json"):
        yield Check.of(f"models/{name}", _model, store, name)


def _model(store: Store, name: str) -> None:
    card = classifiers.load_card(store, name)
    classifiers.load_weights(store, card)
    classifiers.load_out_of_fold(store, card)


def _training_checks(store: Store) -> Iterator[Check]:
    for name in store.names(classifiers.TRAININGS):
        yield Check.of(f"{classifiers.TRAININGS}/{name}", classifiers.verify_states, store, name)
    yield from leases_of(store, classifiers.TRAININGS)


def _statistics_checks(store: Store) -> Iterator[Check]:
    for model in store.names("statistics"):
        for version in store.folders("statistics", model, having="lineage.json"):
            path = f"statistics/{model}/{version}"
            yield Check.of(path, _statistics, store, model, int(version.removeprefix("v")))
    yield from leases_of(store, "statistics")


def _statistics(store: Store, model: str, version: int) -> None:
    statistics.load_moments(store, statistics.load_statistics(store, model, version))


def _fitted(store: Store, model: str) -> Iterable[tuple[str, int]]:
    """List the batches that every later fit and retract reads again."""
    latest = statistics.latest_statistics(store, model)
    return [(each.batch, each.attempt) for each in latest.contributions] if latest else []


def _detector_checks(store: Store) -> Iterator[Check]:
    for name in detectors.detector_names(store):
        yield Check.of(f"detectors/{name}", _detector, store, name)


def _detector(store: Store, name: str) -> None:
    card = detectors.load_detector_card(store, name)
    detectors.load_detector(store, card)
    detectors.load_model_of(store, card)
    if card.tuning and card.tuning.tuning:
        tunings.load_tuning(store, card.model, card.tuning.tuning)


def _tuning(store: Store, key: str, model: str) -> None:
    known = tunings.tuning_of(store, manifests.load_batch_of_key(store, key), model)
    if known and known.tuning:
        tunings.load_tuning(store, model, known.tuning)


def _feature_checks(store: Store, key: str) -> Iterator[Check]:
    try:
        batch = manifests.load_batch_of_key(store, key)
    except StoreError:  # reported by the check of the batch
        return
    for model in store.names("batches", key, "ledger"):
        yield from _features_of(store, batch, model)


def _features_of(store: Store, batch: manifests.Batch, model: str) -> Iterator[Check]:
    path = f"features/{model}/{batch.key}.zarr"
    if not store.exists(path):
        # Features may have been removed, unless their batch is in the statistics.
        yield Check.of(path, _not_fitted, store, batch, model)
        return
    yield Check.of(path, _made_by_its_model, store, batch, model)
    done = ledger.complete_shards(store, batch, model)
    for shard in batch.shards():
        record = f"batches/{batch.key}/ledger/{model}/{shard.number:06d}.json"
        if shard.number in done:
            yield Check.of(f"{path} or {record}", _shard, store, batch, model, shard)
        else:
            yield Check.of(record, _not_sealed, store, batch, model)
        record = f"batches/{batch.key}/quarantine/{model}/{shard.number:06d}.json"
        yield Check.of(record, ledger.read_quarantine, store, batch, model, shard)


def _not_fitted(store: Store, batch: manifests.Batch, model: str) -> None:
    if (batch.name, batch.attempt) in _fitted(store, model):
        raise StoreError("it is lost, though its batch is in the statistics: restore it")


def _not_sealed(store: Store, batch: manifests.Batch, model: str) -> None:
    if any(seal.model == model for seal in ledger.list_seals(store, batch)):
        raise StoreError("it is lost, though the report of its batch is sealed: restore it")


def _made_by_its_model(store: Store, batch: manifests.Batch, model: str) -> None:
    card = classifiers.load_card(store, classifiers.model_of(model))
    if features.made_by(store, model, batch.key)[0] != card.digest:
        raise StoreError(f"its features are not those of model {model} (sha256 differs)")


def _shard(store: Store, batch: manifests.Batch, model: str, shard: manifests.Shard) -> None:
    record = ledger.read_shard_record(store, batch, model, shard)
    assert record is not None
    block = known_features.fitted_block(store, model, batch, shard)
    scored = int(np.sum(block.status == features.SCORED))
    if (record.start, record.stop, record.scored) != (shard.start, shard.stop, scored):
        raise StoreError("the ledger's figures are not those of the features: restore it")


KINDS = (
    Kind("models", checks=_model_checks),
    Kind(classifiers.TRAININGS, checks=_training_checks),
    Kind("statistics", checks=_statistics_checks, needed=_fitted),
    Kind("detectors", checks=_detector_checks),
    kind_of_files(tunings.FOLDER, tunings.FOLDER, _tuning),
    kind_of_attempts("features", _feature_checks),
)
