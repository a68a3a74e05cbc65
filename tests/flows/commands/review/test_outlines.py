"""GeoJSON goes to QuPath and comes back, edited."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows.commands.exports.qupath import contours
from flows.commands.review.outlines import OutlinesOutcome
from flows.commands.review.queue import import_verdicts
from flows.settings import Settings
from storage.reports.reviews import latest_review
from storage.store import Store
from tasks.images.access.files import SourceError
from tasks.images.manifest import SCHEMA
from tasks.images.regions import find, image_refs
from tasks.readers.verdicts import VerdictError
from tests.support.photographs import CELLS, screened_photograph

Edit = Callable[[list[dict[str, Any]]], None]


@pytest.fixture
def photograph(store_with_model: Store, tmp_path: Path) -> Store:
    """A photograph of six cells, cut up and screened."""
    return screened_photograph(store_with_model, tmp_path)


def edited(store: Store, folder: Path, edit: Edit) -> str:
    """Write contours, and edit them as a person does in QuPath."""
    contours("night", str(folder / "to"), settings=Settings(store=store.url))
    path = folder / "to" / "field.png.geojson"
    found = json.loads(path.read_text())
    edit(found["features"])
    path.write_text(json.dumps(found))
    return str(path)


def imported(store: Store, file: str, **given: Any) -> OutlinesOutcome:
    outcome = import_verdicts(geojson=file, batch="night", reader="Ada",
                              settings=Settings(store=store.url), **given)  # fmt: skip
    assert isinstance(outcome, OutlinesOutcome)
    return outcome


def name(feature: dict[str, Any], classification: str) -> None:
    feature["properties"]["classification"] = {"name": classification}


def disc(x: float, y: float, radius: float = 25.0) -> list[list[float]]:
    angles = np.linspace(0, 2 * np.pi, 33)
    return (np.array([x, y]) + radius * np.column_stack([np.cos(angles), np.sin(angles)])).tolist()


def new(ring: list[Any], classification: str | None = "p") -> dict[str, Any]:
    made: dict[str, Any] = {"type": "Feature", "id": "new", "properties": {}}
    made["geometry"] = {"type": "Polygon", "coordinates": [ring]}
    if classification is not None:
        name(made, classification)
    return made


def test_what_comes_back_as_it_went_says_nothing(photograph: Store, tmp_path: Path) -> None:
    outcome = imported(photograph, edited(photograph, tmp_path, lambda _: None))
    assert (outcome.new, outcome.changed, outcome.as_written) == (0, 0, CELLS)
    assert (outcome.moved, outcome.drawn) == (0, 0)
    assert latest_review(photograph, "night").number == 0


def test_classes_come_back_as_verdicts_and_outlines_as_cells(
    photograph: Store, tmp_path: Path
) -> None:
    def edit(features: list[dict[str, Any]]) -> None:
        _, first, second, third, fourth, moved, _ = features
        name(first, "Not parasitized")  # it was abnormal
        name(second, "p")
        name(third, "w")
        name(fourth, "?")
        name(moved, "Parasitized")
        moved["geometry"]["coordinates"] = [disc(445, 55)]
        features.append(new(disc(575, 90)))

    file, cells = edited(photograph, tmp_path, edit), str(tmp_path / "drawn.parquet")
    told = imported(photograph, file, cells=cells, dry_run=True)
    assert (told.new, told.unsure, told.moved, told.drawn, told.as_written) == (3, 1, 1, 1, 1)
    assert "would have 3 new answers" in told.text()
    assert not Path(cells).exists()
    assert latest_review(photograph, "night").number == 0
    done = imported(photograph, file, cells=cells)
    rows = latest_review(photograph, "night").rows.to_pylist()
    assert {(row["verdict"], row["note"], row["reviewer"]) for row in rows} == {
        ("Uninfected", None, "Ada"),
        ("Parasitized", None, "Ada"),
        ("other", "white cell", "Ada"),
    }
    assert any(cells in command for command in done.commands)
    drawn = pq.read_table(cells)
    assert drawn.schema == SCHEMA
    assert drawn["label"].to_pylist() == ["Parasitized"] * 2
    assert drawn["touches_border"].to_pylist() == [False, True]
    assert set(drawn["slide_id"].to_pylist()) == {"s"}
    for ref, middle in zip(image_refs(drawn), ((445, 55), (575, 90)), strict=True):
        assert ref.region is not None
        assert ref.outline is not None
        found = ref.outline.mean(axis=0) + ref.region[:2]
        assert found == pytest.approx(np.array(middle) - 0.5, abs=1)
        assert find(ref).image().width > 50
    again = imported(photograph, file)
    assert (again.new, again.changed) == (0, 0)
    with pytest.raises(SourceError, match="there already"):
        imported(photograph, file, cells=cells)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda f: name(f[2], "Tumour"), "object 3: no answer is called 'Tumour'"),
        (lambda f: f.append(new(disc(900, 60))), "lies at 900, 60, outside all fields"),
        (lambda f: f.append(new(disc(1e9, 60))), r"a point at 1e\+09, but no slide has more"),
        (lambda f: f.append(new([[10, 10], [50, 50], [50, 10], [10, 50]])), "crosses itself"),
        (lambda f: f.append(new(disc(60, 60, 1e-3))), r"encloses 0\.0 pixels"),
        (lambda f: f.__delitem__(slice(None)), "no object in it is known"),
        (lambda f: f.__setitem__(slice(None), [new(disc(60, 60))]), "no object in it is known"),
        (lambda f: f.__setitem__(slice(1, None), [new(disc(60, 60))]), "there is no other cell"),
    ],
    ids=["class", "outside", "far", "crossing", "empty", "nothing", "strange", "field alone"],
)
def test_what_cannot_be_imported_changes_nothing(
    photograph: Store, tmp_path: Path, edit: Edit, said: str
) -> None:
    def all_of_it(features: list[dict[str, Any]]) -> None:
        name(features[1], "p")
        edit(features)

    file = edited(photograph, tmp_path, all_of_it)
    with pytest.raises(VerdictError, match=said) as caught:
        imported(photograph, file, cells=str(tmp_path / "drawn.parquet"))
    assert str(caught.value).startswith(file)
    assert latest_review(photograph, "night").number == 0
    assert not (tmp_path / "drawn.parquet").exists()


def test_a_folder_that_is_not_there_is_said_before_anything_is_kept(
    photograph: Store, tmp_path: Path
) -> None:
    file = edited(photograph, tmp_path, lambda features: name(features[1], "p"))
    with pytest.raises(SourceError, match="is no folder: make it, or give another --cells"):
        imported(photograph, file, cells=str(tmp_path / "none" / "drawn.parquet"))
    assert latest_review(photograph, "night").number == 0


def test_a_file_that_is_not_there_is_named(photograph: Store, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        imported(photograph, str(tmp_path / "none.geojson"))
