"""The promise that nothing strange is its own normal, from the command's flows to the reports."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.fit import fit
from flows.options.flows import Fit, Screen
from flows.settings import Settings
from flows.smears.night import screen
from storage.batches.manifests import load_batch
from storage.models.detectors import load_detector_card
from storage.reports.sql import answer
from storage.store import Store
from tests.support.fitted import copied
from tests.support.images import write_cells

ROWS = """select i.compared_with, i.abnormal, i.verdict, i.review_reason, s.implausible,
s.smear_shift, s.smear_spread, s.review_reasons from images i join slides s on i.batch = s.batch
and i.slide_id is not distinct from s.slide_id where i.batch = '{}'"""


@pytest.fixture(scope="module")
def made(by_slides: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store with a detector that knows slides, from patients of 40 cells."""
    return copied(by_slides, tmp_path_factory.mktemp("strange") / "store")


def rows(settings: Settings, batch: str) -> list[dict[str, object]]:
    with answer(Store(settings.store), ROWS.format(batch)) as found:
        return list(found.read_all().to_pylist())


def test_a_detector_knows_what_a_smear_can_be(made: Settings) -> None:
    floor = load_detector_card(Store(made.store)).floor
    assert floor is not None
    assert min(floor.shift, floor.spread, floor.reach) > 0
    smears = load_batch(Store(made.store), "smears").images
    again = fit.fn(Fit(images=smears, batch="smears"), made)
    assert again.detector == load_detector_card(Store(made.store)).name == "m-v0001"


def test_a_night_wholly_of_noise_is_no_smear_and_red(made: Settings, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(40):
        noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"picture {number}.png")
    outcome = screen.fn(Screen(images=str(tmp_path), batch="noise"), made)
    assert outcome.light == "red"
    assert any("cannot be a smear of blood" in reason for reason in outcome.reasons)
    assert outcome.patients == {"unreadable": 1}
    found = rows(made, "noise")
    assert len(found) == 40
    for row in found:
        assert row["implausible"]
        assert row["smear_shift"] > 1.0  # type: ignore[operator]
        assert "implausible" in row["review_reasons"]  # type: ignore[operator]
        assert row["compared_with"] == "population"
        assert row["abnormal"]
        assert row["verdict"] == "review"
        assert row["review_reason"].startswith(("unlike any smear", "abnormal"))  # type: ignore[attr-defined]
        assert row["review_reason"].endswith("its slide is no smear")  # type: ignore[attr-defined]
    assert (
        "Slides that cannot be a smear of blood"
        in Path(outcome.page.removeprefix("file://")).read_text()
    )


def test_ordinary_cells_without_names_stay_ordinary(made: Settings, tmp_path: Path) -> None:
    write_cells(tmp_path / "named", 4, 30, seed=9, first=60, parasitized=0.3)
    (tmp_path / "night").mkdir()
    for number, path in enumerate(sorted((tmp_path / "named").rglob("*.png"))):
        path.rename(tmp_path / "night" / f"picture {number}.png")
    screen.fn(Screen(images=str(tmp_path / "night"), batch="ordinary"), made)
    found = rows(made, "ordinary")
    assert len(found) == 120
    assert not found[0]["implausible"]
    assert np.mean([bool(row["abnormal"]) for row in found]) < 0.25
    assert not any("no smear" in str(row["review_reason"]) for row in found)
