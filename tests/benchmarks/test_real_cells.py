"""Measure abnormal images and false alarms of real cells by the population.

The test patients were seen by neither network nor statistics.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from flows.fit import fit
from flows.jobs.verified import load_detector
from flows.options.flows import Fit, Screen, Train
from flows.settings import Settings
from flows.smears.night import screen
from flows.train import train
from storage.batches.features import read_block
from storage.batches.manifests import load_batch, read_manifest
from storage.models.classifiers import load_card
from storage.models.detectors import load_detector_card
from storage.parquet import read_table
from storage.reports.tables import report_path
from storage.store import Store
from tasks.detector.calibration import abnormality, calibrate, log_distance, p_values
from tasks.detector.mahalanobis import nearest_class_distance, tied_gaussian
from tasks.detector.moments import moments
from tasks.network.training import TrainingPlan
from tests.support.measuring import QUICK, Record
from tests.support.needs import needs_data
from tests.support.paths import DATA

EPOCHS, IMAGES = (1, 1000) if QUICK else (TrainingPlan.epochs, None)
AUROC = 0.99  # at least, of every set
SETS = ("bccd_red_cells_masked", "bccd_white_cells", "cifar10", "mnist")

pytestmark = [pytest.mark.benchmark, needs_data("cell_images.zip")]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A store that was trained and fitted, and has screened all cells and all other images."""
    made = Settings(store=str(tmp_path_factory.mktemp("real") / "store"), workers=2)
    cells, other = str(DATA / "cell_images.zip"), str(DATA / "ood.zip")
    train.fn(Train(images=cells, model="m", epochs=EPOCHS, limit=IMAGES), made)
    fit.fn(Fit(images=cells, batch="cells", limit=IMAGES), made)
    screen.fn(Screen(images=cells, batch="cells", limit=IMAGES), made)
    screen.fn(Screen(images=other, batch="other"), made)
    return made


def report(settings: Settings, batch: str) -> pa.Table:
    store = Store(settings.store)
    return read_table(store, *report_path(batch, load_batch(store, batch).batch_date))


def unseen(settings: Settings) -> pa.Table:
    """The report's rows of test patients."""
    card = load_card(Store(settings.store), "m")
    rows = report(settings, "cells")
    mine = pc.is_in(pc.cast(rows["patient_id"], pa.string()), pa.array(card.split["test"]))
    return rows.filter(mine)


def column(rows: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(rows[name].to_numpy(), np.float64)


def population(settings: Settings, rows: pa.Table) -> NDArray[np.float64]:
    """Abnormality by the distance to the population: a set that is a slide is normal to itself."""
    store = Store(settings.store)
    detector = load_detector(store, load_detector_card(store))
    distances = np.stack([column(rows, f"distance_{tap}") for tap in detector.taps], axis=1)
    return abnormality(detector.calibration, log_distance(distances))


def test_other_images_are_abnormal(settings: Settings, record: Record) -> None:
    clean, rows = population(settings, unseen(settings)), report(settings, "other")
    for name in SETS:
        scores = population(settings, rows.filter(pc.match_substring(rows["uri"], f"//{name}/")))
        truth = np.repeat([False, True], [len(clean), len(scores)])
        area = float(roc_auc_score(truth, np.concatenate([clean, scores])))
        record(f"AUROC of {name}", "", ours=[area], limit=AUROC, bound=1.0, higher_is_better=True)


def test_false_alarms_of_unseen_patients(settings: Settings, record: Record) -> None:
    rows = unseen(settings)
    names = rows["patient_id"].to_pylist()
    found = (column(rows, "population_p_value"), _split_calibration(settings))
    for alpha in (0.05, 0.01):
        ours, rival = (by_patient(p <= alpha, names) for p in found)
        what = f"false alarms by patient at {alpha}, leave-one-patient-out"
        record(what, "", ours=[ours], limit=alpha, bound=0.5)
        record(f"{what}, beside held-out patients", "", ours=[ours], rival=[rival])


def by_patient(alarms: NDArray[np.bool_], names: list[str]) -> float:
    """Average the share of false alarms over patients."""
    patients = np.asarray(names)
    return float(np.mean([alarms[patients == name].mean() for name in sorted(set(names))]))


def _split_calibration(settings: Settings) -> NDArray[np.float64]:
    """p-values of the test patients when a fifth of the fitted ones calibrate instead."""
    store = Store(settings.store)
    card, batch = load_card(store, "m"), load_batch(store, "cells")
    names = np.asarray(read_manifest(store, batch)["patient_id"].to_pylist())
    block = read_block(store, "m", "cells", 0, batch.rows)
    shuffled = np.random.default_rng(0).permutation(card.split["train"])
    held = np.isin(names, shuffled[: len(shuffled) // 5])
    fitted = np.isin(names, shuffled[len(shuffled) // 5 :])
    tested = np.isin(names, card.split["test"])
    logs = []
    for features in block.taps.values():
        gaussian = tied_gaussian(moments(features[fitted], block.label[fitted], 2))
        logs.append(log_distance(nearest_class_distance(gaussian, features)))
    distances = np.stack(logs, axis=1)
    _, groups = np.unique(names[held], return_inverse=True)
    calibration = calibrate(distances[held], groups)
    return p_values(calibration, abnormality(calibration, distances[tested]))
