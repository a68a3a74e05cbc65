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
from flows.fit import fit
from flows.options.flows import Commission, Evaluate, Fit, Nightly, Screen
from flows.options.tools import Status, Verify
from flows.settings import Settings
from flows.smears.commission import commission
from flows.smears.commissioning.laboratory import LaboratoryError
from flows.smears.commissioning.report import LaboratoryOutcome
from flows.smears.evaluate import evaluate
from flows.smears.jobs.laboratory_slides import Added
from flows.smears.night import NightOutcome, nightly, screen
from storage.batches.ledger import list_seals
from storage.batches.manifests import load_batch
from storage.models import detectors
from storage.records import now
from storage.retention import expired_features
from storage.smears.learned import load_night
from storage.store import Store, StoreError
from tasks.images.listing import SourceError
from tests.support.commissioned import learn as learn_batch
from tests.support.commissioned import take_out
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


def at_lab(settings: Settings, images: str | Path, **given: Any) -> NightOutcome:
    """Screen a night by the newest detector of the laboratory `lab`."""
    usual: dict[str, Any] = {"images": str(images), "detector": "lab", "batch": Path(images).name}
    return screen.fn(Screen(**usual | given), settings)


def newest(store: Store) -> detectors.DetectorCard:
    """The card of the laboratory's newest detector."""
    return detectors.load_detector_card(store, "lab")


def card(store: Store, version: int) -> detectors.DetectorCard:
    """The card of one of the laboratory's detectors."""
    return detectors.load_detector_card(store, f"lab-v{version:04d}")


def keep(store: Store, made: detectors.DetectorCard, like: detectors.DetectorCard) -> None:
    """Keep a detector with the arrays of another."""
    content = store.read_bytes("detectors", like.name, "detector.safetensors")
    detectors.save_detector(store, made, content)


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


def test_at_a_commissioned_laboratory_the_company_of_others_changes_no_row_of_a_patient(
    nights: Path, of_may: Settings, tmp_path: Path
) -> None:
    def rows(batch: str, kind: str) -> list[dict[str, Any]]:
        table = report_in(of_may, kind, batch)
        left_out = {"batch", "scored_at", "detector"}
        return [
            {name: value for name, value in row.items() if name not in left_out}
            for row in table.to_pylist()
        ]

    together = tmp_path / "together"
    for night in ("june", "healthy"):
        shutil.copytree(nights / night, together / night)
    at_lab(of_may, nights / "june")
    at_lab(of_may, together)
    for kind in ("slides", "patients"):
        alone = rows("june", kind)
        theirs = [row for row in rows("together", kind) if row["patient_id"] in {
            each["patient_id"] for each in alone
        }]  # fmt: skip
        assert len(alone) > 1
        assert alone == theirs


@pytest.mark.slow
def test_a_laboratory_is_commissioned_screened_at_and_loses_a_night(
    nights: Path, lab: Settings
) -> None:
    store = Store(lab.store)
    first = learn(lab, nights / "may")
    assert (first.detector, first.nights, first.slides) == ("lab-v0001", 1, 8)
    assert "guess" in first.warnings[0]
    assert first.diagnosis in {"accepted", "not accepted"}
    assert first.report is not None
    page = Path(first.report).read_text()
    assert "lab-v0001" in page
    figures = pq.read_table(first.report.replace(".html", ".parquet")).to_pylist()
    assert {row["part"] for row in figures} == {"false alarms", "caught", "diagnosis"}
    again = learn(lab, nights / "may")
    assert "counts once" in again.changed
    assert again.detector == "lab-v0001"

    second = learn(lab, nights / "june")
    assert (second.detector, second.nights, second.slides) == ("lab-v0002", 2, 16)

    night = at_lab(lab, nights / "july")
    assert night.detector == "lab-v0002"
    for kind in ("images", "slides", "batches"):
        assert set(report_in(lab, kind, "july")["detector"].to_pylist()) == {"lab-v0002"}
    (seal,) = list_seals(store, load_batch(store, "july"))
    assert seal.detector == "lab-v0002"
    assert "--detector lab-v0002" in Path(night.page).read_text()

    left = take_out("lab", "june", lab)
    assert left.text().startswith("batch june taken out of laboratory lab")
    before, after = (detectors.load_detector(store, card(store, n)) for n in (1, 3))
    assert before.keys() == after.keys()
    for name in before:
        assert_allclose(after[name], before[name], rtol=1e-10, atol=1e-10)
    # A repeated night keeps the version that it was screened with.
    repeated = at_lab(lab, nights / "july")
    assert repeated.repeated
    assert repeated.detector == "lab-v0002"
    row = next(row for row in status(Status(), lab).detectors if row["detector"] == "lab-v0003")
    assert (row["parent"], row["made by"]) == (card(store, 1).parent, "unlearn june")
    assert row["learned"].items() > {"batch": 1, "slide": 8}.items()
    assert verify(Verify(), lab).damaged == []
    kept = {found.batch.name for found in expired_features(store, now())}
    assert "may" not in kept


@pytest.mark.slow
def test_negative_slides_give_a_laboratory_error_rates_of_its_own(
    nights: Path, of_may: Settings
) -> None:
    store, healthy = Store(of_may.store), str(nights / "healthy")
    for wrong, said in (("all", "labelled Parasitized"), ("nobody", "no slide or patient nobody")):
        with pytest.raises(LaboratoryError, match=said):
            learn(of_may, nights / "june", negative=wrong)
    assert newest(store).counting is None
    without = at_lab(of_may, nights / "july", batch="before")
    assert set(without.patients) <= {"indeterminate", "suspected"}

    outcome = learn(of_may, healthy, negative="all")
    laboratory = newest(store)
    (known,) = (
        Added.from_arrays(load_night(store, "lab", n)).errors for n in laboratory.nights[1:]
    )
    assert (len(known.slides), known.positives.sum()) == (2, 0)
    # As many as a night at the laboratory reads.
    at_lab(of_may, healthy, batch="screened")
    read = report_in(of_may, "slides", "screened")["cells_read"].to_pylist()
    assert known.negatives.sum() == sum(read)
    detector = detectors.load_detector_card(store, laboratory.parent)
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
    assert "of 2 patients or slides; limit" in Path(night.page).read_text()

    same = learn(of_may, healthy)
    assert "counts once" in same.changed
    learn(of_may, healthy, negative="none")
    assert newest(store).counting is None
    learn(of_may, healthy, negative="all")
    assert newest(store).counting == laboratory.counting
    take_out("lab", "healthy", of_may)
    assert newest(store).counting is None
    assert verify(Verify(), of_may).damaged == []


@pytest.mark.slow
def test_labelled_cells_adapt_the_diagnosis_of_a_laboratories_nights_and_not_its_counts(
    nights: Path, lab: Settings
) -> None:
    store = Store(lab.store)
    outcome = learn(lab, nights / "may")
    laboratory = newest(store)
    assert laboratory.adaptation is not None
    assert (laboratory.adaptation.cells, laboratory.adaptation.slides) == (72, 2)
    assert "adapted by 72 labelled cells" in outcome.text()
    assert outcome.report is not None
    assert "adapted by 72 labelled cells" in Path(outcome.report).read_text()
    learn(lab, nights / "june")
    both = newest(store).adaptation
    assert both is not None
    assert (both.cells, both.slides) == (144, 4)
    take_out("lab", "june", lab)
    assert newest(store).adaptation == laboratory.adaptation

    def at(version: int, **changed: Any) -> pa.Table:
        """Screen July at the laboratory, had its labels told this."""
        assert laboratory.adaptation is not None
        told = laboratory.adaptation.model_copy(update=changed)
        named = {"name": f"lab-v{version:04d}", "adaptation": told}
        keep(store, card(store, 1).model_copy(update=named), laboratory)
        at_lab(lab, nights / "july", batch=f"july{version}")
        return report_in(lab, "images", f"july{version}").sort_by("uri")

    plain = at(7, accepted=False)
    adapted = at(8, accepted=True, scale=2.0, bias=1.0)
    x, y = (logit(rows["probability_Parasitized"].to_numpy()) for rows in (plain, adapted))
    assert_allclose(y, 2 * x + 1, atol=1e-3)
    assert plain["abnormality"].to_pylist() == adapted["abnormality"].to_pylist()
    slides = []
    for version in (7, 8):
        slides.append(report_in(lab, "slides", f"july{version}"))
        page = (Path(lab.store) / "reports" / "html" / f"july{version}.html").read_text()
        assert ("not adapted by 72" in page) == (version == 7)
    for column in ("cells_read", "cells_called"):
        assert slides[0][column].to_pylist() == slides[1][column].to_pylist()


def test_an_image_counts_once_at_a_laboratory_whatever_its_batch(
    nights: Path, of_may: Settings, tmp_path: Path
) -> None:
    store = Store(of_may.store)
    first = newest(store)
    for name, size in (("again", 72), ("part", 40)):
        for file in sorted((nights / "may").rglob("*.png"))[:size]:
            (tmp_path / name / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / name / file.parent.name)
    again = learn(of_may, tmp_path / "again")
    assert (again.nights, again.slides, again.cells) == (
        1,
        first.learned.slides,
        first.learned.cells,
    )
    assert [night.batch for night in newest(store).nights] == ["again"]
    with pytest.raises(LaboratoryError, match="40 of 40 images of batch part are in night again"):
        learn(of_may, tmp_path / "part")
    with pytest.raises(StoreError, match="lab-v0002 was commissioned, and only fitted ones are"):
        evaluate.fn(Evaluate(images=str(nights / "june"), detector="lab"), of_may)
    assert newest(store).name == "lab-v0002"


def test_what_cannot_be_is_refused_in_a_line(nights: Path, lab: Settings, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no detector .moon. in "):
        at_lab(lab, nights / "july", detector="moon")
    with pytest.raises(StoreError, match=r"no laboratory .moon. in .*slidewatch commission"):
        take_out("moon", "may", lab)
    with pytest.raises(StoreError, match="is no laboratory name"):
        learn(lab, nights / "may", laboratory="../lab")
    (tmp_path / "empty").mkdir()
    with pytest.raises((LaboratoryError, SourceError)):
        learn(lab, tmp_path / "empty")
    assert detectors.find_detector(Store(lab.store), "lab") is None
    with pytest.raises(LaboratoryError, match="is a detector, and a laboratory of the name tiny"):
        learn(lab, nights / "may", laboratory="tiny")


@pytest.mark.slow
def test_a_laboratory_of_another_detector_or_model_is_refused(
    nights: Path, of_may: Settings
) -> None:
    store = Store(of_may.store)
    known = newest(store)
    with pytest.raises(LaboratoryError, match="the only night of laboratory lab"):
        take_out("lab", "may", of_may)
    with pytest.raises(LaboratoryError, match="night never is not in lab-v0001; there are: may"):
        take_out("lab", "never", of_may)
    later = fit.fn(Fit(images=str(nights / "june"), batch="more"), of_may)
    assert later.detector is not None
    with pytest.raises(LaboratoryError, match=f"--detector {known.parent}"):
        learn(of_may, nights / "july", detector="lab")
    # Commissioned again, earlier nights are learned anew with the newer detector.
    both = learn(of_may, nights / "july", detector=later.detector)
    assert (both.detector, both.nights) == ("lab-v0002", 2)
    assert newest(store).parent == later.detector
    keep(store, known.model_copy(update={"name": "lab-v0003", "model_digest": "other"}), known)
    with pytest.raises(StoreError, match="choose another --laboratory for another model"):
        learn(of_may, nights / "june")
    assert np.isfinite(list(both.false_alarms.values())).all()


def test_one_command_screens_learns_screens_again_and_says_what_is_missing(
    nights: Path, lab: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlabelled = nights / "healthy" / "Uninfected"
    healthy = str(shutil.copytree(unlabelled, tmp_path / "healthy"))
    outcome = commission.fn(Commission(images=healthy), lab)
    assert outcome.learned.detector == "healthy-v0001"
    # Nobody is called by a laboratory without negative slides.
    parent = detectors.load_detector_card(Store(lab.store)).name
    assert outcome.detector == parent
    (missing,) = outcome.missing
    assert f"--batch {outcome.batch} --laboratory healthy --negative NAME; there are " in missing
    with pytest.raises(LaboratoryError, match="if batch two was made there, say --laboratory"):
        commission.fn(Commission(images=healthy, batch="two"), lab)

    outcome = commission.fn(Commission(images=healthy, negative="all"), lab)
    assert outcome.detector == outcome.learned.detector == "healthy-v0002"
    assert "is positive from" in outcome.missing[0]
    assert f"missing          {outcome.missing[0]}" in outcome.text()
    assert "healthy-v0002" in Path(outcome.page).read_text()
    assert not outcome.failed
    # A night of the same photographs is called alike, if it names the laboratory.
    there = nightly.fn(Nightly(inbox=healthy, detector="healthy", settle=0), lab)
    assert (there.detector, there.patients) == (outcome.detector, outcome.patients)
    capsys.readouterr()
    anew = nightly.fn(Nightly(inbox=healthy, series="other", settle=0), lab)
    assert anew.detector == parent
    assert (
        "the laboratory is commissioned, name it (healthy) as --detector" in capsys.readouterr().err
    )
    # Another version replaces the report; one that died between the two is finished.
    at = {"images": healthy, "laboratory": "healthy", "batch": outcome.batch}
    learn_batch(Commission(**at, negative="none"), lab)
    learn_batch(Commission(**at, negative="all"), lab)
    with pytest.raises(LaboratoryError, match=r"name the negative slides of .*: --negative all"):
        learn_batch(Commission(**at | {"batch": "other"}), lab)
    for wanted in (None, "healthy", "healthy-v0002"):  # the batch keeps its own
        again = screen.fn(Screen(images=healthy, batch=outcome.batch, detector=wanted), lab)
        assert again.repeated
        assert again.detector == "healthy-v0002"
    outcome = commission.fn(Commission(**at), lab)
    assert outcome.detector == outcome.learned.detector == "healthy-v0004"
    other = Screen(images=healthy, batch=outcome.batch, detector=parent)
    with pytest.raises(StoreError, match=f"made by healthy-v0004: --force .* by one of {parent}"):
        screen.fn(other, lab)
    assert screen.fn(other.model_copy(update={"force": True}), lab).detector == parent
    assert verify(Verify(), lab).damaged == []


def test_a_batch_that_was_begun_resumes_by_the_detector_of_its_beginning(
    nights: Path, of_may: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flows.screen.publish", killed)
        with pytest.raises(KeyboardInterrupt):
            at_lab(of_may, nights / "july")
    learn(of_may, nights / "june")
    assert newest(Store(of_may.store)).name == "lab-v0002"
    assert at_lab(of_may, nights / "july").detector == "lab-v0001"
    forced = at_lab(of_may, nights / "july", force=True)
    assert forced.detector == "lab-v0002"
