"""One bit turned over in any kind of file is found by `verify`, and its file is named."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.commands.main import main
from flows.commands.status import verify
from flows.options.tools import Verify
from flows.settings import Settings
from storage.batches import manifests, nights
from storage.leases import lease
from storage.models.classifiers import save_state
from storage.parquet import write_table
from storage.records import arrays_to_bytes
from storage.reports.tables import BATCHES, SLIDES, report_path
from storage.smears.answers import SCHEMA as LABELS
from storage.smears.answers import Answer, KeptSample, Labels, keep_sample, save_labels
from storage.smears.call_seals import read_call_seal
from storage.smears.evaluations import Evaluation, shard_path, start_evaluation, write_arrays
from storage.smears.pages import INDEX, made_from, page_path, withdrawn_page, write_page_file
from storage.smears.segmentations import (
    FIELD_SCHEMA,
    Cutting,
    CutUp,
    Segmented,
    freeze_segmentation,
    publish,
    seal_segmentation,
)
from storage.store import Store, StoreError, digest_of
from tasks.images.manifest import SCHEMA as MANIFEST
from tests.support.batches import manifest
from tests.system.golden import values
from tests.system.golden.make_golden import write_store
from tests.system.golden.values import DAY, WHEN

Turn = Callable[[bytes], int]  # which byte of a file


def middle(content: bytes) -> int:
    return len(content) // 2


def last(content: bytes) -> int:
    return len(content) - 1


def last_of_a_page(content: bytes) -> int:
    column = pq.read_metadata(io.BytesIO(content)).row_group(0).column(0)
    return int(column.dictionary_page_offset or column.data_page_offset) + int(
        column.total_compressed_size - 1
    )


def digit_of(field: str) -> Turn:
    """The first digit of a field of a JSON document."""

    def find(content: bytes) -> int:
        start = content.index(f'"{field}": '.encode()) + len(field) + 4
        if field.endswith("_at"):  # a hyphen of the date, for another digit is another date
            return content.index(b"-", start)
        return next(i for i in range(start, len(content)) if content[i : i + 1].isdigit())

    return find


REPORTS = {kind: "/".join(report_path("night", DAY, kind)) for kind in ("images", SLIDES, BATCHES)}
ZARR = "features/golden/night.zarr"
FILES: dict[str, Turn] = {
    "models/golden/model.safetensors": last,
    "models/golden/card.json": digit_of("temperature"),
    "statistics/golden/v0001/moments.safetensors": middle,
    "statistics/golden/v0001/lineage.json": digit_of("held_out"),
    "detectors/golden/detector.safetensors": last,
    "detectors/golden/card.json": digit_of("alpha"),
    "batches/night/batch.json": digit_of("rows"),
    "batches/night/manifest.parquet": middle,
    "batches/night/ledger/golden/000000.json": digit_of("digest"),
    "batches/night/ledger/golden/000001.json": digit_of("scored"),
    "batches/night/quarantine/golden/000001.json": lambda content: 0,
    "batches/night/screenings/kampala-v0001.json": lambda content: 0,
    "batches/night/sealed/kampala-v0001.json": digit_of("abnormal"),
    "batches/night/called/kampala-v0001.json": digit_of("report_digest"),
    "batches/night/slides/kampala-v0001.parquet": middle,
    "batches/night/announced/kampala-v0001.json": lambda content: 0,
    "detectors/kampala-v0001/card.json": digit_of("statistics_version"),
    "detectors/kampala-v0001/detector.safetensors": last,
    f"learned/kampala/{digest_of(arrays_to_bytes(values.NIGHT))}.safetensors": last,
    f"{ZARR}/zarr.json": digit_of("model"),
    **{f"{ZARR}/rows/{name}/c.0.0": last for name in ("logits", "image_id", "size", "colour")},
    **{f"{ZARR}/rows/{name}/c.0": last for name in ("label", "status", "steady")},
    f"{ZARR}/taps/c.0.0": middle,
    f"{ZARR}/taps/zarr.json": lambda content: 0,
    f"{ZARR}/rows/zarr.json": lambda content: 0,
    f"{ZARR}/rows/label/zarr.json": lambda content: 0,
    f"nights/ward/{DAY}/manifest.parquet": middle,
    f"nights/ward/{DAY}/night.json": digit_of("digest"),
    "segmentations/cut/sources.parquet": middle,
    "segmentations/cut/manifest.parquet": middle,
    "segmentations/cut/fields.parquet": middle,
    "segmentations/cut/segmented.json": digit_of("manifest_digest"),
    "labels/night/0001.parquet": last_of_a_page,
    "labels/lease/000001.json": lambda content: 0,
    "batches/night/lease/000001.json": digit_of("taken_at"),
    "answers/night/sample.json": lambda content: 0,
    "answers/night/00000000-0123456789ab.json": lambda content: content.index(b"reader"),
    "trainings/t/epoch-0003.safetensors": last,
    "trainings/t/epoch-0003.json": digit_of("epoch"),
    "evaluations/e/card.json": lambda content: 0,
    "evaluations/e/d/shards/s/none/00000.safetensors": lambda content: 0,
    "evaluations/e/results.parquet": last_of_a_page,
    "reports/html/night.html": middle,
    "reports/html/index.html": last,
    **dict.fromkeys(REPORTS.values(), middle),
}
LATER = [pytest.param(each, marks=pytest.mark.slow) for each in list(FILES)[1::2]]


@pytest.fixture
def full(store: Store) -> Store:
    """A store with something of everything that is kept."""
    write_store(store)
    nights.freeze_night(store, "ward", DAY, manifest(3), inbox="/inbox", frozen_at=WHEN)
    store.remove("nights", "ward", "lease")
    cut = freeze_segmentation(
        store, "cut", manifest(2),
        CutUp(images="photos/", limit=None, cutting=Cutting(microns_per_pixel=None)),
        WHEN,
    )  # fmt: skip
    seal_segmentation(
        store, "cut",
        Segmented(
            digest=cut.digest, sources=2, images=3, fields={}, failures={},
            manifest_digest=publish(store, "cut", "manifest.parquet", MANIFEST, [manifest(3)]),
            fields_digest=publish(
                store, "cut", "fields.parquet", FIELD_SCHEMA, [FIELD_SCHEMA.empty_table()]
            ),
        ),
    )  # fmt: skip
    rows = pa.Table.from_pylist([{"image_id": 64 * "0", "answer": "other"}], schema=LABELS)
    with lease(store, "labels") as held:
        save_labels(held.store, Labels("night", 1, rows))
    with lease(store, "batches", "night"):
        pass
    save_state(store, "t", 3, {"w": np.zeros(3)})
    asked = Evaluation(
        name="e", started_at=WHEN, detectors=["golden"], images="x", limit=None, ood={}, attacks=[],
        attacked=1,
    )  # fmt: skip
    start_evaluation(store, asked)
    write_arrays(store, {"w": np.zeros(3)}, *shard_path("e", "d", "s", "none", 0))
    write_table(store, rows, "evaluations", "e", "results.parquet")
    keep_sample(store, "night", KeptSample(image_ids=[64 * "0"], strata=[]))
    said = Answer(reader="Ada", image_id=64 * "0", answer="other", at=WHEN, seconds=1.5)
    said.write(store, "answers", "night", "00000000-0123456789ab.json")
    seal = read_call_seal(store, manifests.load_batch_of_key(store, "night"), "kampala-v0001")
    assert seal is not None
    for path, head in ((page_path("night"), made_from(seal)), (INDEX, "")):
        write_page_file(store, f"<html><!-- {head} --><p>{64 * 'x'}</p></html>", *path)
    return store


def files_of(store: Store) -> set[str]:
    root = Path(store.root)
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if not path.parts[0].startswith(".")}


def test_a_whole_store_is_whole(full: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert full.names("labels") == ["lease", "night"]  # the lease of an import is no review
    outcome = verify(Verify(), Settings(store=full.url))
    assert (outcome.damaged, outcome.failed) == ([], False)
    assert "nothing is damaged" in outcome.text()
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--store", full.url, "--quiet"])
    assert ended.value.code == 0
    assert "things compared" in capsys.readouterr().out


@pytest.mark.parametrize("path", [*list(FILES)[::2], *LATER])
def test_a_bit_turned_over_is_found_and_its_file_is_named(
    full: Store, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(full.read_bytes(path))
    content[FILES[path](bytes(content))] ^= 1
    full.write_bytes(bytes(content), path)
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--store", full.url, "--quiet"])
    assert ended.value.code == 3
    first, *damaged = capsys.readouterr().out.splitlines()
    assert f"{len(damaged)} damaged" in first
    # All that is in features has one address; a file beside its card has its folder's.
    named = ZARR if path.startswith(ZARR) else path.rpartition("/")[0]
    assert any(named in line or path in line for line in damaged)


def test_a_file_of_every_kind_is_turned_over(full: Store) -> None:
    def kind(path: str) -> str:
        parts = path.split("/")
        suffix = Path(path).suffix.rstrip("0123456789")  # of a chunk, its number
        return "/".join([parts[0], *(["*"] * (len(parts) - 2)), suffix])

    harmless = {"segmentations/cut/segmentation.json"}
    turned = {kind(path) for path in FILES}
    assert {kind(path) for path in files_of(full) - harmless} <= turned


@pytest.mark.parametrize(
    "lost", [ZARR, "batches/night/ledger/golden/000001.json", *REPORTS.values()]
)
def test_what_is_lost_is_found(full: Store, lost: str) -> None:
    full.remove(lost)
    outcome = verify(Verify(), Settings(store=full.url))
    assert outcome.failed
    assert any(lost in line for line in outcome.damaged)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("answers/night/00000000-0123456789ab.json", "is not valid JSON"),
        ("answers/night/sample.json", "is not valid JSON"),
        ("batches/night/lease/000001.json", "is not valid JSON"),
        ("reports/html/night.html", "it is cut short"),
    ],
)
def test_a_file_that_is_cut_short_is_found(full: Store, path: str, says: str) -> None:
    full.write_bytes(full.read_bytes(path)[:1], path)
    (line,) = verify(Verify(), Settings(store=full.url)).damaged
    assert path in line
    assert says in line
    if "night" in path:
        assert verify(Verify(batch="night"), Settings(store=full.url)).damaged == [line]


def test_pages_are_of_the_reports_that_are_sealed(full: Store) -> None:
    page, path = full.read_bytes(*page_path("night")), page_path("night")
    full.write_bytes(page.rpartition(b"<!--")[0], *path)
    (line,) = verify(Verify(), Settings(store=full.url)).damaged
    assert "it is cut short" in line
    full.write_bytes(withdrawn_page("night"), *path)
    assert not verify(Verify(), Settings(store=full.url)).failed
    write_page_file(full, "<html><!-- other --></html>", *path)
    (line,) = verify(Verify(), Settings(store=full.url)).damaged
    assert "it shows other reports than those that are sealed" in line


def test_any_bit_of_a_report_s_footer_is_found(full: Store) -> None:
    for path in (*REPORTS.values(), "batches/night/manifest.parquet"):
        content = full.read_bytes(path)
        length = int.from_bytes(content[-8:-4], "little")
        for at in range(len(content) - 8 - length, len(content), max(1, length // 20)):
            turned = bytearray(content)
            turned[at] ^= 1 << at % 8
            full.write_bytes(bytes(turned), path)
            assert any(
                path in line
                for line in verify(Verify(batch="night"), Settings(store=full.url)).damaged
            )
        full.write_bytes(content, path)


def test_another_name_of_a_column_of_a_review_is_found(full: Store) -> None:
    path = "labels/night/0001.parquet"
    full.write_bytes(full.read_bytes(path).replace(b"reader", b"readet"), path)
    (line,) = verify(Verify(), Settings(store=full.url)).damaged
    assert path in line


def test_one_batch_can_be_asked_for_by_name(full: Store) -> None:
    settings = Settings(store=full.url)
    everything = verify(Verify(), settings).compared
    alone = verify(Verify(batch="night"), settings)
    assert not alone.failed
    assert 0 < alone.compared < everything
    with pytest.raises(StoreError, match="no batch 'nigth'"):
        verify(Verify(batch="nigth"), settings)


@pytest.mark.parametrize("figure", ["scored", "failed", "abnormal", "review", "failures"])
def test_a_seal_that_states_other_figures_than_its_report_is_found(
    full: Store, figure: str
) -> None:
    path = "batches/night/sealed/kampala-v0001.json"
    seal = full.read_json(path)
    other = {"damaged": 7} if figure == "failures" else seal[figure] + 1
    full.write_json(seal | {figure: other}, path)
    damaged = verify(Verify(), Settings(store=full.url)).damaged
    assert any(path in line and "its figures are not those" in line for line in damaged)
