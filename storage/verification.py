"""Compare the contents of a store with the digests and checksums that it keeps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import partial

import numpy as np

from storage import leases, parquet
from storage.batches import features, known_features, ledger, manifests, nights, segmentations
from storage.models import classifiers, detectors, laboratories, statistics, tunings
from storage.reports import answers, evaluations, pages, tables
from storage.store import Store, StoreError, check_name, which

SEALED_AS: dict[str, Callable[[ledger.Seal], str | None]] = {
    tables.IMAGES: lambda seal: seal.report_digest,
    tables.SLIDES: lambda seal: seal.slides_digest,
    tables.PATIENTS: lambda seal: seal.patients_digest,
    tables.BATCHES: lambda seal: seal.batch_digest,
    tables.FIELDS: lambda seal: seal.fields_digest,
}

# Folders whose entries may each have a lease.
LEASED = (
    "batches",
    evaluations.FOLDER,
    "nights",
    segmentations.FOLDER,
    laboratories.FOLDER,
    "statistics",
    classifiers.TRAININGS,
)

FIGURES = ("scored", "abnormal", "review", "failures")  # in a seal and in a batch's row


@dataclass(frozen=True)
class Check:
    """One thing to compare, by its path in the store; ``verify`` raises if it is damaged."""

    path: str
    verify: Callable[[], object]

    @classmethod
    def of(cls, path: str, verify: Callable[..., object], *things: object) -> "Check":
        """Make the check that ``verify`` does of these things."""
        return cls(path, partial(verify, *things))


def all_checks(store: Store) -> Iterator[Check]:
    """List the checks of everything in a store."""
    for name in store.folders("models", having="card.json"):
        yield Check.of(f"models/{name}", _model, store, name)
    for model in store.names("statistics"):
        for version in store.folders("statistics", model, having="lineage.json"):
            path = f"statistics/{model}/{version}"
            yield Check.of(path, _statistics, store, model, version)
    for name in detectors.detector_names(store):
        yield Check.of(f"detectors/{name}", _detector, store, name)
    for name in store.names(laboratories.FOLDER):
        for number in laboratories.laboratory_versions(store, name):
            path = f"{laboratories.FOLDER}/{name}/{statistics.version_name(number)}"
            yield Check.of(path, _laboratory, store, name, number)
    for name in store.names(classifiers.TRAININGS):
        yield Check.of(f"{classifiers.TRAININGS}/{name}", classifiers.verify_states, store, name)
    for name in store.names(evaluations.FOLDER):
        for path in evaluations.evaluation_files(store, name):
            yield Check.of(path, evaluations.verify_evaluation_file, store, path)
    for series in store.names("nights"):
        yield Check.of(f"nights/{series}", _nights, store, series)
    for name in store.folders(segmentations.FOLDER, having="segmentation.json"):
        yield Check.of(
            f"{segmentations.FOLDER}/{name}", segmentations.verify_segmentation, store, name
        )
    for batch in store.names(answers.LABELS):
        yield from _review_checks(store, batch)
    for key in store.names(answers.FOLDER):
        yield from _reading_checks(store, key)
    for key in store.folders("batches", having="batch.json"):
        yield from _batch_checks(store, key)
    yield from _report_checks(store, None)
    yield from _page_checks(store, None)
    for folder in LEASED:
        for name in store.names(folder):
            yield from _lease_checks(store, folder, name)
    for folder in (answers.LABELS, "reports"):
        yield from _lease_checks(store, folder)


def batch_checks(store: Store, name: str) -> Iterator[Check]:
    """List the checks of every attempt at a batch, and of its reports.

    Raises:
        StoreError: there is no such batch.
    """
    check_name("batch", name)
    keys = _attempts(store, name)
    if not keys:
        have = [batch.name for batch in manifests.list_batches(store, on_damage=lambda _: None)]
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


def _seals(store: Store, name: str) -> list[ledger.Seal]:
    """List the seals of all attempts at a batch."""
    batches = [manifests.load_batch_of_key(store, key) for key in _attempts(store, name)]
    return [seal for batch in batches for seal in ledger.list_seals(store, batch)]


def _model(store: Store, name: str) -> None:
    card = classifiers.load_card(store, name)
    classifiers.load_weights(store, card)
    classifiers.load_out_of_fold(store, card)


def _statistics(store: Store, model: str, version: str) -> None:
    statistics.load_moments(
        store, statistics.load_statistics(store, model, int(version.removeprefix("v")))
    )


def _detector(store: Store, name: str) -> None:
    card = detectors.load_detector_card(store, name)
    detectors.load_detector(store, card)
    detectors.load_model_of(store, card)


def _laboratory(store: Store, name: str, version: int) -> None:
    card = laboratories.load_laboratory_version(store, name, version)
    laboratories.load_laboratory_arrays(store, card)
    laboratories.refuse_other_detector(card, detectors.load_detector_card(store, card.detector))
    if tuning := tunings.tuning_at(store, name).tuning:
        tunings.load_tuning(store, card.model, tuning)
    for night in card.nights:
        laboratories.load_night(store, name, night)


def _nights(store: Store, series: str) -> None:
    for night in nights.list_nights(store, series):
        nights.manifest_address(store, night)


def _batch_checks(store: Store, key: str) -> Iterator[Check]:
    folder = f"batches/{key}"
    yield Check.of(f"{folder}/batch.json", manifests.load_batch_of_key, store, key)
    try:
        batch = manifests.load_batch_of_key(store, key)
    except StoreError:  # reported by that check
        return
    yield Check.of(f"{folder}/manifest.parquet", _manifest, store, batch)
    for file in store.names("batches", key, "sealed"):
        detector = file.removesuffix(".json")
        yield Check.of(f"{folder}/sealed/{file}", _seal, store, batch, detector)
    for file in store.names("batches", key, "screenings"):
        detector = file.removesuffix(".json")
        path = f"{folder}/screenings/{file}"
        yield Check.of(path, ledger.screening_start, store, batch, detector)
    for file in store.names("batches", key, "announced"):
        path = f"{folder}/announced/{file}"
        yield Check.of(path, _announced, store, batch, file.removesuffix(".json"))
    for model in store.names("batches", key, "ledger"):
        yield from _feature_checks(store, batch, model)
    for file in store.names("batches", key, tunings.FOLDER):
        path = f"{folder}/{tunings.FOLDER}/{file}"
        yield Check.of(path, _tuning, store, batch, file.removesuffix(".json"))


def _manifest(store: Store, batch: manifests.Batch) -> None:
    manifests.verify_manifest(store, batch)
    rows = parquet.read_footer(store, "batches", batch.key, "manifest.parquet").num_rows
    if rows != batch.rows:
        raise StoreError(f"it has {rows} rows, but batch.json says {batch.rows}")


def _seal(store: Store, batch: manifests.Batch, detector: str) -> None:
    """Compare a seal's figures with the batch and with the report that it seals."""
    seal = ledger.read_seal(store, batch, detector)
    assert seal is not None
    if (seal.batch, seal.rows, seal.scored + seal.failed) != (batch.name, batch.rows, batch.rows):
        raise StoreError("its figures are not those of its batch: restore it from a backup")
    path = tables.report_path(batch.name, batch.batch_date, tables.BATCHES)
    digest = tables.report_digest(store, path)
    if digest is None and seal.batch_digest:
        raise StoreError(f"the report that it seals is lost: restore {store.address(*path)}")
    if digest is None or digest != seal.batch_digest:
        return
    (row,) = parquet.read_table(store, *path).to_pylist(maps_as_pydicts="strict")
    figures: dict[str, object] = {"images": seal.rows, **seal.model_dump(include=set(FIGURES))}
    if any(row[name] != figure for name, figure in figures.items()):
        raise StoreError("its figures are not those of its report: restore it from a backup")


def _announced(store: Store, batch: manifests.Batch, key: str) -> None:
    """Read the note of an announcement; one about an earlier report is not damaged."""
    if seal := ledger.read_seal(store, batch, key):
        ledger.is_announced(store, batch, seal)


def _feature_checks(store: Store, batch: manifests.Batch, model: str) -> Iterator[Check]:
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
        yield Check.of(
            f"batches/{batch.key}/quarantine/{model}/{shard.number:06d}.json",
            ledger.read_quarantine,
            store,
            batch,
            model,
            shard,
        )


def _tuning(store: Store, batch: manifests.Batch, model: str) -> None:
    known = tunings.tuning_of(store, batch, model)
    if known and known.tuning:
        tunings.load_tuning(store, model, known.tuning)


def _not_fitted(store: Store, batch: manifests.Batch, model: str) -> None:
    latest = statistics.latest_statistics(store, model)
    if latest and (part := latest.contribution(batch.name)) and part.attempt == batch.attempt:
        raise StoreError("it is lost, though its batch is in the statistics: restore it")


def _not_sealed(store: Store, batch: manifests.Batch, model: str) -> None:
    if any(seal.model == model for seal in ledger.list_seals(store, batch)):
        raise StoreError("it is lost, though the report of its batch is sealed: restore it")


def _made_by_its_model(store: Store, batch: manifests.Batch, model: str) -> None:
    if (
        features.made_by(store, model, batch.key)[0]
        != classifiers.load_card(store, classifiers.model_of(model)).digest
    ):
        raise StoreError(f"its features are not those of model {model} (sha256 differs)")


def _shard(store: Store, batch: manifests.Batch, model: str, shard: manifests.Shard) -> None:
    record = ledger.read_shard_record(store, batch, model, shard)
    assert record is not None
    block = known_features.fitted_block(store, model, batch, shard)
    scored = int(np.sum(block.status == features.SCORED))
    if (record.start, record.stop, record.scored) != (shard.start, shard.stop, scored):
        raise StoreError("the ledger's figures are not those of the features: restore it")


def _review_checks(store: Store, batch: str) -> Iterator[Check]:
    for file in store.names(answers.LABELS, batch):
        if file.endswith(".parquet"):  # the folder also has leases
            path = f"{answers.LABELS}/{batch}/{file}"
            yield Check.of(path, answers.verify_labels, store, answers.LABELS, batch, file)


def _reading_checks(store: Store, key: str) -> Iterator[Check]:
    for file in store.names(answers.FOLDER, key):
        path = f"{answers.FOLDER}/{key}/{file}"
        yield Check.of(path, answers.verify_answers, store, key, file)


def _lease_checks(store: Store, *what: str) -> Iterator[Check]:
    """List the checks of a lease's records; a damaged one blocks every run that wants the lease.

    One that is removed meanwhile is not damaged: another run has taken the lease over.
    """
    for file in store.names(*what, "lease"):
        path = (*what, "lease", file)
        if file.endswith(".json"):
            yield Check.of("/".join(path), leases.LeaseRecord.find, store, *path)


def _page_checks(store: Store, only: str | None) -> Iterator[Check]:
    for batch, file in pages.page_names(store).items():
        if only in (None, batch):
            yield Check.of(f"reports/{pages.HTML}/{file}", _page, store, batch)
    if only is None and store.exists(*pages.index_path()):
        yield Check.of("/".join(pages.index_path()), pages.check_page, store, *pages.index_path())


def _page(store: Store, batch: str) -> None:
    """Compare a page with its digest and with the seals of the reports it shows."""
    content = pages.check_page(store, *pages.page_path(batch))
    if content == pages.withdrawn_page(batch):
        return
    seals = _seals(store, batch)
    if seals and not any(pages.made_from(seal).encode() in content[: pages.HEAD] for seal in seals):
        raise StoreError(f"it shows other reports than those that are sealed: {pages.ANEW}")


def _report_checks(store: Store, only: str | None) -> Iterator[Check]:
    for kind in SEALED_AS:
        for day in store.names("reports", kind):
            for file in store.names("reports", kind, day):
                name = file.removesuffix(".parquet")
                if only in (None, name):
                    path = ("reports", kind, day, file)
                    yield Check.of("/".join(path), _report, store, kind, name, path)


def _report(store: Store, kind: str, name: str, path: tuple[str, ...]) -> None:
    """Compare a report with the seals of its batch, or with its checksums if there are no seals.

    While a batch is being republished, its reports have no seal.
    """
    sealed = {SEALED_AS[kind](seal) for seal in _seals(store, name)} - {None}
    day = date.fromisoformat(path[-2].removeprefix("batch_date="))
    if not sealed or tables.is_withdrawn(store, name, day):
        parquet.read_table(store, *path)
    elif tables.report_digest(store, path) not in sealed:
        raise StoreError(
            "it is not the report that was sealed (sha256 differs): restore it from a backup, or "
            f"screen batch {name} again with the same command, if no run is publishing it now"
        )
