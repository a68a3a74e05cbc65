"""`call` needs only the report on images, and finishes a night that was cut off before it."""

import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import pytest

from flows import screen as images_alone
from flows.options.flows import CallAgain, Screen
from flows.settings import Settings
from flows.smears import night
from flows.smears.call import call
from storage.store import StoreError
from tests.support import fitted, images

DAY = date(2026, 3, 1)


@dataclass
class Ward:
    """The cells of some patients, and a store of one's own."""

    settings: Settings
    wanted: Screen

    def patients(self) -> list[tuple[object, ...]]:
        path = Path(self.settings.store) / "reports" / "patients"
        return duckdb.sql(f"SELECT * FROM '{path}/**/*.parquet' ORDER BY ALL").fetchall()


@pytest.fixture
def ward(tiny_fitted: Settings, tmp_path: Path) -> Ward:
    images.write_cells(tmp_path / "night", 3, 6, seed=7, first=301)
    settings = fitted.copied(tiny_fitted, tmp_path / "store")
    return Ward(settings, Screen(images=str(tmp_path / "night"), batch="night", date=DAY))


def test_a_night_cut_off_before_its_calls_goes_on_with_the_same_command(ward: Ward) -> None:
    first = images_alone.screen.fn(ward.wanted, ward.settings)
    before = Path(first.report).read_bytes()
    assert not (Path(ward.settings.store) / "reports" / "patients").exists()
    outcome = night.screen.fn(ward.wanted, ward.settings)
    assert len(ward.patients()) == 3
    assert Path(outcome.page).exists()
    assert Path(outcome.report).read_bytes() == before
    assert night.screen.fn(ward.wanted, ward.settings).repeated


def test_a_batch_is_called_again_without_features(ward: Ward) -> None:
    outcome = night.screen.fn(ward.wanted, ward.settings)
    before = ward.patients()
    shutil.rmtree(Path(ward.settings.store) / "features")
    Path(outcome.page).unlink()
    again = call.fn(CallAgain(batch="night"), ward.settings)
    assert ward.patients() == before
    assert sum(again.patients.values()) == 3
    assert Path(again.page).exists()


def test_a_batch_without_a_report_is_not_called(ward: Ward) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        call.fn(CallAgain(batch="nowhere"), ward.settings)
