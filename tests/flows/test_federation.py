"""Statistics travel between stores, and no cell does."""

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from flows.commands.status import verify
from flows.federation import export, import_file
from flows.fit import FitOutcome, fit, retract
from flows.screen import ScreenOutcome, screen
from flows.settings import Settings
from flows.sites.description import Offer
from storage.models.statistics import Lineage, latest_statistics, load_moments
from storage.store import Store, StoreError
from tasks.detector.moments import ClassStatistics
from tasks.synthetic.rendered_cells import write_collection
from tests.support.fitted import copied


def statistics(settings: Settings) -> tuple[Lineage, ClassStatistics]:
    latest = latest_statistics(Store(settings.store), "tiny")
    assert latest is not None
    return latest, ClassStatistics.from_arrays(load_moments(Store(settings.store), latest))


def assert_same(a: ClassStatistics, b: ClassStatistics) -> None:
    for tap in b.taps:
        for name in ("n", "mean", "scatter"):
            found, wanted = (getattr(s.taps[tap], name) for s in (a, b))
            assert_allclose(found, wanted, rtol=1e-12, atol=1e-12 * np.abs(wanted).max())


def test_merged_statistics_equal_those_of_one_store_and_are_taken_out_again(
    tiny_ready: Settings, tmp_path: Path
) -> None:
    here, there = tiny_ready, copied(tiny_ready, tmp_path / "there")
    for number in (1, 2):
        write_collection(
            tmp_path / f"cells-{number}", patients=2, cells_per_patient=8,
            parasitized_fraction=0.5, seed=40 + number, first_patient=500 * number,
        )  # fmt: skip
    fit(str(tmp_path / "cells-1"), batch="night", settings=there)
    file = str(tmp_path / "there.sw")
    assert "no image" in export(file, model="tiny", settings=there).text()
    assert b"P500" not in Path(file).read_bytes()
    with pytest.raises(StoreError, match="is there already"):
        export(file, model="tiny", settings=there)

    alone, before = statistics(here)
    night = str(tmp_path / "cells-2")
    assert _imported(screen(night, batch="before", settings=here)) is None
    offer = import_file(file, settings=here)
    assert isinstance(offer, Offer)
    assert re.search(r"of 16 cells of batch before, \d+ are beyond", offer.text())
    outcome = import_file(file, accept=True, settings=here)
    assert isinstance(outcome, FitOutcome)
    # The batch that both stores have counts once.
    assert outcome.changed.startswith("1 batch of another store: 16 images added")
    assert outcome.detector is not None
    lineage, merged = statistics(here)
    assert_same(merged, statistics(there)[1])
    assert merged.slides is not None
    named = [key.patient for key in merged.slides.keys if key.batch.startswith("night-")]
    assert named
    assert all(len(name) == 16 for name in named)
    assert not (merged.slides.n[[len(k.patient) == 16 for k in merged.slides.keys]] == 1).any()
    again = import_file(file, accept=True, settings=here)
    assert "count once" in again.changed
    assert verify(settings=here).damaged == []

    (foreign,) = [each for each in lineage.contributions if each.foreign]
    assert foreign.batch.startswith("night-")
    screened = screen(night, batch="after", settings=here)
    assert _imported(screened) == f"detector {outcome.detector}: 16 images: {foreign.batch}"
    assert f"16 images: {foreign.batch}" in Path(screened.page).read_text()
    retract(batch=foreign.batch, settings=here)
    assert_same(statistics(here)[1], before)
    assert [c.batch for c in statistics(here)[0].contributions] == [
        c.batch for c in alone.contributions
    ]


def _imported(outcome: ScreenOutcome) -> str | None:
    """Read what the report on batches says of other stores."""
    file = outcome.report.replace("/images/", "/batches/")
    (found,) = pq.read_table(file, partitioning=None)["imported"].to_pylist()
    return found


def test_files_that_are_damaged_or_of_another_model_are_refused_in_a_line(
    tiny_ready: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    export(str(file), model="tiny", settings=tiny_ready)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    for name, bad in (("flipped", bytes(content)), ("short", bytes(content[:500])), ("none", b"")):
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(StoreError, match="damaged"):
            import_file(str(tmp_path / name), accept=True, settings=tiny_ready)
    with pytest.raises(StoreError, match="there is no file"):
        import_file(str(tmp_path / "never"), accept=True, settings=tiny_ready)
    monkeypatch.setattr("flows.federation.list_models", lambda *_: [])
    with pytest.raises(StoreError, match="different models cannot be merged"):
        import_file(str(file), accept=True, settings=tiny_ready)
