"""Screening end to end, on rendered cells and real Dask workers."""

import json
import re
import shutil
from datetime import date
from pathlib import Path

import anndata
import duckdb
import pyarrow.parquet as pq
import pytest

from flows.cluster.trials import ClusterError
from flows.fit import FitOutcome, fit
from flows.jobs.shard import ShardJob, ShardResult, run_shard
from flows.options.flows import Fit, Screen
from flows.settings import Settings
from flows.smears.night import NightOutcome, screen
from storage.batches.features import SCORED, read_block
from storage.batches.manifests import load_batch
from storage.models.classifiers import load_card
from storage.parquet import read_table
from storage.reports.schemas.images import image_schema
from storage.reports.tables import of_attempt, report_path
from storage.smears.schemas.batches import BATCH_SCHEMA
from storage.smears.schemas.slides import SLIDE_SCHEMA
from storage.store import Store, StoreError
from tasks.reports.image_rows import PIECE, SHAPE
from tasks.smears.reports.night import judged
from tests.support.fitted import copied
from tests.support.paths import ROOT
from tests.support.screening import screen_night

KINDS = ("images", "slides", "batches")
Screened = tuple[Settings, NightOutcome]


def rows_of(outcome: NightOutcome) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.ParquetFile(outcome.report).read().to_pylist()
    return found


@pytest.fixture(scope="module")
def screened(
    images: Path, fitted: tuple[Settings, FitOutcome], tmp_path_factory: pytest.TempPathFactory
) -> Screened:
    """A night that was screened, and settings of its store, which nobody changes."""
    settings = copied(fitted[0], tmp_path_factory.mktemp("screened") / "store")
    return settings, screen_night(images, settings, date=date(2026, 3, 1))


def test_every_image_of_the_night_is_in_the_report_once(images: Path, screened: Screened) -> None:
    _, outcome = screened
    rows = rows_of(outcome)
    names = [str(row["uri"]).rsplit("/", 1)[1] for row in rows]
    assert sorted(names) == sorted(path.name for path in (images / "night").iterdir())
    failed = [row for row in rows if row["status"] == "failed"]
    assert len(failed) == 1 == sum(outcome.failures.values())
    assert str(failed[0]["failure"]).startswith("damaged: ")
    assert failed[0]["verdict"] == "review"
    assert failed[0]["diagnosis"] is None
    assert failed[0]["image_id"]
    assert "batch_date=2026-03-01/night.parquet" in outcome.report
    planted = duckdb.sql(f"FROM '{outcome.report}' WHERE abnormal AND q_value <= 0.2")
    assert len(planted) >= 4


def test_the_report_has_the_columns_it_promises(screened: Screened) -> None:
    settings, outcome = screened
    card = load_card(Store(settings.store), "m")
    schema = of_attempt(image_schema(card.classes, card.distance_taps), 1)
    assert pq.ParquetFile(outcome.report).schema_arrow.equals(schema, check_metadata=True)
    row = next(row for row in rows_of(outcome) if row["status"] == "scored")
    empty = {name for name, value in row.items() if value is None}
    alone = {"network_probability", "statistics_probability"}  # too few cells are unseen for two
    alone |= {"steady"}  # this network is not sure
    assert empty <= {"label", "failure", "review_reason", *PIECE, *SHAPE, *alone}


@pytest.mark.parametrize(
    ("record", "figure", "other"), [("sealed/*.json", "abnormal", 1), ("batch.json", "rows", 4)]
)
def test_figures_that_are_not_those_of_the_report_are_not_repeated(
    images: Path, ready: Settings, record: str, figure: str, other: int
) -> None:
    screen_night(images, ready)
    (path,) = (Path(ready.store) / "batches" / "night").glob(record)
    stated = json.loads(path.read_text())
    assert stated[figure] != other
    path.write_text(json.dumps(stated | {figure: other}))
    with pytest.raises(StoreError, match=r"states other figures than the report: .*--force"):
        screen_night(images, ready)


def test_a_night_that_was_sealed_and_not_announced_is_announced_by_the_next_run(
    images: Path, ready: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies between its seal and its announcement must not cost a red night its alarm."""
    told: list[str] = []

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.smears.call.announce", die)
    with pytest.raises(KeyboardInterrupt):
        screen_night(images, ready)
    monkeypatch.setattr(
        "flows.smears.call.announce", lambda _, batch, *__, **___: not told.append(batch.name)
    )
    assert screen_night(images, ready).repeated
    assert told == ["night"]
    screen_night(images, ready)
    assert told == ["night"]


def test_a_resumed_run_does_only_what_is_left_and_ends_in_the_same_bytes(
    images: Path, ready: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ready = ready.model_copy(update={"shard_rows": 8})
    undisturbed = ready.model_copy(update={"store": str(tmp_path / "undisturbed")})
    shutil.copytree(ready.store, undisturbed.store)
    reference = screen_night(images, undisturbed)

    with monkeypatch.context() as patched:
        patched.setattr("flows.stages.batch.run_shard", _dies_at_the_third_shard)
        with pytest.raises(ClusterError, match=r"rows 16 to 24.*run the same"):
            screen.fn(Screen(images=str(images / "night"), batch="night"), ready)
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
            pq.ParquetFile(paths[kind]).read().to_pylist() for paths in (mine, others)
        )
        for row, other in zip(table, expected, strict=True):
            assert row | {"scored_at": None} == other | {"scored_at": None}


def reports_of(settings: Settings, name: str) -> dict[str, Path]:
    """The files of a batch's reports by kind."""
    store = Store(settings.store)
    day = load_batch(store, name).batch_date
    return {kind: Path(store.path(*report_path(name, day, kind))) for kind in KINDS}


def test_a_night_has_a_summary_by_slide_and_a_light(screened: Screened) -> None:
    settings, outcome = screened
    cells = duckdb.sql(
        f"SELECT slide_id, count(*), count(*) FILTER (abnormal), count(*) FILTER "
        f"(probability_Parasitized > 0.5) FROM '{outcome.report}' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    paths = reports_of(settings, "night")
    schemas = {"slides": SLIDE_SCHEMA, "batches": BATCH_SCHEMA}
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
    taps = load_card(Store(settings.store), "m").distance_taps
    assert {tap: sum(counts) for tap, counts in night["tap_scores"]} == dict.fromkeys(
        taps, outcome.scored
    )
    assert night["light"] == outcome.light != "green"  # planted images, and one file cut short
    assert night["reasons"] == outcome.reasons
    assert night["slides"] == len(slides)
    assert outcome.slides_for_review == sum(row["verdict"] == "review" for row in slides)
    assert f"  light       {outcome.light}\n" in outcome.text()
    assert f", {outcome.slides_for_review} slide" in outcome.text()


def test_a_folder_that_was_copied_gives_no_certainty(
    images: Path, ready: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for copy in range(4):
        shutil.copytree(images / "night", tmp_path / "inbox" / str(copy))
    outcome = screen.fn(Screen(images=str(tmp_path / "inbox"), batch="night"), ready)
    assert outcome.failed
    copied = [
        row["red_cells"] for row in pq.read_table(reports_of(ready, "night")["slides"]).to_pylist()
    ]
    count = len(list((images / "night").iterdir()))
    said = f"{3 * count} of {4 * count} images are copies of others"
    assert said in capsys.readouterr().err
    assert any(reason.startswith(said) for reason in outcome.reasons)
    assert sum(copied) == count - 1  # one file is cut short
    assert outcome.slides_for_review == len(copied)


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
    published = paths["images"].stat().st_mtime_ns
    third = screen_night(images, ready)
    assert third.repeated
    assert "nothing to do" in third.text()
    assert paths["images"].stat().st_mtime_ns == published
    assert (third.light, third.reasons) == (again.light, again.reasons)
    assert third.slides_for_review == again.slides_for_review


def test_a_night_is_compared_with_earlier_nights_and_a_rerun_replaces_its_row(
    images: Path, ready: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with itself nor with later nights."""
    # A network of one epoch is certain of nobody's cells, and red nights are not compared with.
    for name in ("UNREADABLE_RED", "NOBODY"):
        monkeypatch.setattr(judged, name, 2.0)
    store = Store(ready.store)
    sources = {}
    for day in (1, 2, 4):
        # Nights without the file that is cut short.
        sources[day] = str(images / "smears" / ("Uninfected" if day == 4 else "Parasitized"))
        screen.fn(Screen(images=sources[day], batch=f"night-{day}", date=date(2026, 3, day)), ready)

    def row(day: int) -> dict[str, object]:
        path = report_path(f"night-{day}", date(2026, 3, day), "batches")
        found: dict[str, object] = read_table(store, *path).to_pylist()[0]
        return found

    assert [row(day)["nights"] for day in (1, 2, 4)] == [0, 1, 2]
    before = row(2)
    screen.fn(Screen(images=sources[2], batch="night-2", force=True), ready)
    assert row(2)["nights"] == 1
    same = before.keys() - {"scored_at"}
    assert {name: row(2)[name] for name in same} == {name: before[name] for name in same}
    folder = Path(ready.store) / "reports" / "batches"
    assert len(list(folder.rglob("*.parquet"))) == 3


def _dies_at_the_third_shard(job: ShardJob) -> ShardResult:
    if job.shard.number == 2:
        raise RuntimeError("the worker is gone")
    return run_shard(job)


def test_a_batch_name_belongs_to_its_images_and_its_day(images: Path, ready: Settings) -> None:
    screen_night(images, ready, date=date(2026, 3, 1))
    with pytest.raises(StoreError, match="was started on"):
        screen.fn(Screen(images=str(images / "smears"), batch="night"), ready)
    with pytest.raises(StoreError, match="belongs to 2026-03-01"):
        screen.fn(Screen(images=str(images / "night"), batch="night", date=date(2026, 3, 2)), ready)


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
    once = screen.fn(Screen(images=sources, batch="two"), ready)
    assert once.images == 6
    assert load_batch(Store(ready.store), "two").images == tuple(sources)
    assert screen.fn(Screen(images=sources, batch="two"), ready).repeated
    assert f"--images {sources[0]} --images {sources[1]}" in Path(once.page).read_text()
    with pytest.raises(StoreError, match=f"from {sources[0]}, {sources[1]} "):
        screen.fn(Screen(images=sources[0], batch="two"), ready)
    alone = screen.fn(Screen(images=sources[:1], batch="one"), ready)
    assert load_batch(Store(ready.store), "one").images == sources[0]
    assert screen.fn(Screen(images=sources[0], batch="one"), ready).report == alone.report


def test_a_repeated_run_names_the_images_that_came_since(
    images: Path, ready: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "day"
    shutil.copytree(images, folder)
    assert screen_night(folder, ready).come_since == []
    assert screen_night(folder, ready).come_since == []
    file = next(folder.rglob("*.png"))
    shutil.copy(file, late := file.with_name("late.png"))
    again = screen_night(folder, ready)
    assert (again.repeated, again.come_since) == (True, [late.as_uri()])
    assert "was published before; 1 image came since (late.png): --force" in again.text()
    file.write_bytes(file.read_bytes() + b"another")  # photograph, under the same name
    changed = f"came since (late.png), 1 image changed since ({file.name}): --f"
    assert changed in screen_night(folder, ready).text()
    file.unlink()
    assert f"1 image disappeared since ({file.name}): --f" in screen_night(folder, ready).text()
    shutil.rmtree(folder)
    assert screen_night(folder, ready).come_since == []


def test_a_manifest_of_ours_is_the_only_source_of_a_batch(images: Path, ready: Settings) -> None:
    review = f"{ready.store}/labels/night/0001.parquet"
    with pytest.raises(StoreError, match="as the only --images"):
        screen.fn(Screen(images=[review, str(images / "night")], batch="mixed"), ready)


def test_another_detector_replaces_a_report_by_force(images: Path, ready: Settings) -> None:
    night = images / "night"
    a = screen.fn(Screen(images=str(night), batch="night"), ready)
    strict = ready.model_copy(update={"alpha": 0.01})
    later = fit.fn(Fit(images=str(images / "smears"), batch="first"), strict)
    again = screen.fn(Screen(images=str(night), batch="night"), ready)
    assert (again.detector, again.repeated) == ("m-v0001", True)  # a batch keeps its detector
    wanted = Screen(images=str(night), batch="night", detector=later.detector, force=True)
    b = screen.fn(wanted, ready)
    assert (a.detector, b.detector) == ("m-v0001", "m-v0001-2")
    assert b.report == a.report
    assert b.abnormal <= a.abnormal


def test_the_queries_of_the_guides_work_and_their_ann_data_has_the_features_of_scored_cells(
    screened: Screened, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, outcome = screened
    monkeypatch.chdir(Path(settings.store).parent)
    guides = "".join((ROOT / room / "README.md").read_text() for room in ("storage", "flows"))
    blocks = re.findall(r"```(sql|python)\n(.*?)```", guides, re.DOTALL)
    assert [language for language, _ in blocks] == ["sql", *["python"] * 4]
    assert duckdb.sql(blocks[0][1]).fetchall()
    for _, code in blocks[1:]:
        exec(code, {})
    block = read_block(Store(settings.store), "m", "night", 0, outcome.images)
    cells = anndata.read_h5ad("night.h5ad")
    assert cells.obs_names.tolist() == [r["uri"] for r in rows_of(outcome) if not r["failure"]]
    for tap, values in block.taps.items():
        assert (values[block.status == SCORED] == cells[:, cells.var["tap"] == tap].X).all()
    diagnoses = [row["diagnosis"] for row in rows_of(outcome) if not row["failure"]]
    assert cells.obs["diagnosis"].tolist() == diagnoses
