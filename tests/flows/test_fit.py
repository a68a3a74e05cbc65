"""Fitting and retracting end to end, on rendered cells and real Dask workers."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.cluster.trials import ClusterError
from flows.fit import FitOutcome, fit
from flows.options.flows import Fit, Retract
from flows.retract import retract
from flows.settings import Settings
from flows.train import TrainOutcome
from storage.batches.features import read_block
from storage.batches.manifests import load_batch, read_manifest
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.models.statistics import Lineage, latest_statistics, load_moments
from storage.store import Store, StoreError
from tasks.detector.moments import ClassStatistics
from tasks.detector.slides.groups import GroupKey, coarser
from tasks.images.access.files import SourceError
from tests.support.fitted import CELLS, copied
from tests.support.images import write_cells


@pytest.fixture
def settings(trained: tuple[Settings, TrainOutcome], tmp_path: Path) -> Settings:
    """Settings of a store of one's own, with a trained model in it and nothing else."""
    return copied(trained[0], tmp_path / "store")


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    """Labelled cells of three patients more."""
    folder = tmp_path / "extra"
    write_cells(folder, 3, 9, seed=9, first=50, parasitized=0.4)
    return folder


def statistics(settings: Settings) -> dict[str, np.ndarray]:
    return load_moments(Store(settings.store), latest_of(settings))


def assert_close(a: dict[str, np.ndarray], b: dict[str, np.ndarray], relative: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        scale = np.abs(b[name]).max()
        assert np.abs(a[name] - b[name]).max() <= relative * scale, name


def test_no_validation_or_test_patient_is_in_the_statistics(
    fitted: tuple[Settings, FitOutcome],
) -> None:
    settings, outcome = fitted
    card = load_card(Store(settings.store), "m")
    assert sum(outcome.images.values()) == len(card.split["train"]) * CELLS
    held_out = len(card.held_out) * CELLS
    assert f"{held_out:,} left out" in outcome.changed


def test_a_detector_says_who_calibrated_it(fitted: tuple[Settings, FitOutcome]) -> None:
    settings, outcome = fitted
    store = Store(settings.store)
    detector = load_detector_card(store, outcome.detector)
    assert detector.calibrated_by == "patient"
    assert detector.calibrating_groups == len(load_card(store, "m").split["train"])
    assert detector.calibrating_images == sum(outcome.images.values())
    assert any("is a guess" in warning for warning in detector.warnings)


def test_a_batch_merged_twice_counts_once(images: Path, ready: Settings) -> None:
    before = statistics(ready)
    outcome = fit.fn(Fit(images=str(images / "smears"), batch="first"), ready)
    assert "counts once" in outcome.changed
    assert outcome.statistics == "v0001"
    assert_close(statistics(ready), before, 0.0)


@pytest.mark.parametrize("workers", [1, 4])
def test_statistics_are_the_same_bytes_for_any_number_of_workers(
    images: Path, settings: Settings, fitted: tuple[Settings, FitOutcome], workers: int
) -> None:
    alone = settings.model_copy(update={"cluster": "local", "workers": workers})
    fit.fn(Fit(images=str(images / "smears"), batch="first"), alone)
    folder = "statistics/m/v0001/moments.safetensors"
    theirs = (Path(fitted[0].store) / folder).read_bytes()
    assert (Path(alone.store) / folder).read_bytes() == theirs


def test_two_batches_fit_as_one_does_and_are_not_read_again(
    images: Path, settings: Settings, fitted: tuple[Settings, FitOutcome], tmp_path: Path
) -> None:
    halves = [tmp_path / "a", tmp_path / "b"]
    for i, path in enumerate(sorted((images / "smears").rglob("*.png"))):
        to = halves[i % 2] / path.parent.name / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, to)
    fit.fn(Fit(images=str(halves[0]), batch="a"), settings)
    shutil.rmtree(halves[0])  # an earlier batch's images are never opened again
    outcome = fit.fn(Fit(images=str(halves[1]), batch="b"), settings)
    assert outcome.statistics == "v0002"
    whole = statistics(fitted[0])
    # Features depend a little on which images share a forward pass, so bytes may differ here;
    # tests/tasks/detector/test_moments.py proves 1e-12 on equal features.
    found, wanted = (ClassStatistics.from_arrays(each) for each in (statistics(settings), whole))
    assert found.slides is not None
    assert wanted.slides is not None
    # Which batch a slide came in is part of its name; the slides themselves are the same.
    assert {key.slide for key in found.slides.keys} == {key.slide for key in wanted.slides.keys}
    slides = [
        coarser(each.slides, lambda key: GroupKey("", key.patient, key.slide))
        for each in (found, wanted)
        if each.slides
    ]
    pairs = [replace(each, slides=own) for each, own in zip((found, wanted), slides, strict=True)]
    assert_close(pairs[0].to_arrays(), pairs[1].to_arrays(), 1e-5)


def test_retracting_a_batch_undoes_it(ready: Settings, extra: Path) -> None:
    before = statistics(ready)
    added = fit.fn(Fit(images=str(extra), batch="second"), ready)
    assert added.calibrating_groups == load_detector_card(Store(ready.store)).calibrating_groups
    outcome = retract.fn(Retract(batch="second"), ready)
    assert outcome.statistics == "v0003"
    assert outcome.calibrating_groups == (added.calibrating_groups or 0) - 3
    assert_close(statistics(ready), before, 1e-10)


def test_an_image_that_was_fitted_is_left_out_under_another_name(
    images: Path, ready: Settings, extra: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SourceError, match=r"adds nothing: all of its \d+ images are in the stat"):
        fit.fn(Fit(images=[str(images / "smears")], batch="again"), ready)
    first = sum(latest_of(ready).images.values())
    alone = fit.fn(Fit(images=str(extra), batch="alone"), ready)
    wanted = without_slides(ready)
    retract.fn(Retract(batch="alone"), ready)
    shutil.copytree(images / "smears", tmp_path / "mixed" / "old")
    shutil.copytree(extra, tmp_path / "mixed" / "new")
    shutil.copytree(extra, tmp_path / "mixed" / "copy")
    mixed = fit.fn(Fit(images=str(tmp_path / "mixed"), batch="mixed"), ready)
    assert mixed.images == alone.images
    assert f"{first + 27:,} repeated" in mixed.changed
    assert f"{first + 27:,} of {first + 54:,} images of batch mixed" in capsys.readouterr().err
    assert_close(without_slides(ready), wanted, 1e-10)
    retract.fn(Retract(batch="mixed"), ready)
    assert sum(latest_of(ready).images.values()) == first


def without_slides(settings: Settings) -> dict[str, np.ndarray]:
    """The statistics but for those of slides, which know the names of batches."""
    found = statistics(settings)
    return {name: values for name, values in found.items() if not name.startswith("slides/")}


def latest_of(settings: Settings) -> Lineage:
    latest = latest_statistics(Store(settings.store), "m")
    assert latest is not None
    return latest


@pytest.mark.parametrize("kind", ["patient", "slide"])
def test_retracting_equals_never_having_been_fitted(
    images: Path, ready: Settings, kind: str
) -> None:
    store = Store(ready.store)
    card, batch = load_card(store, "m"), load_batch(store, "first")
    manifest = read_manifest(store, batch).to_pylist()
    fitted_rows = [row for row in manifest if row["patient_id"] not in card.held_out]
    gone = fitted_rows[0][f"{kind}_id"]
    retract.fn(Retract(**{kind: gone}), ready)
    block = read_block(store, "m", "first", 0, batch.rows)
    keep = [
        i
        for i, row in enumerate(manifest)
        if row["patient_id"] not in card.held_out and row[f"{kind}_id"] != gone
    ]
    state = ClassStatistics.from_arrays(statistics(ready))
    for tap, features in block.taps.items():
        for c in range(2):
            rows = features[[i for i in keep if block.label[i] == c]].astype(np.float64)
            moments = state.taps[tap]
            assert moments.n[c] == len(rows)
            np.testing.assert_allclose(moments.mean[c], rows.mean(0), rtol=1e-10, atol=1e-12)
            oracle = (rows - rows.mean(0)).T @ (rows - rows.mean(0))
            assert np.abs(moments.scatter[c] - oracle).max() <= 1e-10 * np.abs(oracle).max()
    with pytest.raises(StoreError, match="is not in statistics"):
        retract.fn(Retract(**{kind: gone}), ready)


def flip(store: Store, *parts: str, byte: int = -1, bit: int = 6) -> None:
    """Turn one bit of a file over."""
    content = bytearray(store.read_bytes(*parts))
    content[byte] ^= 1 << bit
    store.write_bytes(bytes(content), *parts)


def other_digest(store: Store) -> None:
    parts = ("batches", "first", "ledger", "m", "000001.json")
    store.write_json(store.read_json(*parts) | {"digest": 64 * "0"}, *parts)


def fitted_row(store: Store) -> int:
    """The first row of the second shard that is in the statistics, counted from the shard's."""
    card, manifest = load_card(store, "m"), read_manifest(store, load_batch(store, "first"))
    patients = manifest["patient_id"].to_pylist()[32:64]
    return next(row for row, patient in enumerate(patients) if patient not in card.held_out)


FEATURES = ("features", "m", "first.zarr")
ROWS = (*FEATURES, "rows")
DAMAGE: dict[str, Callable[[Store], None]] = {
    "status": lambda store: flip(store, *ROWS, "status", "c.1", byte=fitted_row(store)),
    "label": lambda store: flip(store, *ROWS, "label", "c.1", byte=fitted_row(store), bit=0),
    "tap": lambda store: flip(store, *FEATURES, "taps", "c.1.0"),
    "digest in the ledger": other_digest,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_features_that_are_not_those_of_the_ledger_end_every_change_of_the_statistics(
    images: Path, ready: Settings, extra: Path, damage: str
) -> None:
    store, folder = Store(ready.store), Path(ready.store)
    DAMAGE[damage](store)

    def kept() -> list[Path]:
        return sorted([*(folder / "statistics").rglob("v*"), *(folder / "detectors").iterdir()])

    before = kept()
    patient = read_manifest(store, load_batch(store, "first"))["patient_id"][0].as_py()
    strict = ready.model_copy(update={"alpha": 0.01})
    for change in (
        lambda: retract.fn(Retract(batch="first"), ready),
        lambda: retract.fn(Retract(patient=patient), ready),
        lambda: fit.fn(Fit(images=str(extra), batch="second"), ready),
        lambda: fit.fn(Fit(images=str(images / "smears"), batch="first"), strict),
    ):
        with pytest.raises(
            (StoreError, ClusterError), match=r"rows \d+ to \d+ .*restore .* from a backup"
        ) as refused:
            change()
        assert "batch first" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert kept() == before


def test_retracting_all_leaves_statistics_but_no_detector(ready: Settings) -> None:
    outcome = retract.fn(Retract(batch="first"), ready)
    assert outcome.failed
    assert outcome.detector is None
    assert "no Parasitized and no Uninfected image" in outcome.warnings[0]


def test_another_alpha_makes_another_detector_of_the_same_statistics(
    images: Path, ready: Settings
) -> None:
    strict = ready.model_copy(update={"alpha": 0.01})
    outcome = fit.fn(Fit(images=str(images / "smears"), batch="first"), strict)
    assert outcome.statistics == "v0001"
    assert outcome.detector == "m-v0001-2"
    assert outcome.alpha == 0.01


def test_a_batch_without_labels_or_with_unknown_ones_is_refused(
    images: Path, ready: Settings, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match="has a label"):
        fit.fn(Fit(images=str(images / "night"), batch="night"), ready)
    path = next((images / "smears" / "Uninfected").glob("*.png"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no image of .* has a label"):
        fit.fn(Fit(images=str(tmp_path / "empty"), batch="none"), ready)
    (tmp_path / "odd.csv").write_text(f"uri,label\n{path},healthy\n")
    with pytest.raises(SourceError, match="healthy"):
        fit.fn(Fit(images=str(tmp_path / "odd.csv"), batch="odd"), ready)
