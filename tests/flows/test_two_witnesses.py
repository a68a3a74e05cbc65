"""Two witnesses diagnose, from a fit to the reports; a fitted batch changes what they say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logit

from flows.fit import fit
from flows.jobs.fitting.fitted_rows import slides_of_version
from flows.options.flows import Commission, Fit, Retract, Screen
from flows.retract import retract
from flows.settings import Settings
from flows.smears.commissioning import versions
from flows.smears.night import screen
from storage.batches.features import read_block
from storage.batches.manifests import load_batch, read_manifest
from storage.models.classifiers import find_card
from storage.models.detectors import load_detector, load_detector_card
from storage.reports.sql import answer
from storage.store import Store
from tasks.detector import detector, verdict, witnesses
from tasks.smears.laboratories.adaptation import Change, Fitted, Labelled, Trial, try_adaptation
from tests.support.commissioned import learn, take_out
from tests.support.fitted import copied
from tests.support.images import write_cells

P = 0


def cells(folder: Path, patients: int, first: int, seed: int) -> str:
    write_cells(folder, patients, 40, seed=seed, first=first, parasitized=0.4)
    return str(folder)


@pytest.fixture(scope="module")
def made(by_slides: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a store with a detector of two witnesses, and a screened night."""
    folder = tmp_path_factory.mktemp("witnesses")
    settings = copied(by_slides, folder / "store")
    screen.fn(Screen(images=cells(folder / "night", 3, 30, 5), batch="night"), settings)
    return settings


def of(settings: Settings, name: str | None = None) -> witnesses.Witnesses:
    store = Store(settings.store)
    card = load_detector_card(store, name)
    known = detector.Detector.from_arrays(load_detector(store, card)).witnesses
    assert known is not None
    return known


def rows(settings: Settings, batch: str = "night") -> dict[str, NDArray[Any]]:
    statement = f"select * from images where batch = '{batch}' order by uri"
    with answer(Store(settings.store), statement) as found:
        table = found.read_all()
    return {name: np.asarray(table[name].to_pylist()) for name in table.column_names}


def test_the_discriminant_is_that_of_the_kept_statistics(made: Settings) -> None:
    store = Store(made.store)
    card = load_detector_card(store)
    assert card.witnesses is not None
    assert card.witnesses.taps == ["blocks.2", "blocks.3", "blocks.4"]
    assert sorted(card.taps) == ["blocks.2", "blocks.3"]  # distances have no use for the last one
    # Validation and test patients are those whom neither witness has seen.
    model = find_card(store, "m")
    assert card.witnesses.slides == len(model.held_out)
    assert card.witnesses.cells == 40 * len(model.held_out)
    again = witnesses.discriminant(slides_of_version(store, "m", 1), P)
    assert again.offset == of(made).discriminant.offset


def test_a_night_says_what_each_witness_says_and_where_they_disagree(made: Settings) -> None:
    store, known, found = Store(made.store), of(made), rows(made)
    batch = load_batch(store, "night")
    (folder,) = (Path(made.store) / "features").glob(f"*/{batch.key}.zarr")  # tuned, or not
    block = read_block(store, folder.parent.name, batch.key, 0, batch.rows)
    manifest = read_manifest(store, batch)
    scores = known.discriminant.scores(block.taps)
    healthy = block.logits.argmax(axis=1) != P
    patients = np.asarray(manifest["patient_id"].to_pylist())
    expected = {}
    for patient in np.unique(patients):
        mine = patients == patient
        lean = known.discriminant.lean(scores[mine], healthy[mine])
        said = known.scales.statistics.of(scores[mine] - lean)
        uris = np.asarray(manifest["uri"].to_pylist())[mine]
        expected |= dict(zip(uris.tolist(), (1 / (1 + np.exp(-said))).tolist(), strict=True))
    # The cells of a reference are trimmed: its median moves by little.
    told = np.asarray([expected[uri] for uri in found["uri"].tolist()])
    assert np.abs(told - found["statistics_probability"].astype(float)).max() < 0.1
    apart = (found["network_probability"] > 0.5) != (found["statistics_probability"] > 0.5)
    reasons = [verdict.Reason.DISAGREE in (each or "") for each in found["review_reason"].tolist()]
    assert reasons == apart.tolist()
    assert (found["verdict"][apart] == "review").all()


@pytest.mark.slow
def test_a_fitted_batch_changes_the_diagnosis_and_taking_it_out_changes_it_back(
    made: Settings, tmp_path: Path
) -> None:
    store = Store(made.store)
    first = load_detector(store, load_detector_card(store))
    before = rows(made)
    fit.fn(Fit(images=cells(tmp_path / "more", 3, 60, 9), batch="more"), made)
    images = str(Path(made.store).parent / "night")
    screen.fn(Screen(images=images, batch="after"), made)
    after = rows(made, "after")
    assert (before["network_probability"] != after["network_probability"]).any()  # calibrated anew
    assert (before["statistics_probability"] != after["statistics_probability"]).any()
    retract.fn(Retract(batch="more"), made)
    last = load_detector(store, load_detector_card(store))
    assert first.keys() == last.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, last[name])
    screen.fn(Screen(images=images, batch="again"), made)
    again = rows(made, "again")
    for name in ("probability_Parasitized", "statistics_probability", "p_value"):
        np.testing.assert_array_equal(before[name], again[name])


@pytest.fixture
def lab(made: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A copy of the store, where labelled cells change the statistics, surely better or not."""

    def tried(labelled: Labelled, fitted: Fitted | None) -> Trial | None:
        trial = try_adaptation(labelled, fitted)
        assert trial is not None
        change = Change.by(labelled, fitted, statistics=True, scale=False)
        return replace(trial, change=change)

    monkeypatch.setattr(versions, "try_adaptation", tried)
    monkeypatch.setattr(Trial, "accepted", True)
    return copied(made, tmp_path / "lab")


@pytest.mark.slow
def test_labelled_cells_of_a_laboratory_are_class_statistics_there(
    made: Settings, lab: Settings, tmp_path: Path
) -> None:
    store, fitted = Store(lab.store), of(made)
    may = cells(tmp_path / "may", 3, 100, 11)
    outcome = learn(Commission(images=may, laboratory="lab", batch="may"), lab)
    assert "adapted by the class statistics of 120 labelled cells" in outcome.text()
    first = load_detector_card(store, "lab")
    known = of(lab, "lab").discriminant
    assert first.adaptation is not None
    assert first.adaptation.statistics
    for tap, weights in known.weights.items():
        mine, theirs = (w / np.linalg.norm(w) for w in (weights, fitted.discriminant.weights[tap]))
        assert 0.5 < mine @ theirs < 1 - 1e-6
    # A night of its own adds its cells, and takes them out again to the last bit.
    learn(
        Commission(images=cells(tmp_path / "june", 3, 200, 12), laboratory="lab", batch="june"), lab
    )
    assert of(lab, "lab").discriminant.offset != known.offset
    take_out("lab", "june", lab)
    last = of(lab, "lab").discriminant
    for name, values in known.to_arrays().items():
        np.testing.assert_array_equal(last.to_arrays()[name], values)

    before = rows(lab)
    screen.fn(
        Screen(images=str(Path(made.store).parent / "night"), batch="there", detector="lab"), lab
    )
    there = rows(lab, "there")
    assert (there["statistics_probability"] != before["statistics_probability"]).any()
    said = [logit(there[f"{name}_probability"].astype(float)) for name in ("network", "statistics")]
    both = fitted.scales.both.of(np.minimum(said, witnesses.SUREST).sum(axis=0))
    told = logit(there["probability_Parasitized"].astype(float))
    expected = first.adaptation.scale * both
    rounded = np.abs(expected) > 6  # a probability near 1 is rounded to float32
    np.testing.assert_allclose(told[~rounded], expected[~rounded], atol=2e-3)
    np.testing.assert_array_equal(told > 0, expected > 0)
