"""Commissioning a laboratory, screening there, and taking a night out, on real Dask workers."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose
from scipy.special import logit

from flows.commands.status import status, verify
from flows.commission import commission
from flows.commission import learn as learn_batch
from flows.commissioning.laboratory import LaboratoryError
from flows.commissioning.report import LaboratoryOutcome
from flows.evaluate import evaluate
from flows.fit import fit
from flows.jobs.laboratory_slides import Added
from flows.options.flows import Commission, Evaluate, Fit, Retract, Screen
from flows.options.tools import Status, Verify
from flows.retract import retract
from flows.screen import ScreenOutcome, screen
from flows.settings import Settings
from flows.stages import compositions as composing_stage
from storage.batches.ledger import list_seals
from storage.batches.manifests import load_batch
from storage.models import detectors, laboratories
from storage.records import now
from storage.retention import expired_features
from storage.store import Store, StoreError
from tasks.evaluation.compositions import LABORATORY_NORMAL, OWN_NORMAL, POPULATION
from tasks.evaluation.measures import HOME
from tasks.images.listing import SourceError
from tests.support.fitted import copied
from tests.support.images import write_cells
from tests.support.kept import kept


@pytest.fixture(scope="module")
def nights() -> Path:
    """Labelled cells of patients of two kinds: `fitted`, and `may`, `june`, `july` of a lab."""
    return kept("nights", _render)


def _render(folder: Path) -> None:
    write_cells(folder / "fitted", 9, 36, seed=5)
    for number, name in enumerate(("may", "june", "july"), 1):
        write_cells(folder / name, 2, 36, seed=5 + number, first=100 * number)
    write_cells(folder / "healthy", 2, 36, seed=9, first=400, parasitized=0.0)


def learn(settings: Settings, images: str | Path, **given: Any) -> LaboratoryOutcome:
    """Commission the laboratory `lab` on a night that has the name of its folder."""
    usual: dict[str, Any] = {"images": str(images), "laboratory": "lab", "batch": Path(images).name}
    return learn_batch(Commission(**usual | given), settings)


def at_lab(settings: Settings, images: str | Path, **given: Any) -> ScreenOutcome:
    """Screen a night at the laboratory `lab`."""
    usual: dict[str, Any] = {"images": str(images), "laboratory": "lab", "batch": Path(images).name}
    return screen.fn(Screen(**usual | given), settings)


def report_in(settings: Settings, kind: str, batch: str) -> pa.Table:
    """The only report of a kind on a batch."""
    (file,) = (Path(settings.store) / "reports" / kind).rglob(f"{batch}.parquet")
    return pq.ParquetFile(file).read()


@pytest.fixture(scope="module")
def with_slides(nights: Path, tiny_fitted: Settings) -> Settings:
    """Settings of a store whose newest detector knows how slides differ; only its copies change."""
    # Of an untrained network every diagnosis is uncertain.
    settings = tiny_fitted.model_copy(update={"uncertain_below": 0.5})

    def make(folder: Path) -> None:
        made = copied(settings, folder / "store")
        fit.fn(Fit(images=str(nights / "fitted"), batch="slides"), made)

    return settings.model_copy(update={"store": str(kept("with-slides", make) / "store")})


@pytest.fixture
def lab(with_slides: Settings, tmp_path: Path) -> Settings:
    return copied(with_slides, tmp_path / "store")


@pytest.fixture(scope="module")
def after_may(
    nights: Path, with_slides: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    settings = copied(with_slides, tmp_path_factory.mktemp("may") / "store")
    learn(settings, nights / "may")
    return settings


@pytest.fixture
def of_may(after_may: Settings, tmp_path: Path) -> Settings:
    """Settings of a store of one's own, in which the laboratory knows its night of May."""
    return copied(after_may, tmp_path / "store")


def test_a_laboratory_is_commissioned_screened_at_and_loses_a_night(
    nights: Path, lab: Settings
) -> None:
    store = Store(lab.store)
    first = learn(lab, nights / "may")
    assert (first.laboratory, first.nights, first.slides) == ("lab/v0001", 1, 8)
    assert "guess" in first.warnings[0]
    assert first.diagnosis in {"accepted", "not accepted"}
    assert first.report is not None
    page = Path(first.report).read_text()
    assert "lab/v0001" in page
    figures = pq.read_table(first.report.replace(".html", ".parquet")).to_pylist()
    assert {row["part"] for row in figures} == {"false alarms", "caught", "diagnosis"}
    again = learn(lab, nights / "may")
    assert "counts once" in again.changed
    assert again.laboratory == "lab/v0001"

    second = learn(lab, nights / "june")
    assert (second.laboratory, second.nights, second.slides) == ("lab/v0002", 2, 16)

    night = at_lab(lab, nights / "july")
    assert night.laboratory == "lab/v0002"
    for kind in ("images", "slides", "batches"):
        assert set(report_in(lab, kind, "july")["laboratory"].to_pylist()) == {"lab/v0002"}
    (seal,) = list_seals(store, load_batch(store, "july"))
    assert seal.laboratory == "lab/v0002"
    assert "--laboratory lab" in Path(night.page).read_text()

    left = retract.fn(Retract(laboratory="lab", batch="june"), lab)
    assert left.text().startswith("batch june taken out of laboratory lab")
    before, after = (laboratories.load_laboratory_arrays(store, card(store, n)) for n in (1, 3))
    assert before.keys() == after.keys()
    for name in before:
        assert_allclose(after[name], before[name], rtol=1e-10, atol=1e-10)
    # A repeated night keeps the version that it was screened with.
    repeated = at_lab(lab, nights / "july")
    assert repeated.repeated
    assert repeated.laboratory == "lab/v0002"
    (row,) = status(Status(), lab).laboratories
    assert (row["laboratory"], row["version"], row["nights"]) == ("lab", "v0003", "1")
    assert verify(Verify(), lab).damaged == []
    kept = {found.batch.name for found in expired_features(store, now())}
    assert "may" not in kept


def test_negative_slides_give_a_laboratory_error_rates_of_its_own(
    nights: Path, of_may: Settings
) -> None:
    store, healthy = Store(of_may.store), str(nights / "healthy")
    for wrong, said in (("all", "labelled Parasitized"), ("nobody", "no slide or patient nobody")):
        with pytest.raises(LaboratoryError, match=said):
            learn(of_may, nights / "june", negative=wrong)
    assert laboratories.load_laboratory(store, "lab").counting is None
    without = at_lab(of_may, nights / "july", batch="before")
    assert set(without.patients) <= {"indeterminate", "suspected"}

    outcome = learn(of_may, healthy, negative="all")
    laboratory = laboratories.load_laboratory(store, "lab")
    (known,) = (
        Added.from_arrays(laboratories.load_night(store, "lab", n)).errors
        for n in laboratory.nights[1:]
    )
    assert (len(known.slides), known.positives.sum()) == (2, 0)
    # As many as a night at the laboratory reads.
    at_lab(of_may, healthy, batch="screened")
    read = report_in(of_may, "slides", "screened")["cells_read"].to_pylist()
    assert known.negatives.sum() == sum(read)
    detector = detectors.load_detector_card(store, laboratory.detector)
    assert laboratory.counting is not None
    assert detector.counting is not None
    used, fitted = laboratory.counting.counting, detector.counting.counting
    assert used.log_odds == fitted.log_odds
    assert used.false_positives.slides == 2
    assert "2 slides are known to be negative" in laboratory.warnings[-1]
    assert "by 2 negative slides" in outcome.text()
    # Labelled parasites of the first night tell the sensitivity.
    assert used.sensitivity.slides == 2
    assert outcome.report is not None
    assert "false positives, the laboratory" in Path(outcome.report).read_text()

    night = at_lab(of_may, nights / "july")
    reasons = report_in(of_may, "patients", "july")["call_reasons"].to_pylist()
    assert "error rates unknown" not in str(reasons)
    assert "2 negative slides of the laboratory" in Path(night.page).read_text()

    same = learn(of_may, healthy)
    assert "counts once" in same.changed
    learn(of_may, healthy, negative="none")
    assert laboratories.load_laboratory(store, "lab").counting is None
    learn(of_may, healthy, negative="all")
    assert laboratories.load_laboratory(store, "lab").counting == laboratory.counting
    retract.fn(Retract(laboratory="lab", batch="healthy"), of_may)
    assert laboratories.load_laboratory(store, "lab").counting is None
    assert verify(Verify(), of_may).damaged == []


def test_labelled_cells_adapt_the_diagnosis_of_a_laboratories_nights_and_not_its_counts(
    nights: Path, lab: Settings
) -> None:
    store = Store(lab.store)
    outcome = learn(lab, nights / "may")
    laboratory = laboratories.load_laboratory(store, "lab")
    assert laboratory.adaptation is not None
    assert (laboratory.adaptation.cells, laboratory.adaptation.slides) == (72, 2)
    assert "adapted by 72 labelled cells" in outcome.text()
    assert outcome.report is not None
    assert "adapted by 72 labelled cells" in Path(outcome.report).read_text()
    learn(lab, nights / "june")
    both = laboratories.load_laboratory(store, "lab").adaptation
    assert both is not None
    assert (both.cells, both.slides) == (144, 4)
    retract.fn(Retract(laboratory="lab", batch="june"), lab)
    assert laboratories.load_laboratory(store, "lab").adaptation == laboratory.adaptation

    def at(version: int, **changed: Any) -> pa.Table:
        """Screen July at the laboratory, had its labels told this."""
        assert laboratory.adaptation is not None
        told = laboratory.adaptation.model_copy(update=changed)
        made = card(store, 1).model_copy(update={"version": version, "adaptation": told})
        laboratories.save_laboratory(
            store, made, store.read_bytes(*laboratory.folder, "laboratory.safetensors")
        )
        at_lab(lab, nights / "july", batch=f"july{version}")
        return report_in(lab, "images", f"july{version}").sort_by("uri")

    plain = at(7, accepted=False)
    adapted = at(8, accepted=True, scale=2.0, bias=1.0)
    x, y = (logit(rows["probability_Parasitized"].to_numpy()) for rows in (plain, adapted))
    assert_allclose(y, 2 * x + 1, atol=1e-3)
    assert plain["abnormality"].to_pylist() == adapted["abnormality"].to_pylist()
    slides, doubts = [], []
    for version in (7, 8):
        slides.append(report_in(lab, "slides", f"july{version}"))
        doubts += report_in(lab, "batches", f"july{version}")["expected_doubt"].to_pylist()
        page = (Path(lab.store) / "reports" / "html" / f"july{version}.html").read_text()
        assert ("not adapted by 72" in page) == (version == 7)
    for column in ("cells_read", "cells_called"):
        assert slides[0][column].to_pylist() == slides[1][column].to_pylist()
    assert doubts[0] == "other laboratory" != doubts[1]


def test_an_image_counts_once_at_a_laboratory_whatever_its_batch(
    nights: Path, of_may: Settings, tmp_path: Path
) -> None:
    store = Store(of_may.store)
    first = laboratories.load_laboratory(store, "lab")
    for name, size in (("again", 72), ("part", 40)):
        for file in sorted((nights / "may").rglob("*.png"))[:size]:
            (tmp_path / name / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / name / file.parent.name)
    again = learn(of_may, tmp_path / "again")
    assert (again.nights, again.slides, again.cells) == (1, first.slides, first.cells)
    assert [night.batch for night in laboratories.load_laboratory(store, "lab").nights] == ["again"]
    with pytest.raises(LaboratoryError, match="40 of 40 images of batch part are in night again"):
        learn(of_may, tmp_path / "part")
    assert laboratories.load_laboratory(store, "lab").version == 2


@pytest.mark.slow
def test_an_evaluation_judges_slides_at_a_laboratory_without_the_images_of_its_nights(
    nights: Path, of_may: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(composing_stage, "warn", told.append)
    screened = at_lab(of_may, nights / "july")
    for name in ("may", "july"):
        shutil.copytree(nights / name, tmp_path / "ward", dirs_exist_ok=True)
    outcome = evaluate.fn(
        Evaluate(
            images=str(nights / "june"),
            laboratory="lab",
            ood=[f"healthy/ward={tmp_path / 'ward'}", f"healthy/known={nights / 'may'}"],
            attacks=["fgsm"],
            attacked=2,
        ),
        of_may,
    )
    assert (outcome.laboratory, outcome.left_out_of_nights) == ("lab/v0001", 2 * 72)
    assert "without 144 images of its nights" in outcome.text()
    assert told == ["healthy/known: no image is left to judge, so nothing is said of its slides"]
    results = pq.read_table(outcome.results).to_pandas()
    alone = results[(results.share == 0) & (results.composition == "slides")]
    assert set(alone.set) == {HOME, "healthy/ward"}
    ward = alone[alone.set == "healthy/ward"]
    alarms = ward[ward.measure == "false alarms at 0.05, mean of groups"]
    assert set(alarms.detector) == {OWN_NORMAL, LABORATORY_NORMAL, POPULATION}
    # It is what `screen --laboratory` says of the patients that are not of the laboratory's night.
    report = pq.read_table(screened.report).to_pandas()
    called = (report.p_value <= 0.05).groupby(report.patient_id.astype(str)).mean()
    (at_laboratory,) = alarms.value[alarms.detector == LABORATORY_NORMAL]
    assert at_laboratory == pytest.approx(called.mean())
    assert set(ward.detector[ward.measure == "shifted"]) == {OWN_NORMAL, LABORATORY_NORMAL}
    mixed = results[(results.composition == "slides of healthy/ward") & (results.share == 0.1)]
    assert set(mixed.detector) == {OWN_NORMAL, LABORATORY_NORMAL, POPULATION}
    page = Path(outcome.report).read_text()
    assert "lab/v0001" in page
    assert "144" in page
    with pytest.raises(StoreError, match="was commissioned with detector"):
        evaluate.fn(
            Evaluate(images=str(nights / "june"), laboratory="lab", detector="tiny-v0001"), of_may
        )


def card(store: Store, version: int) -> Any:
    return laboratories.load_laboratory_version(store, "lab", version)


def test_what_cannot_be_is_refused_in_a_line(nights: Path, lab: Settings, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no laboratory .moon. in .*slidewatch commission"):
        at_lab(lab, nights / "july", laboratory="moon")
    with pytest.raises(StoreError, match="is no laboratory name"):
        learn(lab, nights / "may", laboratory="../lab")
    (tmp_path / "empty").mkdir()
    with pytest.raises((LaboratoryError, SourceError)):
        learn(lab, tmp_path / "empty")
    assert laboratories.find_laboratory(Store(lab.store), "lab") is None


@pytest.mark.slow
def test_a_laboratory_of_another_detector_or_model_is_refused(
    nights: Path, of_may: Settings
) -> None:
    store = Store(of_may.store)
    known = laboratories.load_laboratory(store, "lab")
    with pytest.raises(LaboratoryError, match="the only night of laboratory lab"):
        retract.fn(Retract(laboratory="lab", batch="may"), of_may)
    with pytest.raises(LaboratoryError, match="night never is not in lab/v0001; there are: may"):
        retract.fn(Retract(laboratory="lab", batch="never"), of_may)
    later = fit.fn(Fit(images=str(nights / "june"), batch="more"), of_may)
    assert later.detector is not None
    with pytest.raises(StoreError, match="was commissioned with detector"):
        at_lab(of_may, nights / "july", detector=later.detector)
    night = at_lab(of_may, nights / "july")
    assert night.detector == known.detector
    # Commissioned again, earlier nights are learned anew with the newer detector.
    both = learn(of_may, nights / "july", detector=later.detector)
    assert (both.laboratory, both.nights) == ("lab/v0002", 2)
    assert laboratories.load_laboratory(store, "lab").detector == later.detector
    other = known.model_copy(update={"version": 3, "model_digest": "other"})
    laboratories.save_laboratory(
        store, other, store.read_bytes(*known.folder, "laboratory.safetensors")
    )
    with pytest.raises(StoreError, match="choose another --laboratory for another model"):
        learn(of_may, nights / "june")
    assert np.isfinite(list(both.false_alarms.values())).all()


def test_one_command_screens_learns_screens_again_and_says_what_is_missing(
    nights: Path, lab: Settings
) -> None:
    healthy = str(nights / "healthy")
    outcome = commission.fn(Commission(images=healthy), lab)
    assert outcome.learned.laboratory == "healthy/v0001"
    # Nobody is called by a laboratory without negative slides.
    assert outcome.laboratory is None
    (missing,) = outcome.missing
    assert f"--batch {outcome.batch} --laboratory healthy --negative NAME; there are " in missing

    with pytest.raises(LaboratoryError, match="if batch two was made there, say --laboratory"):
        commission.fn(Commission(images=healthy, batch="two"), lab)

    outcome = commission.fn(Commission(images=healthy, negative="all"), lab)
    assert outcome.laboratory == outcome.learned.laboratory == "healthy/v0002"
    assert "is positive from" in outcome.missing[0]
    assert f"missing          {outcome.missing[0]}" in outcome.text()
    assert "healthy/v0002" in Path(outcome.page).read_text()
    assert not outcome.failed

    # Another version replaces the report; one that died between the two is finished.
    at = {"images": healthy, "laboratory": "healthy", "batch": outcome.batch}
    learn_batch(Commission(**at, negative="none"), lab)
    learn_batch(Commission(**at, negative="all"), lab)
    assert screen.fn(Screen(**at), lab).laboratory == "healthy/v0002"
    outcome = commission.fn(Commission(**at), lab)
    assert outcome.laboratory == outcome.learned.laboratory == "healthy/v0004"
    assert verify(Verify(), lab).damaged == []


@pytest.mark.slow
def test_error_rates_of_other_cells_call_nobody_until_the_laboratory_is_commissioned_again(
    nights: Path, of_may: Settings
) -> None:
    store = Store(of_may.store)
    learn(of_may, nights / "healthy", negative="all")
    known = laboratories.load_laboratory(store, "lab")
    earlier = [night.model_copy(update={"abnormal_counted": False}) for night in known.nights]
    laboratories.save_laboratory(
        store,
        known.model_copy(update={"version": known.version + 1, "nights": earlier}),
        store.read_bytes(*known.folder, "laboratory.safetensors"),
    )
    at_lab(of_may, nights / "july")
    reasons = report_in(of_may, "patients", "july")["call_reasons"].to_pylist()
    assert "error rates unknown" in str(reasons)
    learn(of_may, nights / "healthy")
    assert laboratories.load_laboratory(store, "lab").counts_abnormal
