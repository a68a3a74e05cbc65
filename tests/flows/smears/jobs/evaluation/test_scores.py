"""The detectors of an evaluation, fitted and scored in this process on features of a few cells."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.smears.jobs.evaluation import scores
from flows.smears.jobs.evaluation.images import Run, Shard, read_treated, shards, treat
from flows.smears.jobs.evaluation.scores import FitJob, ScoreJob, fit_compared, score_shard
from storage.batches.manifests import read_manifest
from storage.parquet import write_table
from storage.smears.evaluations import fitted_path, images_path, read_arrays
from tasks.network.backbones import every_stage
from tasks.network.spec import NetworkSpec
from tasks.smears.evaluation.scored import BORDER, OWN
from tasks.smears.evaluation.treated import CLEAN, FILE, Treatment
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


def made(run: Run, images: str, treatment: Treatment = CLEAN) -> tuple[Shard, ...]:
    found = tuple(shards(run, images, treatment, 24, 16))
    for shard in found:
        treat(shard)
    return found


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9])
def test_the_shards_of_a_set_are_all_of_its_rows_once(run: Run, rows: int) -> None:
    found = shards(run, "test", CLEAN, rows, 4)
    assert [row for each in found for row in range(each.start, each.stop)] == list(range(rows))
    assert len({each.path for each in found}) == len(found)


def test_clean_images_are_scored_by_all_and_corrupted_ones_by_slidewatch_alone(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "SAMPLE", 10)
    fitted, clean = made(run, "fitted"), made(run, "test")
    (blurred, _) = made(run, "test", Treatment("corruption", "defocus", 5.0))
    fit_compared(FitJob(run, fitted, 24))
    arrays = read_arrays(run.store, *fitted_path("e", run.detector.name))
    assert len(arrays["features"]) == len(arrays["labels"]) == 8  # every third of 24
    scored = score_shard(ScoreJob(clean[0], clean)).forms[FILE]
    assert len(scored.scores) == 2 + 4
    assert scored.layers.shape == (16, len(every_stage(NetworkSpec.from_dict(run.model.network))))
    assert all(np.isfinite(values).all() for values in scored.scores.values())
    rough = score_shard(ScoreJob(blurred, clean)).forms[FILE]
    assert set(rough.scores) == {OWN, BORDER}
    assert not np.array_equal(rough.scores[OWN], scored.scores[OWN])
    assert read_treated(blurred).forms[FILE].odin is None
