"""The detectors of an evaluation, fitted and scored in this process on features of a few cells."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.smears.jobs.evaluation import images
from flows.smears.jobs.evaluation.images import Run, SetShard, read_treated, shards, treat
from flows.smears.jobs.evaluation.scores import ScoringJob, score_shard
from storage.batches.manifests import read_manifest
from storage.parquet import write_table
from storage.smears.evaluations import images_path
from tasks.smears.evaluation.scored import CLEAN, FILE, OWN, Treatment
from tests.support.shards import add_detector, start


@pytest.fixture
def run(store_with_model: Any, cells: Any) -> Run:
    """An evaluation whose images are all those of a night."""
    night = start(store_with_model, cells)
    card, _ = add_detector(night)
    table = read_manifest(night.store, night.batch)
    for name in ("fitted", "test"):
        listed = table.append_column("group", table["patient_id"].cast(pa.string()))
        write_table(night.store, listed, *images_path("e", card.name, name))
    return Run(night.store, "e", card, night.card)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make shards of 16 images."""
    monkeypatch.setattr(images, "ROWS", 16)


def made(run: Run, images: str, treatment: Treatment = CLEAN) -> tuple[SetShard, ...]:
    found = tuple(shards(run, images, treatment))
    for shard in found:
        treat(shard)
    return found


@pytest.mark.parametrize("size", [1, 5, 24, 25])
def test_the_shards_of_a_set_are_all_of_its_rows_once(
    run: Run, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "ROWS", size)
    found = shards(run, "test", CLEAN)
    assert [row for each in found for row in range(each.start, each.stop)] == list(range(24))
    assert len({each.path for each in found}) == len(found)


def test_clean_images_are_scored_by_all_and_corrupted_ones_by_slidewatch_alone(run: Run) -> None:
    fitted, clean = made(run, "fitted"), made(run, "test")
    (blurred, _) = made(run, "test", Treatment("corruption", "defocus", 5.0))
    scored = score_shard(ScoringJob(clean[0], clean, fitted)).forms[FILE]
    assert len(scored.scores) == 1 + 4
    assert all(np.isfinite(values).all() for values in scored.scores.values())
    rough = score_shard(ScoringJob(blurred, clean, fitted)).forms[FILE]
    assert set(rough.scores) == {OWN}
    assert not np.array_equal(rough.scores[OWN], scored.scores[OWN])
    assert read_treated(blurred).forms[FILE].odin is None
