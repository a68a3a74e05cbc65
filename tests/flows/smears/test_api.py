"""Scoring in a notebook gives the numbers of the report."""

import gc
import html
import pickle
import re
from datetime import date
from pathlib import Path
from typing import NoReturn

import marimo
import numpy as np
import pandas as pd
import pytest
from botocore.exceptions import NoCredentialsError
from PIL import Image

from flows.options.flows import Screen
from flows.settings import Settings
from flows.smears.api import OpenDetector, open_store, sentence_of
from flows.smears.frames import Scored
from flows.smears.night import screen
from storage.models import shipped
from storage.parquet import read_table
from storage.reports.tables import PATIENTS, report_path
from storage.store import Store, StoreError
from tasks.images.access.files import SourceError
from tests.support.processes import python

OF_A_RUN = ["batch", "batch_date", "scored_at"]
USED = """
import psutil, sys
from flows.smears.api import open_store
cells = open_store(sys.argv[1]).detector().score(sys.argv[2], limit=4)
assert len(cells) and "<img" in cells._repr_html_()
print("prefect" in sys.modules, psutil.Process().children())
"""


@pytest.fixture(scope="module")
def detector(fitted: tuple[Settings, object]) -> OpenDetector:
    return open_store(fitted[0].store).detector()


@pytest.fixture(scope="module")
def night(images: Path, detector: OpenDetector) -> Scored:
    return detector.score(images / "night")


def test_the_numbers_are_those_of_the_report(images: Path, ready: Settings, night: Scored) -> None:
    outcome = screen.fn(
        Screen(images=str(images / "night"), batch="night", date=date(2026, 3, 1)), ready
    )
    report = pd.read_parquet(outcome.report).drop(columns=OF_A_RUN)
    assert set(report["status"]) == {"scored", "failed"}
    mine = pd.DataFrame(night).drop(columns=[*OF_A_RUN, "outline"])
    pd.testing.assert_frame_equal(mine, report, check_categorical=False, rtol=1e-6, atol=1e-6)


def test_pixels_are_scored_as_their_files_in_the_order_given(
    images: Path, detector: OpenDetector, night: Scored
) -> None:
    scored = pd.DataFrame(night[night["status"] == "scored"])
    chosen = scored.sample(frac=1.0, random_state=0)
    files = [uri.removeprefix("file://") for uri in chosen["uri"]]
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    mixed = [*pixels[:5], Image.open(files[5]), Path(files[6]), *pixels[7:]]
    found = detector.score(mixed, slides=list(chosen["slide_id"]), patients=chosen["patient_id"])
    assert list(found["slide_id"]) == list(chosen["slide_id"])
    assert found["uri"][0].endswith("/picture 0.png")
    for name in ("probability_Parasitized", "abnormality", "p_value", "population_p_value"):
        np.testing.assert_allclose(found[name], chosen[name], rtol=1e-4, atol=1e-5)


def test_notebooks_show_pictures_that_stay_with_their_rows(
    night: Scored, detector: OpenDetector
) -> None:
    assert repr(detector) == f"OpenDetector({detector.name!r})"
    table = night._repr_html_()
    assert table.count("<img") == 19  # one is cut short
    assert f"{len(night)} images" in table
    assert marimo.as_html(night).text == table
    last = night[night["status"] == "scored"].tail(1).reset_index(drop=True)
    assert isinstance(last, Scored)
    assert pickle.loads(pickle.dumps(last))._repr_html_() == last._repr_html_()
    (picture,) = [part for part in last._repr_html_().split('"') if part.startswith("data:")]
    whole = pd.concat([night[night["status"] == "scored"].tail(1)])
    assert picture in Scored(whole).pipe(lambda _: last)._repr_html_()
    assert "<img" not in night[["p_value"]]._repr_html_()
    hostile = night.head(1).copy()
    hostile["slide_id"] = pd.Series(["<script>"], dtype=object)
    assert "<script>" not in hostile._repr_html_()
    assert table.count("<th") == 2 + 8
    some = Scored({"uri": ["a", "b"], "p_value": [1e-36, 0.12345], "abnormality": [1.23456, None]})
    shown = re.findall(r"<td[^>]*>(.*?)</td>", some._repr_html_())
    assert shown == ["0", "", "&lt;0.001", "1.23", "1", "", "0.123", ""]


def test_neither_prefect_nor_another_process_is_needed(
    images: Path, fitted: tuple[Settings, object]
) -> None:
    done = python("-c", USED, fitted[0].store, str(images / "night"))
    assert done.stdout.strip() == "False []"


def test_a_store_keeps_nothing_of_it(
    fitted: tuple[Settings, object], detector: OpenDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", None)  # nor does anything wait for the disk

    def files() -> list[str]:
        return sorted(str(path) for path in Path(fitted[0].store).rglob("*"))

    before = files()
    detector.score([np.zeros((40, 40, 3), np.uint8)])
    assert files() == before
    kept = {path.name for path in Path(detector._folder.name).iterdir() if path.is_dir()}
    assert kept <= {".staged", "detectors", "models", "statistics", "tunings"}


def test_what_cannot_be_scored_is_said(
    detector: OpenDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"picture 1 is float64 \(4, 4, 3\): give uint8"):
        detector.score([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3))])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="1 image, but 2 values of slide_id"):
        detector.score([np.zeros((4, 4), np.uint8)], slides=["a", "b"])
    with pytest.raises(StoreError, match="no store in"):
        open_store(tmp_path / "none")
    assert len(detector.score([])) == 0
    empty, row = np.zeros((0, 5, 3), np.uint8), np.zeros(5, np.uint8)
    for wrong in (None, 7, b"bytes", [[1, 2]], empty, row, Image.new("RGB", (0, 5))):
        with pytest.raises(ValueError, match=r"^picture 0 is .*: give uint8 .* the address of a f"):
            detector.look(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images are given as NoneType: give a list"):
        detector.score(None)  # type: ignore[arg-type]

    def refuse(*_: object, **__: object) -> NoReturn:
        raise NoCredentialsError

    monkeypatch.setattr("flows.smears.api.screen_sources", refuse)
    with pytest.raises(SourceError, match=r"^s3://b/x.jpg: Unable to .*: check the address and"):
        detector.look("s3://b/x.jpg")


def test_a_photograph_is_seen_as_the_command_sees_it(photo: Path, tiny_ready: Settings) -> None:
    outcome = screen.fn(Screen(images=str(photo)), tiny_ready)
    seen = open_store(tiny_ready.store).detector().look(photo)
    patients = report_path(outcome.batch, date.today(), PATIENTS)
    called = read_table(Store(tiny_ready.store), *patients)
    assert seen.sentence == sentence_of(outcome, called)
    assert list(seen.patients["call"]) == called["call"].to_pylist()
    assert seen.light == outcome.light
    assert len(seen.patients) == len(seen.fields) == 1
    shown, page = html.unescape(seen._repr_html_()), Path(outcome.page).read_text()
    assert 0 < shown.count("<figure") == page.count("<figure")
    mine = pd.DataFrame(seen.cells).drop(columns=[*OF_A_RUN, "outline"])
    report = pd.read_parquet(outcome.report).drop(columns=OF_A_RUN)
    pd.testing.assert_frame_equal(mine, report, check_categorical=False, rtol=1e-6, atol=1e-6)
    whole = seen.cells[~seen.cells["touches_border"]]
    low = np.stack([outline.min(axis=0) for outline in whole["outline"]])
    np.testing.assert_allclose(low, whole[["x", "y"]], atol=2)


@pytest.mark.slow
def test_photographs_from_memory_give_their_cells_in_order(
    photo: Path, tiny_ready: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = open_store(tiny_ready.store).detector()
    pixels = np.asarray(Image.open(photo))
    cells = detector.score([pixels[::-1], Image.open(photo), photo], patients=["b", "a", "a"])
    sources = cells["source_uri"].unique()
    assert [source.rpartition("/")[2] for source in sources] == [
        "picture 0.png", "picture 1.png", photo.name,
    ]  # fmt: skip
    assert list(cells.groupby("patient_id", observed=True)["source_uri"].nunique()) == [2, 1]
    assert cells._repr_html_().count("<img") == 20
    assert "3 photographs of fields" in capsys.readouterr().err
    picture = Path(sources[0].removeprefix("file://"))
    assert picture.exists()
    del cells
    gc.collect()
    assert not picture.exists()


def test_without_a_store_the_detector_of_the_package_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store().store == shipped.shipped()
    assert "there is no store in" in capsys.readouterr().err
