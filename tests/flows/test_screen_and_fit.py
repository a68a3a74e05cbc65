"""The flows end to end, on rendered cells and real Dask workers."""

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from distributed import Client, LocalCluster

from flows.cluster.errors import ClusterError
from flows.cluster.executor import run_in_order
from flows.commands.status import status
from flows.fit import FitOutcome, fit, retract
from flows.jobs.shard import run_shard
from flows.screen import ImagesFailedError, ScreenOutcome, screen
from flows.settings import Settings
from flows.stages import batch as batch_module
from flows.train import TrainOutcome, train
from storage.arrays import arrays_to_bytes
from storage.batches.features import read_block
from storage.batches.manifests import load_batch, read_manifest
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.models.statistics import latest_statistics, load_moments, load_statistics
from storage.parquet import read_table
from storage.reports.schemas.batches import batch_schema
from storage.reports.schemas.images import image_schema
from storage.reports.schemas.slides import slide_schema
from storage.reports.tables import of_attempt, report_path
from storage.store import Store, StoreError, digest_of
from tasks.detector.groups import by_slide, coarser
from tasks.detector.moments import ClassStatistics
from tasks.images.files import SourceError
from tasks.reports.images import PIECE
from tasks.synthetic.cells import write_collection, write_night
from tests.support.paths import ROOT

PATIENTS, CELLS = 16, 12
KINDS = ("images", "slides", "batches")


pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled cells in `smears`, and in `night` unlabelled ones with abnormal ones among them."""
    folder = tmp_path_factory.mktemp("images")
    write_collection(
        folder / "smears",
        patients=PATIENTS,
        cells_per_patient=CELLS,
        parasitized_fraction=0.5,
        seed=1,
    )
    write_night(
        folder / "night",
        patients=3,
        cells_per_patient=10,
        parasitized_fraction=0.3,
        planted_per_kind=2,
        seed=2,
        first_patient=101,
    )
    return folder


@pytest.fixture(scope="module")
def trained(
    images: Path, scheduler: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, TrainOutcome]:
    settings = Settings(
        store=str(tmp_path_factory.mktemp("trained") / "store"),
        cluster="scheduler",
        scheduler=scheduler,
        shard_rows=32,
    )
    outcome = train(str(images / "smears"), model="m", epochs=1, side=32, settings=settings)
    return settings, outcome


@pytest.fixture
def settings(trained: tuple[Settings, TrainOutcome], tmp_path: Path) -> Settings:
    """Settings of a store of one's own, with a trained model in it and nothing else."""
    shutil.copytree(trained[0].store, tmp_path / "store")
    return trained[0].model_copy(update={"store": str(tmp_path / "store")})


@pytest.fixture(scope="module")
def fitted(
    trained: tuple[Settings, TrainOutcome], images: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, FitOutcome]:
    folder = tmp_path_factory.mktemp("fitted") / "store"
    shutil.copytree(trained[0].store, folder)
    settings = trained[0].model_copy(update={"store": str(folder)})
    return settings, fit(str(images / "smears"), batch="first", settings=settings)


@pytest.fixture
def ready(fitted: tuple[Settings, FitOutcome], tmp_path: Path) -> Settings:
    """Settings of a store of one's own, with a model and a detector in it."""
    shutil.copytree(fitted[0].store, tmp_path / "store")
    return fitted[0].model_copy(update={"store": str(tmp_path / "store")})


def rows_of(outcome: ScreenOutcome) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.ParquetFile(outcome.report).read().to_pylist()
    return found


def screen_night(images: Path, settings: Settings, **options: object) -> ScreenOutcome:
    """Screen a night in which one file is cut short."""
    with pytest.raises(ImagesFailedError) as failure:
        screen(str(images / "night"), batch="night", settings=settings, **options)
    return failure.value.outcome


# --- train


def test_a_model_is_split_by_patient_and_describes_itself(
    trained: tuple[Settings, TrainOutcome],
) -> None:
    settings, outcome = trained
    card = load_card(Store(settings.store), "m")
    parts = [set(names) for names in card.split.values()]
    assert card.split_by == "patient"
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == PATIENTS
    assert sum(outcome.images.values()) == PATIENTS * CELLS
    assert set(card.metrics) == {"accuracy", "AUROC", "sensitivity", "specificity"}
    assert card.tap_widths == {tap: card.tap_widths[tap] for tap in card.network["taps"]}
    assert len(card.training["history"]) == 1


def test_a_model_is_never_overwritten(images: Path, settings: Settings) -> None:
    before = (Path(settings.store) / "models" / "m" / "card.json").read_bytes()
    with pytest.raises(StoreError, match="never overwritten"):
        train(str(images / "smears"), model="m", epochs=1, side=32, settings=settings)
    assert (Path(settings.store) / "models" / "m" / "card.json").read_bytes() == before


def test_training_without_labels_says_what_is_missing(images: Path, settings: Settings) -> None:
    with pytest.raises(SourceError, match="Parasitized and Uninfected"):
        train(str(images / "night"), model="n", settings=settings)


# --- fit and retract


def statistics(settings: Settings) -> dict[str, np.ndarray]:
    store = Store(settings.store)
    latest = latest_statistics(store, "m")
    assert latest is not None
    return load_moments(store, latest)


def assert_close(a: dict[str, np.ndarray], b: dict[str, np.ndarray], relative: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        scale = np.abs(b[name]).max()
        assert np.abs(a[name] - b[name]).max() <= relative * scale, name


def test_no_validation_or_test_patient_is_in_the_statistics(
    fitted: tuple[Settings, FitOutcome],
) -> None:
    settings, outcome = fitted
    card = load_card(Store(settings.store), "m")
    assert sum(outcome.images.values()) == len(card.split["train"]) * CELLS
    held_out = len(card.held_out) * CELLS
    assert f"{held_out:,} left out" in outcome.changed


def test_a_detector_says_who_calibrated_it(fitted: tuple[Settings, FitOutcome]) -> None:
    settings, outcome = fitted
    store = Store(settings.store)
    detector = load_detector_card(store, outcome.detector)
    assert detector.calibrated_by == "patient"
    assert detector.calibrating_groups == len(load_card(store, "m").split["train"])
    assert detector.calibrating_images == sum(outcome.images.values())
    assert any("is a guess" in warning for warning in detector.warnings)


def test_a_batch_merged_twice_counts_once(images: Path, ready: Settings) -> None:
    before = statistics(ready)
    outcome = fit(str(images / "smears"), batch="first", settings=ready)
    assert "counts once" in outcome.changed
    assert outcome.statistics == "v0001"
    assert_close(statistics(ready), before, 0.0)


@pytest.mark.parametrize("workers", [1, 4])
def test_statistics_are_the_same_bytes_for_any_number_of_workers(
    images: Path, settings: Settings, fitted: tuple[Settings, FitOutcome], workers: int
) -> None:
    alone = settings.model_copy(update={"cluster": "local", "workers": workers})
    fit(str(images / "smears"), batch="first", settings=alone)
    folder = "statistics/m/v0001/moments.safetensors"
    theirs = (Path(fitted[0].store) / folder).read_bytes()
    assert (Path(alone.store) / folder).read_bytes() == theirs


def test_two_batches_fit_as_one_does_and_are_not_read_again(
    images: Path, settings: Settings, fitted: tuple[Settings, FitOutcome], tmp_path: Path
) -> None:
    halves = [tmp_path / "a", tmp_path / "b"]
    for i, path in enumerate(sorted((images / "smears").rglob("*.png"))):
        to = halves[i % 2] / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    fit(str(halves[0]), batch="a", settings=settings)
    shutil.rmtree(halves[0])  # an earlier batch's images are never opened again
    outcome = fit(str(halves[1]), batch="b", settings=settings)
    assert outcome.statistics == "v0002"
    whole = statistics(fitted[0])
    # Features depend a little on which images share a forward pass, so bytes may differ here;
    # tests/tasks/detector/test_moments.py proves 1e-12 on equal features.
    found, wanted = (ClassStatistics.from_arrays(each) for each in (statistics(settings), whole))
    assert found.slides is not None
    assert wanted.slides is not None
    # Which batch a slide came in is part of its name; the slides themselves are the same.
    assert {key.slide for key in found.slides.keys} == {key.slide for key in wanted.slides.keys}
    slides = [coarser(each.slides, by_slide) for each in (found, wanted) if each.slides]
    pairs = [replace(each, slides=own) for each, own in zip((found, wanted), slides, strict=True)]
    assert_close(pairs[0].to_arrays(), pairs[1].to_arrays(), 1e-5)


def test_retracting_a_batch_undoes_it(images: Path, ready: Settings, tmp_path: Path) -> None:
    before = statistics(ready)
    extra = tmp_path / "extra"
    write_collection(
        extra, patients=3, cells_per_patient=9, parasitized_fraction=0.4, seed=9, first_patient=50
    )
    added = fit(str(extra), batch="second", settings=ready)
    assert added.calibrating_groups == load_detector_card(Store(ready.store)).calibrating_groups
    outcome = retract(batch="second", settings=ready)
    assert outcome.statistics == "v0003"
    assert outcome.calibrating_groups == (added.calibrating_groups or 0) - 3
    assert_close(statistics(ready), before, 1e-10)


def test_statistics_that_an_older_version_wrote_are_built_on_and_taken_from(
    ready: Settings, tmp_path: Path
) -> None:
    """Up to 0.1 moments of normalised features lay beside the others, and nothing on slides."""
    store, before = Store(ready.store), statistics(ready)
    raw = {name: values for name, values in before.items() if "/raw/" in name}
    of_unit = {name.replace("/raw/", "/unit/"): values + 1 for name, values in raw.items()}
    content = arrays_to_bytes(raw | of_unit)
    lineage = load_statistics(store, "m", 1).model_copy(
        update={"digest": digest_of(content), "schema_version": 1}
    )
    store.write_bytes(content, "statistics", "m", "v0001", "moments.safetensors")
    lineage.write(store, "statistics", "m", "v0001", "lineage.json")
    extra = tmp_path / "extra"
    write_collection(
        extra, patients=3, cells_per_patient=9, parasitized_fraction=0.4, seed=9, first_patient=50
    )
    added = fit(str(extra), batch="second", settings=ready)
    assert (added.statistics, added.failed) == ("v0002", False)
    assert statistics(ready).keys() == before.keys()
    outcome = retract(batch="second", settings=ready)
    assert (outcome.statistics, outcome.images) == ("v0003", lineage.images)
    assert_close(statistics(ready), before, 1e-10)
    outcome = retract(batch="first", settings=ready)
    assert not any(ClassStatistics.from_arrays(statistics(ready)).n)


@pytest.mark.parametrize("kind", ["patient", "slide"])
def test_retracting_equals_never_having_been_fitted(
    images: Path, ready: Settings, kind: str
) -> None:
    store = Store(ready.store)
    card, batch = load_card(store, "m"), load_batch(store, "first")
    manifest = read_manifest(store, batch).to_pylist()
    fitted_rows = [row for row in manifest if row["patient_id"] not in card.held_out]
    gone = fitted_rows[0][f"{kind}_id"]
    retract(**{kind: gone}, settings=ready)
    block = read_block(store, "m", "first", 0, batch.rows)
    keep = [
        i
        for i, row in enumerate(manifest)
        if row["patient_id"] not in card.held_out and row[f"{kind}_id"] != gone
    ]
    state = ClassStatistics.from_arrays(statistics(ready))
    for tap, features in block.taps.items():
        for c in range(2):
            rows = features[[i for i in keep if block.label[i] == c]].astype(np.float64)
            moments = state.taps[tap]
            assert moments.n[c] == len(rows)
            np.testing.assert_allclose(moments.mean[c], rows.mean(0), rtol=1e-10, atol=1e-12)
            oracle = (rows - rows.mean(0)).T @ (rows - rows.mean(0))
            assert np.abs(moments.scatter[c] - oracle).max() <= 1e-10 * np.abs(oracle).max()
    with pytest.raises(StoreError, match="is not in statistics"):
        retract(**{kind: gone}, settings=ready)


def flip(store: Store, *parts: str, byte: int = -1, bit: int = 6) -> None:
    """Turn one bit of a file over."""
    content = bytearray(store.read_bytes(*parts))
    content[byte] ^= 1 << bit
    store.write_bytes(bytes(content), *parts)


def other_digest(store: Store) -> None:
    parts = ("batches", "first", "ledger", "m", "000001.json")
    store.write_json(store.read_json(*parts) | {"digest": 64 * "0"}, *parts)


def fitted_row(store: Store) -> int:
    """The first row of the second shard that is in the statistics, counted from the shard's."""
    card, manifest = load_card(store, "m"), read_manifest(store, load_batch(store, "first"))
    patients = manifest["patient_id"].to_pylist()[32:64]
    return next(row for row, patient in enumerate(patients) if patient not in card.held_out)


FEATURES = ("features", "m", "first.zarr")
DAMAGE: dict[str, Callable[[Store], None]] = {
    "status": lambda store: flip(store, *FEATURES, "status", "c", "1", byte=fitted_row(store)),
    "label": lambda store: flip(store, *FEATURES, "label", "c", "1", byte=fitted_row(store), bit=0),
    "tap": lambda store: flip(
        store, *FEATURES, "tap", sorted(load_card(store, "m").tap_widths)[0], "c", "1", "0"
    ),
    "digest in the ledger": other_digest,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_features_that_are_not_those_of_the_ledger_end_every_change_of_the_statistics(
    images: Path, ready: Settings, tmp_path: Path, damage: str
) -> None:
    store, folder = Store(ready.store), Path(ready.store)
    write_collection(
        tmp_path / "extra", patients=3, cells_per_patient=4, parasitized_fraction=0.5, seed=9,
        first_patient=50,
    )  # fmt: skip
    DAMAGE[damage](store)

    def kept() -> list[Path]:
        return sorted([*(folder / "statistics").rglob("v*"), *(folder / "detectors").iterdir()])

    before = kept()
    patient = read_manifest(store, load_batch(store, "first"))["patient_id"][0].as_py()
    strict = ready.model_copy(update={"alpha": 0.01})
    for change in (
        lambda: retract(batch="first", settings=ready),
        lambda: retract(patient=patient, settings=ready),
        lambda: fit(str(tmp_path / "extra"), batch="second", settings=ready),
        lambda: fit(str(images / "smears"), batch="first", settings=strict),
    ):
        with pytest.raises(
            (StoreError, ClusterError), match=r"rows \d+ to \d+ .*restore .* from a backup"
        ) as refused:
            change()
        assert "batch first" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert kept() == before


def test_retracting_all_leaves_statistics_but_no_detector(ready: Settings) -> None:
    outcome = retract(batch="first", settings=ready)
    assert outcome.failed
    assert outcome.detector is None
    assert "no Parasitized and no Uninfected image" in outcome.warnings[0]


def test_another_alpha_makes_another_detector_of_the_same_statistics(
    images: Path, ready: Settings
) -> None:
    strict = ready.model_copy(update={"alpha": 0.01})
    outcome = fit(str(images / "smears"), batch="first", settings=strict)
    assert outcome.statistics == "v0001"
    assert outcome.detector == "m-v0001-2"
    assert outcome.alpha == 0.01


def test_a_batch_without_labels_or_with_unknown_ones_is_refused(
    images: Path, ready: Settings, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="has a label"):
        fit(str(images / "night"), batch="night", settings=ready)
    path = next((images / "smears" / "Uninfected").glob("*.png"))
    (tmp_path / "odd.csv").write_text(f"uri,label\n{path},healthy\n")
    with pytest.raises(SourceError, match="healthy"):
        fit(str(tmp_path / "odd.csv"), batch="odd", settings=ready)


# --- screen


def test_every_image_of_the_night_is_in_the_report_once(images: Path, ready: Settings) -> None:
    outcome = screen_night(images, ready, date=date(2026, 3, 1))
    rows = rows_of(outcome)
    names = [str(row["uri"]).rsplit("/", 1)[1] for row in rows]
    assert sorted(names) == sorted(path.name for path in (images / "night").iterdir())
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) == 1 == sum(outcome.failures.values())
    assert str(failed[0]["failure"]).startswith("damaged: ")
    assert failed[0]["verdict"] == "review"
    assert failed[0]["diagnosis"] is None
    assert "batch_date=2026-03-01/night.parquet" in outcome.report


def test_the_report_has_the_columns_it_promises(images: Path, ready: Settings) -> None:
    outcome = screen_night(images, ready)
    card = load_card(Store(ready.store), "m")
    schema = of_attempt(image_schema(card.classes, sorted(card.network["taps"])), 1)
    assert pq.ParquetFile(outcome.report).schema_arrow.equals(schema, check_metadata=True)
    row = next(row for row in rows_of(outcome) if row["status"] == "scored")
    empty = {name for name, value in row.items() if value is None}
    assert empty <= {"label", "failure", "review_reason", *PIECE}


def test_planted_images_are_more_abnormal_than_cells(images: Path, ready: Settings) -> None:
    outcome = screen_night(images, ready)
    (noise,) = duckdb.sql(
        f"SELECT count(*) FROM '{outcome.report}' WHERE abnormal AND q_value <= 0.2"
    ).fetchall()
    assert noise[0] >= 4


def test_a_published_batch_is_not_done_again(images: Path, ready: Settings) -> None:
    first = screen_night(images, ready)
    before = Path(first.report).stat().st_mtime_ns
    again = screen_night(images, ready)
    assert again.repeated
    assert "nothing to do" in again.text()
    assert Path(first.report).stat().st_mtime_ns == before


def test_a_resumed_run_does_only_what_is_left_and_ends_in_the_same_bytes(
    images: Path, ready: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = ready.model_copy(update={"shard_rows": 8})
    undisturbed = ready.model_copy(update={"store": str(tmp_path / "undisturbed")})
    shutil.copytree(ready.store, undisturbed.store)
    reference = screen_night(images, undisturbed)

    with monkeypatch.context() as patched:
        patched.setattr(batch_module, "run_shard", _dies_at_the_third_shard)
        with pytest.raises(ClusterError, match=r"rows 16 to 24.*run the same"):
            screen(str(images / "night"), batch="night", settings=ready)
    assert not list((Path(ready.store) / "reports").rglob("*.parquet"))
    ledger = Path(ready.store) / "batches" / "night" / "ledger" / "m"
    done = {path.name: path.stat().st_mtime_ns for path in ledger.iterdir()}
    assert "000000.json" in done
    assert "000002.json" not in done

    outcome = screen_night(images, ready)
    after = {path.name: path.stat().st_mtime_ns for path in ledger.iterdir()}
    assert {name: after[name] for name in done} == done
    theirs = Path(undisturbed.store) / "batches" / "night" / "ledger" / "m"
    assert {path.name: path.read_bytes() for path in ledger.iterdir()} == {
        path.name: path.read_bytes() for path in theirs.iterdir()
    }
    table, expected = (
        pq.ParquetFile(each.report).read().drop_columns(["scored_at"])
        for each in (outcome, reference)
    )
    assert table.equals(expected)
    mine, others = reports_of(ready, "night"), reports_of(undisturbed, "night")
    for kind in ("slides", "batches"):
        table, expected = (
            pq.ParquetFile(paths[kind]).read().drop_columns(["scored_at"])
            for paths in (mine, others)
        )
        assert table.equals(expected)


def reports_of(settings: Settings, name: str) -> dict[str, Path]:
    """The files of a batch's reports by kind."""
    store = Store(settings.store)
    day = load_batch(store, name).batch_date
    return {kind: Path(store.path(*report_path(name, day, kind))) for kind in KINDS}


def test_a_night_has_a_summary_by_slide_and_a_light(images: Path, ready: Settings) -> None:
    outcome = screen_night(images, ready)
    cells = duckdb.sql(
        f"SELECT slide_id, count(*), count(*) FILTER (abnormal), count(*) FILTER "
        f"(diagnosis = 'Parasitized') FROM '{outcome.report}' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    paths = reports_of(ready, "night")
    schemas = {"slides": slide_schema(), "batches": batch_schema()}
    for kind, schema in schemas.items():
        # Parquet has names of its own for what is in a list, so types are not compared.
        assert [(field.name, field.metadata) for field in pq.read_schema(paths[kind])] == [
            (field.name, field.metadata) for field in schema
        ]
    slides = pq.ParquetFile(paths["slides"]).read().to_pylist()
    named = ("slide_id", "cells", "abnormal", "parasitized")
    assert [tuple(row[name] for name in named) for row in slides] == cells
    assert len(slides) > 1
    (night,) = pq.ParquetFile(paths["batches"]).read().to_pylist()
    assert night["images"] == outcome.images == sum(row["cells"] for row in slides)
    assert night["scored"] == outcome.scored == sum(night["p_values"])
    taps = load_card(Store(ready.store), "m").tap_widths
    assert {tap: sum(counts) for tap, counts in night["tap_scores"]} == dict.fromkeys(
        taps, outcome.scored
    )
    assert night["light"] == outcome.light != "green"  # planted images, and one file cut short
    assert night["reasons"] == outcome.reasons
    assert night["slides"] == len(slides)
    assert outcome.slides_for_review == sum(row["verdict"] == "review" for row in slides)
    assert f"{outcome.light}: " in outcome.text()
    assert f"{outcome.slides_for_review} slides" in outcome.text()


@pytest.mark.parametrize("gone", ["slides", "batches", "images"])
def test_a_report_that_is_missing_is_published_again_with_the_same_bytes(
    images: Path, ready: Settings, gone: str
) -> None:
    screen_night(images, ready, date=date(2026, 3, 5))
    paths = reports_of(ready, "night")
    before = {kind: path.read_bytes() for kind, path in paths.items()}
    paths[gone].unlink()
    again = screen_night(images, ready)
    assert not again.repeated
    assert {kind: path.read_bytes() for kind, path in paths.items()} == before
    third = screen_night(images, ready)
    assert third.repeated
    assert (third.light, third.reasons) == (again.light, again.reasons)
    assert third.slides_for_review == again.slides_for_review


def test_a_batch_that_an_older_version_sealed_is_published_again(
    images: Path, ready: Settings
) -> None:
    """Its images are not needed, for its features are kept."""
    first = screen_night(images, ready)
    store = Store(ready.store)
    seal = ("batches", "night", "sealed", f"{first.detector}.json")
    old = store.read_json(*seal) | {"schema_version": 1}
    del old["slides_digest"], old["batch_digest"]
    store.write_json(old, *seal)
    store.remove("reports", "slides")
    store.remove("reports", "batches")
    again = screen_night(images, ready)
    assert not again.repeated
    assert all(path.exists() for path in reports_of(ready, "night").values())
    assert screen_night(images, ready).repeated


def test_a_night_is_compared_with_earlier_nights_and_a_rerun_replaces_its_row(
    images: Path, ready: Settings
) -> None:
    """Neither with itself nor with later nights."""
    store = Store(ready.store)
    sources = {}
    for day in (1, 2, 4):
        # Nights without the file that is cut short.
        sources[day] = str(images / "smears" / ("Uninfected" if day == 4 else "Parasitized"))
        screen(sources[day], batch=f"night-{day}", date=date(2026, 3, day), settings=ready)

    def row(day: int) -> dict[str, object]:
        path = report_path(f"night-{day}", date(2026, 3, day), "batches")
        found: dict[str, object] = read_table(store, *path).to_pylist()[0]
        return found

    assert [row(day)["nights"] for day in (1, 2, 4)] == [0, 1, 2]
    before = row(2)
    screen(sources[2], batch="night-2", force=True, settings=ready)
    assert row(2)["nights"] == 1
    same = before.keys() - {"scored_at"}
    assert {name: row(2)[name] for name in same} == {name: before[name] for name in same}
    folder = Path(ready.store) / "reports" / "batches"
    assert len(list(folder.rglob("*.parquet"))) == 3


def test_a_night_without_images_is_red_until_they_have_come(
    images: Path, ready: Settings, tmp_path: Path
) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with pytest.raises(ImagesFailedError, match="no images for batch night") as failure:
        screen(str(inbox), batch="night", settings=ready)
    assert failure.value.outcome.failed
    assert failure.value.outcome.light == "red"
    assert failure.value.outcome.reasons == ["there are no images"]
    paths = reports_of(ready, "night")
    assert pq.read_metadata(paths["images"]).num_rows == 0
    assert pq.ParquetFile(paths["batches"]).read()["light"].to_pylist() == ["red"]
    for path in sorted((images / "smears" / "Uninfected").glob("*.png"))[:3]:
        shutil.copy(path, inbox)
    outcome = screen(str(inbox), batch="night", settings=ready)
    assert (outcome.images, outcome.scored) == (3, 3)
    assert pq.read_metadata(paths["images"]).num_rows == 3


def test_nothing_is_fitted_without_images(ready: Settings, tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    with pytest.raises(SourceError, match=r"no image of .* has a label"):
        fit(str(tmp_path / "inbox"), batch="none", settings=ready)


def _dies_at_the_third_shard(job: object) -> object:
    if job.shard.number == 2:  # type: ignore[attr-defined]
        raise RuntimeError("the worker is gone")
    return run_shard(job)  # type: ignore[arg-type]


def test_a_batch_name_belongs_to_its_images_and_its_day(images: Path, ready: Settings) -> None:
    screen_night(images, ready, date=date(2026, 3, 1))
    with pytest.raises(StoreError, match="was started on"):
        screen(str(images / "smears"), batch="night", settings=ready)
    with pytest.raises(StoreError, match="belongs to 2026-03-01"):
        screen(str(images / "night"), batch="night", date=date(2026, 3, 2), settings=ready)


def test_several_sources_are_one_batch_which_resumes_with_the_same(
    images: Path, ready: Settings, tmp_path: Path
) -> None:
    sources = []
    for patient in ("C1P101", "C1P102"):
        folder = tmp_path / patient
        folder.mkdir()
        for number, file in enumerate(sorted((images / "smears").glob("*/*.png"))[:3]):
            shutil.copy(file, folder / f"{patient}thinF_IMG_20260101_000000_cell_{number}.png")
        sources.append(str(folder))
    once = screen(sources, batch="two", settings=ready)
    assert once.images == 6
    assert load_batch(Store(ready.store), "two").sources == tuple(sources)
    assert screen(sources, batch="two", settings=ready).repeated
    assert f"--images {sources[0]} --images {sources[1]}" in Path(once.page).read_text()
    with pytest.raises(StoreError, match=f"from {sources[0]}, {sources[1]} "):
        screen(sources[0], batch="two", settings=ready)
    alone = screen(sources[:1], batch="one", settings=ready)
    assert load_batch(Store(ready.store), "one").images == sources[0]
    assert screen(sources[0], batch="one", settings=ready).report == alone.report


def test_a_manifest_of_ours_is_the_only_source_of_a_batch(images: Path, ready: Settings) -> None:
    review = f"{ready.store}/reviews/night/0001.parquet"
    with pytest.raises(StoreError, match="as the only --images"):
        screen([review, str(images / "night")], batch="mixed", settings=ready)


def test_another_detector_scores_the_same_features_again_without_the_images(
    images: Path, ready: Settings, tmp_path: Path
) -> None:
    night = tmp_path / "night"
    shutil.copytree(images / "night", night)
    with pytest.raises(ImagesFailedError) as first:
        screen(str(night), batch="night", settings=ready)
    strict = ready.model_copy(update={"alpha": 0.01})
    fit(str(images / "smears"), batch="first", settings=strict)
    shutil.rmtree(night)
    with pytest.raises(ImagesFailedError) as second:
        screen(str(night), batch="night", settings=ready)
    a, b = first.value.outcome, second.value.outcome
    assert (a.detector, b.detector) == ("m-v0001", "m-v0001-2")
    assert b.report == a.report
    assert b.abnormal <= a.abnormal


def test_the_queries_of_the_readme_work(
    images: Path, ready: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen_night(images, ready)
    monkeypatch.chdir(Path(ready.store).parent)
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```(sql|python)\n(.*?)```", readme, re.DOTALL)
    assert [language for language, _ in blocks] == ["sql", "python", "python"]
    assert duckdb.sql(blocks[0][1]).fetchall()
    for _, code in blocks[1:]:
        exec(code, {})


def test_status_lists_what_is_there(images: Path, ready: Settings) -> None:
    screen_night(images, ready)
    outcome = status(ready)
    assert [row["model"] for row in outcome.models] == ["m"]
    assert [row["version"] for row in outcome.statistics] == ["v0001"]
    assert [row["batch"] for row in outcome.batches] == ["first", "night"]
    assert outcome.batches[1]["failed"] == 1
    for word in ("m-v0001", "night", "Uninfected"):
        assert word in outcome.text()


def test_an_empty_store_has_a_status(tmp_path: Path) -> None:
    assert "no models" in status(Settings(store=str(tmp_path / "nothing"))).text()


# --- cluster


def test_work_comes_back_in_order_and_a_bounded_number_is_in_flight() -> None:
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        taken: list[int] = []

        def jobs() -> Iterator[int]:
            for i in range(40):
                taken.append(i)
                yield i

        results = run_in_order(client, _square, jobs(), title="squares")
        assert next(results) == 0
        assert len(taken) <= 10
        assert list(results) == [i * i for i in range(1, 40)]


def _square(i: int) -> int:
    return i * i
