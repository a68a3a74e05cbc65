import gc
import os
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from flows.jobs.scoring import feature_rows as features_module
from flows.jobs.scoring.feature_rows import Features
from flows.jobs.scoring.night import NightJob, describe_night
from flows.jobs.scoring.plan import plan_parts
from flows.jobs.scoring.scores import ScoreJob, score_part
from flows.jobs.scoring.screened import Screened
from storage.batches import ledger, manifests
from storage.batches.features import SCORED, empty_block, read_block, write_block
from storage.models.classifiers import load_card
from storage.models.detectors import DetectorCard
from storage.parquet import iterate_groups, read_table
from storage.store import Store, StoreError
from tasks.detector.calibration import Calibration
from tasks.detector.detector import Detector, score
from tasks.detector.mahalanobis import TiedGaussian
from tasks.detector.slides import normal, own_normal
from tasks.detector.slides.groups import GroupKey, GroupStatistics, group_statistics, retract_groups
from tasks.images.manifest import SCHEMA
from tests.support.models import CLASSES, WHEN
from tests.support.shards import Night, add_detector, freeze_night, keep_detector, start_spoilt


@pytest.fixture
def spoilt(store_with_model: Store, cells: Path, tmp_path: Path) -> Night:
    night = start_spoilt(store_with_model, cells, tmp_path)
    night.run()
    return night


def unnamed(parts: Any) -> tuple[tuple[int, int], ...]:
    slides = [slide for part in parts for slide in part.slides]
    return tuple((s.start, s.stop) for s in slides if s.slide is None and s.patient is None)


def score_night(night: Night, card: DetectorCard) -> int:
    """Score all parts of a night, as the stage does on a cluster."""
    parts = plan_parts(night.store, night.batch, by_slide=card.slides is not None)
    screened, whole = Screened(night.store, night.batch, night.card, card), None
    if card.slides is not None:
        whole = describe_night(NightJob(screened, unnamed(parts)))
    for number, part in enumerate(parts):
        score_part(ScoreJob(screened, number, part.slides, part.spans, WHEN, whole))
    return len(parts)


def scored_rows(night: Night) -> pa.Table:
    parts = night.store.names("batches", night.batch.key, "scores", "d")
    paths = [ledger.scores_path(night.batch, "d", part) for part in range(len(parts))]
    return pa.concat_tables(group for path in paths for group in iterate_groups(night.store, *path))


def shifts(night: Night) -> dict[str, dict[str, object]]:
    parts = night.store.names("batches", night.batch.key, "shifts", "d")
    rows = (
        row
        for part in range(len(parts))
        for row in read_table(night.store, *ledger.shifts_path(night.batch, "d", part)).to_pylist()
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
    features = Features(night.store, night.batch, night.card)
    block = weakref.ref(features.shard(1)[0])
    assert features.shard(1)[0] is block()
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
    features = Features(night.store, night.batch, night.card)
    first, second = (weakref.ref(features.shard(number)[0]) for number in (0, 1))
    features.shard(0)
    features.shard(2)
    assert first() is not None
    assert second() is None


def test_rows_of_a_shard_without_one_good_image_are_all_failed_for_review(spoilt: Night) -> None:
    card, _ = add_detector(spoilt)
    score_night(spoilt, card)
    rows = scored_rows(spoilt).to_pylist()[10:20]
    for row in rows:
        assert (row["status"], row["verdict"], row["review_reason"]) == (
            "failed",
            "review",
            "failed",
        )
        assert row["failure"].startswith("damaged: ")
        assert row["image_id"]
        assert row["diagnosis"] is row["abnormality"] is row["p_value"] is None


def test_scoring_twice_writes_the_same_bytes(night: Night) -> None:
    card, _ = add_detector(night)
    written = []
    for _ in range(2):
        parts = score_night(night, card)
        paths = [ledger.scores_path(night.batch, "d", part) for part in range(parts)]
        written.append([night.store.read_bytes(*path) for path in paths])
    assert written[0] == written[1]


# By their own slide

WIDTHS = {"layer1": 3, "layer2": 4}
MEANS = np.array([0.0, 3.0])  # of the classes, in every feature


def slide_cells(
    rng: np.random.Generator, n: int, shift: float
) -> tuple[dict[str, NDArray[Any]], NDArray[Any]]:
    """Taps (n, d) of cells of a slide ``shift`` from the population, and their classes."""
    classes = rng.integers(0, 2, n)
    taps = {
        tap: (MEANS[classes][:, None] + shift + rng.normal(0, 1, (n, d))).astype(np.float32)
        for tap, d in WIDTHS.items()
    }
    return taps, classes


def fitted_detector(rng: np.random.Generator) -> Detector:
    """A detector fitted on a dozen slides that differ by a deviation of 1."""
    found = [slide_cells(rng, 80, rng.normal(0, 1)) for _ in range(12)]

    def statistics(number: int) -> GroupStatistics:
        taps, classes = found[number]
        return group_statistics(taps, classes, [GroupKey("", f"p{number}", "")] * len(classes), 2)

    each = [statistics(number) for number in range(12)]
    taps = {tap: np.concatenate([slide[0][tap] for slide in found]) for tap in WIDTHS}
    classes = np.concatenate([slide[1] for slide in found])
    keys = [GroupKey("", f"p{number}", "") for number in range(12) for _ in range(80)]
    total = group_statistics(taps, classes, keys, 2)
    priors = [normal.priors_of(retract_groups(total, own)) for own in each]
    spread = own_normal.slides_spread(
        [own_normal.fitted_slide(p, *s) for p, s in zip(priors, found, strict=True)]
    )
    calibrated = own_normal.own_calibration(
        [
            own_normal.fitted_slide(own_normal.with_spread(p, *spread), *s)
            for p, s in zip(priors, found, strict=True)
        ]
    )
    gaussians = {
        tap: TiedGaussian(np.repeat(MEANS[:, None], d, axis=1), np.eye(d), 0.0)
        for tap, d in WIDTHS.items()
    }
    population = Calibration(np.zeros(2), np.ones(2), np.arange(5.0), np.full(5, 0.2))
    own = own_normal.OwnNormal(own_normal.with_spread(normal.priors_of(total), *spread), calibrated)
    return Detector(gaussians, population, own)


def made_up(
    store: Store, slides: list[tuple[str | None, str | None, int, float]], shard_rows: int = 64
) -> Night:
    """A night whose features are drawn: of each slide its patient, name, cells and shift.

    Every twentieth cell of a slide, from its fifth on, is far from all others.
    """
    rng, card = np.random.default_rng(7), load_card(store, "tiny")
    card = card.model_copy(update={"tap_widths": WIDTHS})
    taps: dict[str, list[np.ndarray]] = {tap: [] for tap in WIDTHS}
    classes, names = [], []
    for patient, slide, n, shift in slides:
        found, own = slide_cells(rng, n, shift)
        for tap, values in found.items():
            values[5::20] += 12
            taps[tap].append(values)
        classes.append(own)
        names += [(patient, slide)] * n
    rows = [
        {"uri": f"file:///{number:06d}.png", "patient_id": patient, "slide_id": slide}
        for number, (patient, slide) in enumerate(names)
    ]
    manifest = pa.Table.from_pylist(rows, SCHEMA)
    night = freeze_night(store, manifest, "night", card, shard_rows)
    whole = {tap: np.concatenate(parts) for tap, parts in taps.items()}
    diagnosed = np.eye(2, dtype=np.float32)[np.concatenate(classes)]
    for shard in night.batch.shards():
        here, n = slice(shard.start, shard.stop), shard.stop - shard.start
        block = empty_block(n, WIDTHS, 2)
        for tap, values in whole.items():
            block.taps[tap][:] = values[here]
        block.logits[:], block.status[:] = diagnosed[here], SCORED
        block.image_id[:, 0] = 1
        block.size[:] = 64
        digest = write_block(store, "tiny", "night", shard.start, block)
        ledger.write_shard_record(store, night.batch, "tiny", ledger.ShardRecord(
            shard=shard.number, start=shard.start, stop=shard.stop, scored=n, failures=[], tries=1,
            digest=digest, versions={},
        ))  # fmt: skip
    return night


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
    os.truncate(night.store.path("features", "tiny", "night.zarr", "taps", "c", "1", "0"), 9)
    with pytest.raises(StoreError, match="rows 64 to 100 of batch night"):
        score_night(night, card)
