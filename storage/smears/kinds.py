"""List the kinds of files of smears: fields, slides, patients, answers, pages and evaluations.

`storage.kinds.kinds` imports this module by name, if it is there; nothing else does.
"""

from collections.abc import Iterable, Iterator

from storage.batches import ledger, manifests
from storage.batches.kinds import kind_of_files
from storage.kinds import Check, Kind, Sources, Table, lease_checks, leases_of
from storage.models import detectors
from storage.reports import tables
from storage.reports.kinds import report_kind
from storage.smears import answers, call_seals, evaluations, learned, pages, segmentations
from storage.smears.schemas import batches, fields, patients, persons, slides
from storage.smears.schemas import evaluations as measured
from storage.smears.schemas.laboratories import LABORATORIES, LABORATORY_SCHEMA, laboratories
from storage.store import Store, StoreError

# Words that a person may expect as names of columns.
MEANT = {
    "parasitaemia": "corrected_percent",
    "parasitemia": "corrected_percent",
    "percent": "corrected_percent",
    "density": "parasites_per_microlitre",
    "patient": "patient_id",
    "slide": "slide_id",
}


def _call_seal(store: Store, key: str, screening: str) -> None:
    batch = manifests.load_batch_of_key(store, key)
    calls = call_seals.read_call_seal(store, batch, screening)
    seal = ledger.read_seal(store, batch, screening)
    assert calls is not None
    if seal is None or calls.report_digest != seal.report_digest:
        raise StoreError("it is of another report on images: run slidewatch call again")
    path = tables.report_path(batch.name, batch.batch_date, tables.BATCHES)
    if tables.report_digest(store, path) is None:
        raise StoreError(f"the report that it seals is lost: restore {store.address(*path)}")
    kept = {tables.IMAGES, *calls.digests.keys() & {tables.PATIENTS, tables.SLIDES}}
    paths = [tables.report_path(batch.name, batch.batch_date, each) for each in sorted(kept)]
    lost = [path for path in paths if not store.exists(*path)]
    is_gone = len(lost) == len(paths) or tables.is_withdrawn(store, batch.name, batch.batch_date)
    if lost and not is_gone and store.exists(*pages.page_path(batch.name)):
        raise StoreError(f"a report of the same run is lost: restore {store.address(*lost[0])}")


def _digests(store: Store, batch: str, kind: str) -> set[str]:
    seals = call_seals.call_seals_of(store, batch)
    return {digest for seal in seals if (digest := seal.digests.get(kind))}


def _learned_checks(store: Store) -> Iterator[Check]:
    for card in learned.detectors_that_learned(store, on_damage=lambda _: None):
        name = detectors.name_of(card.name)
        for night in card.nights:
            path = f"{learned.FOLDER}/{name}/{night.digest}.safetensors"
            yield Check.of(path, learned.load_night, store, name, night)
    yield from leases_of(store, learned.FOLDER)


def _learned(store: Store, model: str) -> Iterable[tuple[str, int]]:
    cards = learned.newest_learned(store)
    return [(night.batch, night.attempt) for card in cards for night in card.nights]


def _segmentation_checks(store: Store) -> Iterator[Check]:
    for name in store.folders(segmentations.FOLDER, having="segmentation.json"):
        path = f"{segmentations.FOLDER}/{name}"
        yield Check.of(path, segmentations.verify_segmentation, store, name)
    yield from leases_of(store, segmentations.FOLDER)


def _cut_from(store: Store, key: str) -> Sources | None:
    """Return the photographs and slides that the cells of a batch were cut out of."""
    made = segmentations.segmentation_for(store, manifests.load_batch_of_key(store, key))
    return (made.images, made.limit) if made else None


def _evaluation_checks(store: Store) -> Iterator[Check]:
    for name in store.names(evaluations.FOLDER):
        for path in evaluations.evaluation_files(store, name):
            yield Check.of(path, evaluations.verify_evaluation_file, store, path)
    yield from leases_of(store, evaluations.FOLDER)


def _result_files(store: Store) -> list[str]:
    folder = evaluations.FOLDER
    files = [f"{folder}/{each}/{evaluations.RESULTS}" for each in store.names(folder)]
    return [file for file in files if store.exists(file)]


def _answer_checks(store: Store, only: str | None = None) -> Iterator[Check]:
    for key in store.names(answers.FOLDER):
        if only in (None, key.partition("~")[0]):
            for file in store.names(answers.FOLDER, key):
                path = f"{answers.FOLDER}/{key}/{file}"
                yield Check.of(path, answers.verify_answers, store, key, file)


def _label_checks(store: Store, only: str | None = None) -> Iterator[Check]:
    for batch in store.names(answers.LABELS):
        for file in store.names(answers.LABELS, batch) if only in (None, batch) else []:
            if file.endswith(".parquet"):  # the folder also has leases
                path = f"{answers.LABELS}/{batch}/{file}"
                yield Check.of(path, answers.verify_labels, store, answers.LABELS, batch, file)
    if only is None:
        yield from lease_checks(store, answers.LABELS)


def _page_checks(store: Store, only: str | None = None) -> Iterator[Check]:
    for batch, file in pages.page_names(store).items():
        if only in (None, batch):
            yield Check.of(f"reports/{pages.HTML}/{file}", _page, store, batch)
    if only is None and store.exists(*pages.INDEX):
        yield Check.of("/".join(pages.INDEX), pages.check_page, store, *pages.INDEX)


def _page(store: Store, batch: str) -> None:
    content = pages.check_page(store, *pages.page_path(batch))
    if content == pages.withdrawn_page(batch):
        return
    seals = call_seals.call_seals_of(store, batch)
    if seals and not any(pages.made_from(seal).encode() in content[: pages.HEAD] for seal in seals):
        raise StoreError(f"it shows other reports than those that are sealed: {pages.ANEW}")


KINDS = (
    report_kind(tables.FIELDS, lambda *_: fields.FIELD_REPORT_SCHEMA, _digests),
    report_kind(tables.SLIDES, lambda *_: slides.SLIDE_SCHEMA, _digests, meant=MEANT),
    report_kind(
        tables.PATIENTS, lambda *_: patients.PATIENT_SCHEMA, _digests, joined=persons.WITH_PERSONS
    ),
    # It is written again with every answer, so no seal has its digest.
    report_kind(tables.PERSONS, lambda *_: persons.PERSON_SCHEMA, lambda *_: set()),
    # A batch's row is never removed: later nights are compared with it.
    report_kind(tables.BATCHES, lambda *_: batches.BATCH_SCHEMA, _digests, expires=False),
    kind_of_files(call_seals.FOLDER, call_seals.FOLDER, _call_seal),
    Kind(
        evaluations.FOLDER,
        checks=_evaluation_checks,
        table=Table(lambda *_: measured.EVALUATION_SCHEMA, files=_result_files),
    ),
    Kind(
        LABORATORIES,
        checks=_learned_checks,
        needed=_learned,
        table=Table(lambda *_: LABORATORY_SCHEMA, rows=laboratories),
    ),
    Kind(
        segmentations.FOLDER,
        checks=_segmentation_checks,
        owns=lambda store, source: segmentations.segmentation_of(store, source) is not None,
        sources=_cut_from,
    ),
    Kind(answers.FOLDER, checks=_answer_checks, batch_checks=_answer_checks),
    Kind(
        answers.LABELS,
        checks=_label_checks,
        batch_checks=_label_checks,
        owns=lambda store, source: answers.labelled_batch(store, source) is not None,
    ),
    Kind(
        pages.HTML,
        checks=_page_checks,
        batch_checks=_page_checks,
        expiring=lambda batch, _: [pages.page_path(batch)],
        withdrawn=lambda batch: {pages.page_path(batch): pages.withdrawn_page(batch)},
    ),
)
