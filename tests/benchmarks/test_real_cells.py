"""Measure abnormal images and false alarms of real cells by the population.

A seed splits the patients anew. The test patients were seen by neither network nor statistics.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from numpy.typing import NDArray

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
from tasks.metrics.metrics import detection, resampled, share
from tasks.network.training import TrainingPlan
from tests.support.measuring import QUICK, Record
from tests.support.needs import needs_data
from tests.support.paths import DATA

SEEDS = (0,)  # training takes most of the time
EPOCHS, IMAGES = (1, 1000) if QUICK else (TrainingPlan.epochs, None)
AUROC = 0.99  # at least, of every set
SETS = ("bccd_red_cells_masked", "bccd_white_cells", "cifar10", "mnist")

pytestmark = [pytest.mark.benchmark, needs_data("cell_images.zip")]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Settings]:
    """A store for each seed: trained, fitted, all cells and all other images screened."""
    made = {}
    for seed in SEEDS:
        settings = Settings(store=str(tmp_path_factory.mktemp(f"seed-{seed}")), workers=2)
        cells, other = str(DATA / "cell_images.zip"), str(DATA / "ood.zip")
        trained = train.fn(
            Train(images=cells, model="m", epochs=EPOCHS, seed=seed, limit=IMAGES), settings
        )
        print(f"\nseed {seed}: {trained.text()}")
        print(fit.fn(Fit(images=cells, batch="cells", limit=IMAGES), settings).text())
        screen.fn(Screen(images=cells, batch="cells", limit=IMAGES), settings)
        screen.fn(Screen(images=other, batch="other"), settings)
        made[seed] = settings
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


def test_other_images_are_abnormal(seeds: dict[int, Settings], record: Record) -> None:
    areas: dict[str, list[float]] = {name: [] for name in SETS}
    print(f"\n{'set':<24}{'seed':>5}{'AUROC':>8}{'TNR95':>8}{'caught at .05':>15}")
    for seed, settings in seeds.items():
        clean = population(settings, unseen(settings))
        rows = report(settings, "other")
        for name in SETS:
            mine = rows.filter(pc.match_substring(rows["uri"], f"//{name}/"))
            scores = population(settings, mine)
            truth = np.r_[np.zeros(len(clean), bool), np.ones(len(scores), bool)]
            both = np.r_[clean, scores]
            caught = np.mean(column(mine, "population_p_value") <= 0.05)
            found = {metric: float(value[0]) for metric, value in detection(truth, both).items()}
            print(
                f"{name:<24}{seed:>5}{found['AUROC']:>8.4f}{found['TNR at 95% TPR']:>8.3f}"
                f"{caught:>15.3f}"
            )
            areas[name].append(found["AUROC"])
    for name, mine in areas.items():
        record(f"AUROC of {name}", "", ours=mine, limit=AUROC, higher_is_better=True)
    assert QUICK or min(min(mine) for mine in areas.values()) > AUROC


def test_false_alarms_of_unseen_patients(seeds: dict[int, Settings], record: Record) -> None:
    found: dict[str, list[tuple[NDArray[np.float64], NDArray[np.int64]]]] = {
        "leave-one-patient-out": [],
        "held-out patients": [],
    }
    for seed, settings in seeds.items():
        rows = unseen(settings)
        _, patients = np.unique(rows["patient_id"].to_pylist(), return_inverse=True)
        patients = patients + 1000 * seed
        found["leave-one-patient-out"].append((column(rows, "population_p_value"), patients))
        found["held-out patients"].append((_split_calibration(settings, seed), patients))
    print(f"\n{'calibration':<24}{'alpha':>6}{'by patient':>28}{'by image':>28}")
    for alpha in (0.05, 0.01):
        alarms = []
        for method, parts in found.items():
            p = np.concatenate([values for values, _ in parts])
            patients = np.concatenate([numbers for _, numbers in parts])
            alarm = (p <= alpha).astype(float)
            by_patient = np.asarray([alarm[patients == k].mean() for k in np.unique(patients)])
            a = share(by_patient, resampled(np.arange(len(by_patient))))
            b = share(alarm, resampled(patients))
            alarms.append(a.value)
            print(
                f"{method:<24}{alpha:>6}"
                + "".join(f"{f'{x.value:.3f} ({x.low:.3f} to {x.high:.3f})':>28}" for x in (a, b))
            )
        what = f"false alarms by patient at {alpha}, leave-one-patient-out"
        record(what, "", ours=alarms[:1], limit=alpha, bound=0.5)
        record(f"{what}, beside held-out patients", "", ours=alarms[:1], rival=alarms[1:])


def _split_calibration(settings: Settings, seed: int) -> NDArray[np.float64]:
    """p-values of the test patients when a fifth of the fitted ones calibrate instead."""
    store = Store(settings.store)
    card, batch = load_card(store, "m"), load_batch(store, "cells")
    names = np.asarray(read_manifest(store, batch)["patient_id"].to_pylist())
    block = read_block(store, "m", "cells", 0, batch.rows)
    shuffled = np.random.default_rng(seed).permutation(card.split["train"])
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
