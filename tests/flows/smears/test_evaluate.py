"""The flow `evaluate` on rendered cells: its tables, what it must never see, and going on."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.fit import fit
from flows.options.flows import Evaluate, Fit, Screen, Train
from flows.settings import Settings
from flows.smears.evaluate import EvaluationOutcome, evaluate
from flows.smears.jobs.evaluation.images import Run, SetShard, load_detector, read_treated
from flows.smears.night import screen
from flows.train import train
from storage.batches.features import SCORED, read_block
from storage.batches.manifests import load_batch
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card, load_model_of
from storage.parquet import read_table
from storage.reports.tables import report_path
from storage.smears.evaluations import read_arrays, shard_path
from storage.store import Store, StoreError
from tasks.detector.detector import score
from tasks.images.access.files import SourceError
from tasks.metrics.metrics import SINGLE
from tasks.smears.evaluation.measures import TEST, VERDICT
from tasks.smears.evaluation.scored import CLEAN, FILE, OWN, Treatment
from tests.support.fitted import SMALL
from tests.support.images import write_cells, write_mixed_night

ATTACKS = ["fgsm", "pgd"]


@pytest.fixture(scope="module")
def settings(scheduler: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store with a model and a detector, on two workers."""
    root = tmp_path_factory.mktemp("evaluate")
    write_cells(root / "smears", 14, 8, seed=1)
    write_mixed_night(root / "night", 2, 4, 2, parasitized=0.3)
    made = Settings(
        store=str(root / "store"), cluster="scheduler", scheduler=scheduler, shard_rows=32
    )
    smears = str(root / "smears")
    train.fn(
        Train(images=smears, model="m", epochs=2, side=32, arithmetic="float32", **SMALL), made
    )
    fit.fn(Fit(images=smears, batch="smears"), made)
    copies = root / "copies"
    copies.mkdir()
    _copy_one_fitted_image(made, copies)
    for image in sorted((root / "night").rglob("*.png"))[-3:]:
        shutil.copy(image, copies)
    (copies / "notes.txt").touch()
    return made


def _copy_one_fitted_image(settings: Settings, folder: Path) -> None:
    card = load_card(Store(settings.store), "m")
    smears = Path(settings.store).parent / "smears"
    fitted = sorted(smears.rglob(f"{card.split['train'][0]}*.png"))
    shutil.copy(fitted[0], folder / "copy.png")


def _evaluate(settings: Settings, **changed: object) -> EvaluationOutcome:
    root = Path(settings.store).parent
    given: dict[str, object] = {
        "images": str(root / "smears"),
        "ood": [f"far/night={root / 'night'}", f"near/copies={root / 'copies'}"],
        "attacks": ATTACKS,
        "attacked": 6,
        "name": "e",
    }
    outcome: EvaluationOutcome = evaluate.fn(Evaluate(**given | changed), settings)  # type: ignore[arg-type]
    return outcome


SAID: list[str] = []


@pytest.fixture(scope="module")
def outcome(settings: Settings) -> EvaluationOutcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.smears.stages.evaluated_images.warn", SAID.append)
        patch.setattr("flows.smears.stages.evaluated_images.SAMPLE", 20)
        return _evaluate(settings, detector="m-v0001")


def _image_ids(settings: Settings, images: str) -> set[bytes]:
    store = Store(settings.store)
    folder = ("evaluations", "e", "m-v0001", "shards", images)
    return {
        row.tobytes()
        for treatment in store.names(*folder)
        for part in store.names(*folder, treatment)
        for row in read_arrays(store, *folder, treatment, part)["image_id"]
    }


def test_what_a_listing_leaves_out_is_said(outcome: EvaluationOutcome) -> None:
    assert any("1 file of" in text and "copies" in text for text in SAID)


def test_every_detector_is_measured_on_every_set(outcome: EvaluationOutcome) -> None:
    results = pq.read_table(outcome.results).to_pandas()
    assert set(results.evaluation) == {"e"}
    assert set(results.seed) == {0}
    assert outcome.detectors == ["m-v0001"]
    single = results[results.composition == SINGLE]
    compared = single[single.measure == "AUROC"]
    wanted = {OWN, "maximum softmax", "energy", "ODIN", "k nearest neighbours"}
    for name in ("far/night", "near/copies", "attack/pgd"):
        rows = compared[compared.set == name]
        assert set(rows.detector) == wanted, name
        assert rows.value.between(0, 1).all()
    assert set(single[single.detector == VERDICT].measure) >= {"caught", "sent to review"}
    facts = single[(single.set == "attack/fgsm") & single.detector.isna()]
    assert set(facts.measure) == {"success rate", "network fooled", "witnesses disagree"}
    assert "m-v0001" in Path(outcome.report).read_text()


def test_what_is_fitted_and_calibrated_on_is_disjoint_from_what_is_tried(
    settings: Settings, outcome: EvaluationOutcome
) -> None:
    store = Store(settings.store)
    fitted = _image_ids(settings, "fitted")
    assert 10 <= len(fitted) <= 20  # every k-th
    batch = load_batch(store, "smears")
    block = read_block(store, "m", "smears", 0, batch.rows, taps=False)
    # Statistics and calibration read the features of the batch, and nothing else.
    calibrated = {row.tobytes() for row in block.image_id[block.status == SCORED]}
    assert fitted <= calibrated
    for images in ("test", "sampled", "attacked"):
        tried = _image_ids(settings, images)
        assert tried
        assert not tried & fitted
    results = pq.read_table(outcome.results).to_pandas()
    copies = results[results.set.str.startswith("near/copies") & (results.measure == "caught")]
    assert set(copies.strange) == {3}  # of four, one of which was fitted
    assert outcome.left_out >= 1


def scored(settings: Settings, images: str, treatment: Treatment) -> list[tuple[str, float]]:
    """The addresses and slidewatch's scores of a set's images under a treatment."""
    store = Store(settings.store)
    card = load_detector_card(store, "m-v0001")
    run = Run(store, "e", card, load_model_of(store, card))
    found = read_treated(SetShard(run, images, treatment, 0, 0, 0))
    scores = score(load_detector(run), found.forms[FILE].taps).abnormality
    uris = run.images(images)["uri"].take(found.rows).to_pylist()
    return list(zip(uris, scores.tolist(), strict=True))


def test_the_score_is_the_one_that_screening_reports(
    settings: Settings, outcome: EvaluationOutcome
) -> None:
    smears = str(Path(settings.store).parent / "smears")
    screen.fn(Screen(images=smears, batch="all", detector="m-v0001"), settings)
    store = Store(settings.store)
    rows = read_table(store, *report_path("all", load_batch(store, "all").batch_date))
    reported = dict(zip(rows["uri"].to_pylist(), rows["abnormality"].to_pylist(), strict=True))
    own = scored(settings, TEST, CLEAN)
    assert own
    for uri, abnormality in own:
        assert abnormality == pytest.approx(reported[uri], abs=1e-4)


@pytest.mark.slow
def test_an_evaluation_that_was_cut_off_goes_on_and_ends_alike(
    settings: Settings, outcome: EvaluationOutcome
) -> None:
    store = Store(settings.store)
    before = pq.read_table(outcome.results)
    lost = shard_path("e", "m-v0001", "attacked", "pgd-0.0078", 0)
    kept = shard_path("e", "m-v0001", "attacked", "pgd-0.0157", 0)
    stamp = Path(store.path(*kept)).stat().st_mtime_ns
    for path in (lost, ("evaluations", "e", "results.parquet")):
        store.remove(*path)
    again = _evaluate(settings, detector="m-v0001")
    assert pq.read_table(again.results).equals(before)
    assert Path(store.path(*kept)).stat().st_mtime_ns == stamp
    assert store.exists(*lost)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"name": "e", "attacked": 7}, StoreError, "other attacked"),
        ({"ood": ["far/none=/nowhere/at/all"]}, SourceError, "does not exist"),
        ({"detector": "none"}, StoreError, "there are: .*m-v0001"),
    ],
)
def test_what_cannot_be_evaluated_is_said_plainly(
    settings: Settings,
    outcome: EvaluationOutcome,
    changed: dict[str, object],
    error: type[Exception],
    words: str,
) -> None:
    with pytest.raises(error, match=words):
        _evaluate(settings, **({"name": "bad"} | changed))


def test_images_of_seen_patients_alone_are_refused(settings: Settings, tmp_path: Path) -> None:
    card = load_card(Store(settings.store), "m")
    smears = Path(settings.store).parent / "smears"
    for image in smears.rglob(f"{card.split['train'][0]}*.png"):
        target = tmp_path / image.parent.name
        target.mkdir(exist_ok=True)
        shutil.copy(image, target)
    with pytest.raises(SourceError, match="has not seen"):
        _evaluate(settings, images=str(tmp_path), name="seen", detector="m-v0001")


@pytest.mark.slow
def test_the_detector_that_comes_along_is_evaluated_in_an_empty_store(
    settings: Settings, tmp_path: Path
) -> None:
    images, root = tmp_path / "Uninfected", Path(settings.store).parent
    images.mkdir()
    cells = [*(root / "smears" / "Uninfected").glob("*.png")]
    for cell in cells:
        shutil.copy(cell, images)
        shutil.copy(cell, images / f"C106P67Thin{cell.name}")  # of a patient of its training
    empty = settings.model_copy(update={"store": str(tmp_path / "store")})
    ood = [f"far/night={root / 'night'}"]
    outcome = evaluate.fn(Evaluate(images=str(images), ood=ood, attacked=2, name="e"), empty)
    assert (outcome.unseen_images, outcome.left_out) == (len(cells), None)
    results = pq.read_table(outcome.results).to_pandas()
    single = results[(results.composition == SINGLE) & (results.measure == "AUROC")]
    assert set(single.detector) == {OWN, "maximum softmax", "energy"}
