import gc
import os
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flows.jobs.scoring import feature_rows as features_module
from flows.jobs.scoring.feature_rows import HeldFeatures
from flows.jobs.scoring.night import NightJob, describe_night
from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.scores import ScoreJob, score_part
from flows.jobs.scoring.screened import Screened
from storage.batches import manifests
from storage.batches.features import read_block
from storage.models.detectors import DetectorCard
from storage.parquet import iterate_groups, read_table
from storage.store import Store, StoreError
from tasks.detector.detector import Detector, score
from tests.support.drawn_slides import fitted_detector, made_up
from tests.support.models import CLASSES, WHEN
from tests.support.shards import Night, add_detector, keep_detector


def unnamed(parts: Any) -> tuple[tuple[int, int], ...]:
    slides = [slide for part in parts for slide in part.slides]
    return tuple((s.start, s.stop) for s in slides if s.slide is None and s.patient is None)


def score_night(night: Night, card: DetectorCard) -> None:
    """Score all parts of a night, as the stage does on a cluster."""
    parts = plan_parts(night.store, night.batch, by_slide=card.slides is not None)
    screened, whole = Screened(night.store, night.batch, night.card, card), None
    if card.slides is not None:
        whole = describe_night(NightJob(screened, unnamed(parts)))
    for part in parts:
        score_part(ScoreJob(screened, part, WHEN, whole))


def files_of(night: Night, kind: str) -> list[tuple[str, ...]]:
    folder = ("batches", night.batch.key, kind, "d")
    return [(*folder, name) for name in sorted(night.store.names(*folder))]


def scored_rows(night: Night) -> pa.Table:
    paths = files_of(night, "scores")
    return pa.concat_tables(group for path in paths for group in iterate_groups(night.store, *path))


def shifts(night: Night) -> dict[str, dict[str, object]]:
    rows = (
        row
        for path in files_of(night, "shifts")
        for row in read_table(night.store, *path).to_pylist()
    )
    return {row["slide_id"]: row for row in rows}


def test_scored_rows_say_what_the_detector_says(night: Night) -> None:
    card, detector = add_detector(night)
    score_night(night, card)
    block = read_block(night.store, "tiny", "night", 0, 24)
    scores = score(detector, block.taps)
    manifest = manifests.read_manifest(night.store, night.batch)
    rows = scored_rows(night)
    assert rows["uri"].to_pylist() == manifest["uri"].to_pylist()
    np.testing.assert_allclose(rows["abnormality"].to_numpy(), scores.abnormality)
    np.testing.assert_allclose(rows["distance_layer1"].to_numpy(), scores.distances[:, 0])
    np.testing.assert_allclose(rows["population_p_value"].to_numpy(), rows["p_value"].to_numpy())
    assert set(rows["compared_with"].to_pylist()) == {"population"}
    classes = np.array(CLASSES)[block.logits.argmax(axis=1)]
    assert rows["diagnosis"].to_pylist() == classes.tolist()
    assert set(rows["scored_at"].to_pylist()) == {WHEN}


def test_shards_are_read_once_and_are_gone_with_the_job(night: Night) -> None:
    night.run()
    features = HeldFeatures(night.store, night.batch, night.card)
    block = weakref.ref(next(features.shards([1]))[0])
    assert next(features.shards([1]))[0] is block()
    gc.disable()
    try:
        del features
        assert block() is None
    finally:
        gc.enable()


def test_so_many_shards_are_held_as_are_allowed(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.run()
    monkeypatch.setattr(features_module, "SHARDS_HELD", 2)
    features = HeldFeatures(night.store, night.batch, night.card)
    first, second = (weakref.ref(next(features.shards([number]))[0]) for number in (0, 1))
    next(features.shards([0]))
    next(features.shards([2]))
    assert first() is not None
    assert second() is None


# By their own slide

ABROAD = 30.0


@pytest.fixture
def detector() -> Detector:
    return fitted_detector(np.random.default_rng(0))


def test_cells_of_another_laboratory_are_judged_among_themselves(
    store_with_model: Store, detector: Detector
) -> None:
    slides = [("a", "a1", 200, 0.3), ("b", "b1", 200, ABROAD)]
    night = made_up(store_with_model, slides)
    score_night(night, keep_detector(night.store, detector, slides=12))
    rows = scored_rows(night).to_pandas()
    assert (rows["compared_with"] == "slide").all()
    for slide, own in rows.groupby("slide_id"):
        far = np.arange(len(own)) % 20 == 5
        assert own["abnormal"][far].all(), slide
        assert own["abnormal"][~far].mean() < 0.12, slide
    foreign = rows["slide_id"] == "b1"
    assert (rows["population_p_value"][foreign] < 0.2).all()
    found = shifts(night)
    assert found["b1"]["shifted"]
    assert not found["a1"]["shifted"]
    assert found["a1"]["shift_p_value"] > found["b1"]["shift_p_value"]
    assert found["a1"]["judged_cells"] < 200  # those that are far are no part of the slide


def test_few_cells_lean_on_their_patient_and_then_on_the_night(
    store_with_model: Store, detector: Detector
) -> None:
    slides = [
        ("a", "a1", 12, ABROAD), ("a", "a2", 12, ABROAD), ("a", "a3", 40, ABROAD),
        ("b", "b1", 12, ABROAD), (None, "c1", 12, ABROAD), (None, None, 12, ABROAD),
    ]  # fmt: skip
    night = made_up(store_with_model, slides, shard_rows=16)
    score_night(night, keep_detector(night.store, detector, slides=12))
    rows = scored_rows(night)
    wanted = ["patient"] * 24 + ["slide"] * 40 + ["night"] * 36
    assert rows["compared_with"].to_pylist() == wanted
    assert np.mean(rows["abnormal"].to_pylist()) < 0.2
    assert set(shifts(night)) == {"a1", "a2", "a3", "b1", "c1", None}
    assert all(row["shifted"] for row in shifts(night).values())


def test_few_cells_of_another_stain_than_most_of_their_night_lean_on_fitted_ones(
    store_with_model: Store, detector: Detector
) -> None:
    """The night's normal is that of most of its cells, which are one patient's."""
    slides = [
        ("a", "a1", 200, 1.2), ("b", "b1", 12, -1.2), (None, "c1", 12, -1.2), ("d", "d1", 12, 1.2),
    ]  # fmt: skip
    night = made_up(store_with_model, slides, shard_rows=16)
    score_night(night, keep_detector(night.store, detector, slides=12))
    rows = scored_rows(night).to_pandas()
    assert rows.groupby("slide_id")["compared_with"].unique().to_dict() == {
        "a1": ["slide"], "b1": ["population"], "c1": ["population"], "d1": ["night"],
    }  # fmt: skip
    far = rows.groupby("slide_id").cumcount() % 20 == 5
    assert rows["abnormal"][far].all()
    assert rows["abnormal"][~far & (rows["compared_with"] == "population")].mean() < 0.1


def test_scores_do_not_depend_on_how_a_night_is_divided(
    store_with_model: Store, detector: Detector, tmp_path: Path
) -> None:
    slides = [("a", "a1", 150, 0.0), ("a", "a2", 10, 1.0), (None, "c1", 70, 2.0)]
    found = []
    for number, shard_rows in enumerate((8, 64, 512)):
        store = Store(str(tmp_path / str(number)))
        for name in store_with_model.names("models", "tiny"):
            content = store_with_model.read_bytes("models", "tiny", name)
            store.write_bytes(content, "models", "tiny", name)
        night = made_up(store, slides, shard_rows)
        score_night(night, keep_detector(store, detector, slides=12))
        found.append(scored_rows(night)["abnormality"].to_numpy()[:160])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
    np.testing.assert_allclose(found[0], found[2], rtol=1e-9)


def test_parts_hold_whole_patients_and_all_rows_once(store_with_model: Store) -> None:
    slides = [("a", "a1", 20, 0.0), ("a", "a2", 30, 0.0), ("b", "b1", 5, 0.0), (None, None, 50, 0)]
    night = made_up(store_with_model, slides, shard_rows=8)
    parts = plan_parts(night.store, night.batch, by_slide=True)
    spans = [(span.start, span.stop) for part in parts for span in part.spans]
    assert spans[0][0] == 0
    assert spans[-1][1] == night.batch.rows
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    patients = [{slide.patient for slide in part.slides} - {None} for part in parts]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 2
    assert len(parts) > 1


def test_features_that_rot_between_the_stages_are_not_scored(
    store_with_model: Store, detector: Detector
) -> None:
    night = made_up(store_with_model, [("a", "a1", 100, 0.0)])
    card = keep_detector(night.store, detector, slides=12)
    os.truncate(night.store.path("features", "tiny", "night.zarr", "taps", "c.1.0"), 9)
    with pytest.raises(StoreError, match="rows 64 to 100 of batch night"):
        score_night(night, card)


@pytest.mark.slow
def test_parts_are_a_share_of_what_is_left(store_with_model: Store) -> None:
    slides = [(f"p{n:03}", f"s{n}", 10, 0.0) for n in range(256)]
    night = made_up(store_with_model, slides, shard_rows=8)
    parts = plan_parts(night.store, night.batch, by_slide=True)
    sizes = [len(part.rows) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1], sum(sizes)) == (40, 10, 2560)
