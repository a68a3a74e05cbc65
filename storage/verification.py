"""Compare the contents of a store with the digests and checksums that it keeps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial

import numpy as np

from storage.batches.features import SCORED, made_by
from storage.batches.known_features import fitted_block
from storage.batches.ledger import (
    Seal,
    complete_shards,
    is_announced,
    list_seals,
    read_quarantine,
    read_seal,
    read_shard_record,
    screening_start,
)
from storage.batches.manifests import (
    Batch,
    Shard,
    list_batches,
    load_batch_of_key,
    verify_manifest,
)
from storage.batches.nights import list_nights, manifest_address
from storage.batches.segmentations import FOLDER as SEGMENTATIONS
from storage.batches.segmentations import verify_segmentation
from storage.leases import LeaseRecord
from storage.models.classifiers import load_card, load_weights
from storage.models.detectors import detector_names, load_detector, load_detector_card
from storage.models.laboratories import FOLDER as LABORATORIES
from storage.models.laboratories import (
    laboratory_versions,
    load_laboratory_arrays,
    load_laboratory_version,
    load_night,
)
from storage.models.out_of_fold import load_out_of_fold
from storage.models.statistics import (
    latest_statistics,
    load_moments,
    load_statistics,
    version_name,
)
from storage.models.trainings import FOLDER as TRAININGS
from storage.models.trainings import verify_states
from storage.parquet import read_footer, read_table
from storage.reports.answers import FOLDER as ANSWERS
from storage.reports.answers import LABELS, verify_answers, verify_labels
from storage.reports.evaluations import FOLDER as EVALUATIONS
from storage.reports.evaluations import evaluation_files, verify_evaluation_file
from storage.reports.pages import (
    ANEW,
    HEAD,
    HTML,
    check_page,
    index_path,
    made_from,
    page_names,
    page_path,
    withdrawn_page,
)
from storage.reports.tables import (
    BATCHES,
    FIELDS,
    IMAGES,
    PATIENTS,
    SLIDES,
    is_withdrawn,
    report_digest,
    report_path,
)
from storage.store import Store, StoreError, check_name, which

SEALED_AS: dict[str, Callable[[Seal], str | None]] = {
    IMAGES: lambda seal: seal.report_digest,
    SLIDES: lambda seal: seal.slides_digest,
    PATIENTS: lambda seal: seal.patients_digest,
    BATCHES: lambda seal: seal.batch_digest,
    FIELDS: lambda seal: seal.fields_digest,
}

# Folders whose entries may each have a lease.
LEASED = ("batches", EVALUATIONS, "nights", SEGMENTATIONS, LABORATORIES, "statistics", TRAININGS)

FIGURES = ("scored", "abnormal", "review", "failures")  # in a seal and in a batch's row


@dataclass(frozen=True)
class Check:
    """One thing to compare, by its path in the store; ``verify`` raises if it is damaged."""

    path: str
    verify: Callable[[], object]


def all_checks(store: Store) -> Iterator[Check]:
    """List the checks of everything in a store."""
    for name in store.folders("models", having="card.json"):
        yield Check(f"models/{name}", partial(_model, store, name))
    for model in store.names("statistics"):
        for version in store.folders("statistics", model, having="lineage.json"):
            path = f"statistics/{model}/{version}"
            yield Check(path, partial(_statistics, store, model, version))
    for name in detector_names(store):
        yield Check(f"detectors/{name}", partial(_detector, store, name))
    for name in store.names(LABORATORIES):
        for number in laboratory_versions(store, name):
            path = f"{LABORATORIES}/{name}/{version_name(number)}"
            yield Check(path, partial(_laboratory, store, name, number))
    for name in store.names(TRAININGS):
        yield Check(f"{TRAININGS}/{name}", partial(verify_states, store, name))
    for name in store.names(EVALUATIONS):
        for path in evaluation_files(store, name):
            yield Check(path, partial(verify_evaluation_file, store, path))
    for series in store.names("nights"):
        yield Check(f"nights/{series}", partial(_nights, store, series))
    for name in store.folders(SEGMENTATIONS, having="segmentation.json"):
        yield Check(f"{SEGMENTATIONS}/{name}", partial(verify_segmentation, store, name))
    for batch in store.names(LABELS):
        yield from _review_checks(store, batch)
    for key in store.names(ANSWERS):
        yield from _reading_checks(store, key)
    for key in store.folders("batches", having="batch.json"):
        yield from _batch_checks(store, key)
    yield from _report_checks(store, None)
    yield from _page_checks(store, None)
    for folder in LEASED:
        for name in store.names(folder):
            yield from _lease_checks(store, folder, name)
    for folder in (LABELS, "reports"):
        yield from _lease_checks(store, folder)


def batch_checks(store: Store, name: str) -> Iterator[Check]:
    """List the checks of every attempt at a batch, and of its reports.

    Raises:
        StoreError: there is no such batch.
    """
    check_name("batch", name)
    keys = _attempts(store, name)
    if not keys:
        have = [batch.name for batch in list_batches(store, on_damage=lambda _: None)]
        raise StoreError(f"no batch {name!r} in {store.url}; {which(name, have)}")
    for key in keys:
        yield from _batch_checks(store, key)
        yield from _reading_checks(store, key)
    yield from _report_checks(store, name)
    yield from _page_checks(store, name)
    yield from _review_checks(store, name)
    yield from _lease_checks(store, "batches", name)


def _attempts(store: Store, name: str) -> list[str]:
    keys = store.folders("batches", having="batch.json")
    return [key for key in keys if key.partition("~")[0] == name]


def _seals(store: Store, name: str) -> list[Seal]:
    """List the seals of all attempts at a batch."""
    batches = [load_batch_of_key(store, key) for key in _attempts(store, name)]
    return [seal for batch in batches for seal in list_seals(store, batch)]


def _model(store: Store, name: str) -> None:
    card = load_card(store, name)
    load_weights(store, card)
    load_out_of_fold(store, card)


def _statistics(store: Store, model: str, version: str) -> None:
    load_moments(store, load_statistics(store, model, int(version.removeprefix("v"))))


def _detector(store: Store, name: str) -> None:
    load_detector(store, load_detector_card(store, name))


def _laboratory(store: Store, name: str, version: int) -> None:
    card = load_laboratory_version(store, name, version)
    load_laboratory_arrays(store, card)
    for night in card.nights:
        load_night(store, name, night)


def _nights(store: Store, series: str) -> None:
    for night in list_nights(store, series):
        manifest_address(store, night)


def _batch_checks(store: Store, key: str) -> Iterator[Check]:
    folder = f"batches/{key}"
    yield Check(f"{folder}/batch.json", partial(load_batch_of_key, store, key))
    try:
        batch = load_batch_of_key(store, key)
    except StoreError:  # reported by that check
        return
    yield Check(f"{folder}/manifest.parquet", partial(_manifest, store, batch))
    for file in store.names("batches", key, "sealed"):
        detector = file.removesuffix(".json")
        yield Check(f"{folder}/sealed/{file}", partial(_seal, store, batch, detector))
    for file in store.names("batches", key, "screenings"):
        detector = file.removesuffix(".json")
        path = f"{folder}/screenings/{file}"
        yield Check(path, partial(screening_start, store, batch, detector))
    for file in store.names("batches", key, "announced"):
        path = f"{folder}/announced/{file}"
        yield Check(path, partial(_announced, store, batch, file.removesuffix(".json")))
    for model in store.names("batches", key, "ledger"):
        yield from _feature_checks(store, batch, model)


def _manifest(store: Store, batch: Batch) -> None:
    verify_manifest(store, batch)
    rows = read_footer(store, "batches", batch.key, "manifest.parquet").num_rows
    if rows != batch.rows:
        raise StoreError(f"it has {rows} rows, but batch.json says {batch.rows}")


def _seal(store: Store, batch: Batch, detector: str) -> None:
    """Compare a seal's figures with the batch and with the report that it seals."""
    seal = read_seal(store, batch, detector)
    assert seal is not None
    if (seal.batch, seal.rows, seal.scored + seal.failed) != (batch.name, batch.rows, batch.rows):
        raise StoreError("its figures are not those of its batch: restore it from a backup")
    path = report_path(batch.name, batch.batch_date, BATCHES)
    digest = report_digest(store, path)
    if digest is None and seal.batch_digest:
        raise StoreError(f"the report that it seals is lost: restore {store.address(*path)}")
    if digest is None or digest != seal.batch_digest:
        return
    (row,) = read_table(store, *path).to_pylist(maps_as_pydicts="strict")
    figures: dict[str, object] = {"images": seal.rows, **seal.model_dump(include=set(FIGURES))}
    if any(row[name] != figure for name, figure in figures.items()):
        raise StoreError("its figures are not those of its report: restore it from a backup")


def _announced(store: Store, batch: Batch, key: str) -> None:
    """Read the note of an announcement; one about an earlier report is not damaged."""
    if seal := read_seal(store, batch, key):
        is_announced(store, batch, seal)


def _feature_checks(store: Store, batch: Batch, model: str) -> Iterator[Check]:
    path = f"features/{model}/{batch.key}.zarr"
    if not store.exists(path):
        # Features may have been removed, unless their batch is in the statistics.
        yield Check(path, partial(_not_fitted, store, batch, model))
        return
    yield Check(path, partial(_made_by_its_model, store, batch, model))
    done = complete_shards(store, batch, model)
    for shard in batch.shards():
        ledger = f"batches/{batch.key}/ledger/{model}/{shard.number:06d}.json"
        if shard.number in done:
            yield Check(f"{path} or {ledger}", partial(_shard, store, batch, model, shard))
        else:
            yield Check(ledger, partial(_not_sealed, store, batch, model))
        yield Check(
            f"batches/{batch.key}/quarantine/{model}/{shard.number:06d}.json",
            partial(read_quarantine, store, batch, model, shard),
        )


def _not_fitted(store: Store, batch: Batch, model: str) -> None:
    latest = latest_statistics(store, model)
    if latest and (found := latest.contribution(batch.name)) and found.attempt == batch.attempt:
        raise StoreError("it is lost, though its batch is in the statistics: restore it")


def _not_sealed(store: Store, batch: Batch, model: str) -> None:
    if any(seal.model == model for seal in list_seals(store, batch)):
        raise StoreError("it is lost, though the report of its batch is sealed: restore it")


def _made_by_its_model(store: Store, batch: Batch, model: str) -> None:
    if made_by(store, model, batch.key) != load_card(store, model).digest:
        raise StoreError(f"its features are not those of model {model} (sha256 differs)")


def _shard(store: Store, batch: Batch, model: str, shard: Shard) -> None:
    record = read_shard_record(store, batch, model, shard)
    assert record is not None
    block = fitted_block(store, model, batch, shard)
    scored = int(np.sum(block.status == SCORED))
    if (record.start, record.stop, record.scored) != (shard.start, shard.stop, scored):
        raise StoreError("the ledger's figures are not those of the features: restore it")


def _review_checks(store: Store, batch: str) -> Iterator[Check]:
    for file in store.names(LABELS, batch):
        if file.endswith(".parquet"):  # the folder also has leases
            path = f"{LABELS}/{batch}/{file}"
            yield Check(path, partial(verify_labels, store, LABELS, batch, file))


def _reading_checks(store: Store, key: str) -> Iterator[Check]:
    for file in store.names(ANSWERS, key):
        path = f"{ANSWERS}/{key}/{file}"
        yield Check(path, partial(verify_answers, store, key, file))


def _lease_checks(store: Store, *what: str) -> Iterator[Check]:
    """List the checks of a lease's records; a damaged one blocks every run that wants the lease.

    One that is removed meanwhile is not damaged: another run has taken the lease over.
    """
    for file in store.names(*what, "lease"):
        path = (*what, "lease", file)
        if file.endswith(".json"):
            yield Check("/".join(path), partial(LeaseRecord.find, store, *path))


def _page_checks(store: Store, only: str | None) -> Iterator[Check]:
    for batch, file in page_names(store).items():
        if only in (None, batch):
            yield Check(f"reports/{HTML}/{file}", partial(_page, store, batch))
    if only is None and store.exists(*index_path()):
        yield Check("/".join(index_path()), partial(check_page, store, *index_path()))


def _page(store: Store, batch: str) -> None:
    """Compare a page with its digest and with the seals of the reports it shows."""
    content = check_page(store, *page_path(batch))
    if content == withdrawn_page(batch):
        return
    seals = _seals(store, batch)
    if seals and not any(made_from(seal).encode() in content[:HEAD] for seal in seals):
        raise StoreError(f"it shows other reports than those that are sealed: {ANEW}")


def _report_checks(store: Store, only: str | None) -> Iterator[Check]:
    for kind in SEALED_AS:
        for day in store.names("reports", kind):
            for file in store.names("reports", kind, day):
                name = file.removesuffix(".parquet")
                if only in (None, name):
                    path = ("reports", kind, day, file)
                    yield Check("/".join(path), partial(_report, store, kind, name, path))


def _report(store: Store, kind: str, name: str, path: tuple[str, ...]) -> None:
    """Compare a report with the seals of its batch, or with its checksums if there are no seals.

    While a batch is being republished, its reports have no seal.
    """
    sealed = {SEALED_AS[kind](seal) for seal in _seals(store, name)} - {None}
    day = date.fromisoformat(path[-2].removeprefix("batch_date="))
    if not sealed or is_withdrawn(store, name, day):
        read_table(store, *path)
    elif report_digest(store, path) not in sealed:
        raise StoreError(
            "it is not the report that was sealed (sha256 differs): restore it from a backup, or "
            f"screen batch {name} again with the same command, if no run is publishing it now"
        )
