"""Scoring in a notebook gives the numbers of the report."""

from datetime import date
from pathlib import Path

import marimo
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from flows.api import Detector, Scored, open_store
from flows.options.flows import Screen
from flows.screen import screen
from flows.settings import Settings
from storage.store import StoreError
from tests.support.processes import python

OF_A_RUN = ["batch", "batch_date", "scored_at"]
USED = """
import sys
from flows.api import open_store
cells = open_store(sys.argv[1]).detector().score(sys.argv[2])
assert len(cells) and "<img" in cells._repr_html_()
print(sorted({name.split(".")[0] for name in sys.modules} & {"prefect", "dask", "distributed"}))
"""


@pytest.fixture(scope="module")
def detector(fitted: tuple[Settings, object]) -> Detector:
    return open_store(fitted[0].store).detector()


@pytest.fixture(scope="module")
def night(images: Path, detector: Detector) -> Scored:
    return detector.score(images / "night")


def test_the_numbers_are_those_of_the_report(images: Path, ready: Settings, night: Scored) -> None:
    outcome = screen(
        Screen(images=str(images / "night"), batch="night", date=date(2026, 3, 1)), ready
    )
    report = pd.read_parquet(outcome.report).drop(columns=OF_A_RUN)
    assert set(report["status"]) == {"scored", "failed"}
    mine = pd.DataFrame(night).drop(columns=OF_A_RUN)
    pd.testing.assert_frame_equal(mine, report, check_categorical=False, rtol=1e-6, atol=1e-6)


def test_pixels_are_scored_as_their_files_in_the_order_given(
    images: Path, detector: Detector, night: Scored
) -> None:
    scored = pd.DataFrame(night[night["status"] == "scored"])
    chosen = scored.sample(frac=1.0, random_state=0)
    files = [uri.removeprefix("file://") for uri in chosen["uri"]]
    pixels = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    mixed = [*pixels[:5], Image.open(files[5]), Path(files[6]), *pixels[7:]]
    found = detector.score(mixed, slides=list(chosen["slide_id"]), patients=chosen["patient_id"])
    assert list(found["slide_id"]) == list(chosen["slide_id"])
    assert found["uri"][0] == "picture 0"
    for name in ("probability_Parasitized", "abnormality", "p_value", "population_p_value"):
        np.testing.assert_allclose(found[name], chosen[name], rtol=1e-4, atol=1e-5)


def test_notebooks_show_pictures_that_stay_with_their_rows(
    night: Scored, detector: Detector
) -> None:
    assert repr(detector) == f"Detector({detector.name!r}, laboratory=None)"
    html = night._repr_html_()
    assert html.count("<img") == 20
    assert f"{len(night)} images" in html
    assert marimo.as_html(night).text == html
    last = night[night["status"] == "scored"].tail(1).reset_index(drop=True)
    assert isinstance(last, Scored)
    (picture,) = [part for part in last._repr_html_().split('"') if part.startswith("data:")]
    whole = pd.concat([night[night["status"] == "scored"].tail(1)])
    assert picture in Scored(whole).pipe(lambda _: last)._repr_html_()
    assert "<img" not in night[["p_value"]]._repr_html_()
    hostile = night.head(1).copy()
    hostile["slide_id"] = pd.Series(["<script>"], dtype=object)
    assert "<script>" not in hostile._repr_html_()
    tiny = Scored(pd.DataFrame(night).assign(probability_Parasitized=1e-36))
    assert "<td>0</td>" in tiny._repr_html_()
    assert "e-" not in tiny[["uri", "probability_Parasitized"]]._repr_html_()


def test_neither_prefect_nor_dask_is_imported(
    images: Path, fitted: tuple[Settings, object]
) -> None:
    done = python("-c", USED, fitted[0].store, str(images / "night"))
    assert done.stdout.strip() == "[]"


def test_a_store_keeps_nothing_of_it(
    fitted: tuple[Settings, object], images: Path, detector: Detector
) -> None:
    def files() -> list[str]:
        return sorted(str(path) for path in Path(fitted[0].store).rglob("*"))

    before = files()
    detector.score([np.zeros((40, 40, 3), np.uint8)])
    assert files() == before
    assert list(Path(detector._folder.name).glob("batches/*")) == []


def test_what_cannot_be_scored_is_said(detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"picture 1 is float64 \(4, 4, 3\): give uint8"):
        detector.score([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 3))])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="1 image, but 2 values of slide_id"):
        detector.score([np.zeros((4, 4), np.uint8)], slides=["a", "b"])
    with pytest.raises(StoreError, match="no store in"):
        open_store(tmp_path / "none")
    assert len(detector.score([])) == 0
